//! `buildgrid token`: what workers, Maestro and scripts call the timeline service with.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use time::OffsetDateTime;

use super::exit::{Exit, Failure};
use super::people::{LoginName, NamespacesArgs, data_dir, list, open, shown};
use crate::config::Config;
use crate::web::access::{Principal, Role, Secret};
use crate::web::db::Database;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token, which is shown once
    #[command(after_help = "Examples: a worker's, into a file that only its owner can read; Maestro's\n\n  \
        (umask 077; buildgrid token add builder-1 --role worker --all-namespaces --quiet > timeline.token)\n  \
        buildgrid token add maestro --role maestro --namespace acme")]
    Add {
        name: LoginName,
        /// worker claims and reports builds; maestro sees, builds and reports deploys; member sees and
        /// builds; viewer sees; admin is for people
        #[arg(long, value_parser = role)]
        role: Role,
        #[command(flatten)]
        namespaces: NamespacesArgs,
        /// Print the token alone
        #[arg(long)]
        quiet: bool,
    },
    /// List the tokens
    #[command(after_help = "Example:\n\n  \
        buildgrid token list --json | jq -r '.[] | select(.role == \"worker\") | .name'")]
    List {
        #[arg(long)]
        json: bool,
    },
    /// Remove a token, which is refused from now on
    #[command(after_help = "Example:\n\n  buildgrid token remove builder-1")]
    Remove { name: LoginName },
}

/// Who changes what may be pulled is asked for a password.
fn role(text: &str) -> Result<Role, String> {
    match text.parse::<Role>() {
        Ok(Role::Admin) => Err("admin is a role for people (`buildgrid user add`)".to_owned()),
        Ok(role) => Ok(role),
        Err(error) => Err(error.to_string()),
    }
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let output = execute(args.command, &data_dir(config)).await?;
    std::io::stdout().lock().write_all(output.as_bytes()).context("write to the terminal")?;
    Ok(Exit::Done)
}

async fn execute(command: Command, data_dir: &Path) -> Result<String, Failure> {
    let database = open(data_dir).await?;
    let done = act(command, &database).await;
    database.close().await;
    done
}

async fn act(command: Command, database: &Database) -> Result<String, Failure> {
    match command {
        Command::Add { name, role, namespaces, quiet } => {
            let secret = Secret::token();
            let principal = Principal { name: name.to_string(), role, namespaces: namespaces.namespaces() };
            let sees = shown(&principal.namespaces);
            if !database.add_token(principal, &secret, OffsetDateTime::now_utc()).await? {
                return Err(Failure::usage(anyhow!(
                    "there is a token {name} already; `buildgrid token remove {name}` removes it"
                )));
            }
            let token = secret.expose();
            Ok(match quiet {
                true => format!("{token}\n"),
                false => format!(
                    "token       {token}\nname        {name}\nrole        {role}\nnamespaces  {sees}\n\n\
                     The token is not shown again. Write it into a file with mode 0600 and name that as \
                     timeline.token_file.\n"
                ),
            })
        }
        Command::List { json } => {
            Ok(list(&database.tokens().await?, json, "no tokens; `buildgrid token add <name>` makes one"))
        }
        Command::Remove { name } => match database.remove_token(name.to_string()).await? {
            true => Ok(format!("removed {name}\n")),
            false => {
                Err(Failure::usage(anyhow!("there is no token {name}; `buildgrid token list` shows them")))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};
    use serde_json::Value;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        token: Args,
    }

    async fn run(data_dir: &Path, line: &str) -> Result<String, Failure> {
        let words = std::iter::once("token").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(Failure::usage)?;
        execute(cli.token.command, data_dir).await
    }

    #[tokio::test]
    async fn a_token_is_made_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_owned();
        Database::open(folder.path()).await.unwrap().close().await;
        let token = run(&place, "add builder-1 --role worker --all-namespaces --quiet").await.unwrap();
        assert!(token.starts_with("bgt_") && token.len() == 4 + 32 + 1, "{token}");
        let added = run(&place, "add maestro --role maestro --namespace acme").await.unwrap();
        assert!(added.starts_with("token       bgt_") && added.contains("namespaces  acme\n"), "{added}");
        let taken = run(&place, "add maestro --role viewer --namespace acme").await.unwrap_err();
        assert!(taken.exit == Exit::Usage && taken.error.to_string().contains("token remove maestro"));

        let listed = run(&place, "list --json").await.unwrap();
        assert!(!listed.contains("bgt_"), "{listed}");
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!((&listed[0]["name"], &listed[1]["role"]), (&"builder-1".into(), &"maestro".into()));
        assert_eq!(run(&place, "remove builder-1").await.unwrap(), "removed builder-1\n");
        assert_eq!(run(&place, "remove builder-1").await.unwrap_err().exit, Exit::Usage);
        for wrong in ["add x --all-namespaces", "add x --role root --all-namespaces", "add x --role worker"] {
            assert_eq!(run(&place, wrong).await.unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn every_help_shows_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(
                command.get_after_help().is_some_and(|help| help.to_string().contains("buildgrid token"))
            );
        }
    }
}
