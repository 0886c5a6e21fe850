//! The commands: one file each. A command reads its arguments, calls the library and says what came of it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use self::exit::{Exit, Failure};
use self::reload::File;

mod build;
pub mod builds;
pub mod cancel;
mod check;
pub mod credential;
mod daemon;
pub mod dead_letters;
pub mod enqueue;
mod event;
pub mod exit;
mod follow;
mod history;
pub mod logs;
mod output;
mod pause;
mod people;
mod permission;
pub mod progress;
pub mod rebuild;
mod registry;
mod reload;
pub mod service;
mod shutdown;
mod store;
mod timeline;
pub mod token;
mod up;
pub mod user;
mod worker;

/// Builds the commits of deploy events into pullable Docker images and serves them read-only.
#[derive(Parser)]
#[command(name = "buildgrid", version, after_help = exit::HELP)]
pub struct Cli {
    /// The configuration file [default: $BUILDGRID_CONFIG, ./worker-config.toml, /etc/buildgrid/worker-config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Args),
    Worker(worker::Args),
    Registry(registry::Args),
    Timeline(timeline::Args),
    Enqueue(enqueue::Args),
    Build(build::Args),
    Builds(builds::Args),
    Logs(logs::Args),
    Cancel(cancel::Args),
    Rebuild(rebuild::Args),
    Check(check::Args),
    /// Make, rotate, list and remove the logins of the registry
    Credential(credential::CredentialArgs),
    /// Make, list and remove the dashboard's logins
    User(user::Args),
    /// Make, list and remove the tokens of workers, of Maestro and of scripts
    Token(token::Args),
    History(history::Args),
    Store(store::Args),
    DeadLetters(dead_letters::Args),
}

/// Runs a command.
pub async fn run(cli: Cli) -> Result<Exit, Failure> {
    let file = File(cli.config);
    let (path, loaded) = file.load();
    if let Command::Check(args) = cli.command {
        return check::run(args, path.as_deref(), loaded).await;
    }
    let config = loaded.map_err(|error| Failure::new(Exit::Configuration, error))?;
    let daemon = match &cli.command {
        Command::Up(_) | Command::Registry(_) | Command::Timeline(_) => true,
        Command::Worker(args) => args.is_daemon(),
        _ => false,
    };
    crate::telemetry::logging::init(&config.logging, daemon)
        .map_err(|error| Failure::new(Exit::Configuration, error))?;
    match cli.command {
        // Boxed: the whole way of a build is a large future.
        Command::Up(args) => Box::pin(up::run(args, &config, file)).await,
        Command::Worker(args) => worker::run(args, &config, file).await,
        Command::Registry(args) => registry::run(args, &config, file).await,
        Command::Timeline(args) => timeline::run(args, &config, file).await,
        Command::Enqueue(args) => enqueue::run(args, &config).await,
        // Boxed: the whole way of a build is a large future.
        Command::Build(args) => Box::pin(build::run(args, &config)).await,
        Command::Builds(args) => builds::run(args, &config).await,
        Command::Logs(args) => logs::run(args, &config).await,
        Command::Cancel(args) => cancel::run(args, &config).await,
        Command::Rebuild(args) => rebuild::run(args, &config).await,
        Command::User(args) => user::run(args, &config).await,
        Command::Token(args) => token::run(args, &config).await,
        Command::Credential(args) => {
            let config = crate::up::adopted(&config).unwrap_or(config);
            credential::run(args, &config.store, &config.registry.host).await.map(|()| Exit::Done)
        }
        Command::History(args) => history::run(args, &config).await,
        Command::Store(args) => store::run(args, &config).await,
        Command::DeadLetters(args) => dead_letters::run(args, &config).await,
        Command::Check(_) => unreachable!("answered above"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn units_run_commands_that_there_are() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
        let mut commands = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let unit = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let started = unit.lines().filter_map(|line| line.strip_prefix("ExecStart="));
            for command in started {
                let command = command.strip_prefix("/usr/bin/").unwrap().to_owned();
                assert!(Cli::try_parse_from(command.split(' ')).is_ok(), "{command}");
                commands.push(command);
            }
        }
        commands.sort();
        let expected = ["registry", "store gc", "store scrub", "timeline", "worker"];
        assert_eq!(commands, expected.map(|command| format!("buildgrid {command}")));
    }
}
