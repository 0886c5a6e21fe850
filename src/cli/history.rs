//! `buildgrid history`: what the timeline service keeps, and for how long.

use std::io::Write;

use bytesize::ByteSize;
use clap::Subcommand;
use time::OffsetDateTime;

use super::exit::{Exit, Failure};
use super::people::{data_dir, open};
use crate::config::Config;
use crate::store::{Store, StoreConfig};
use crate::up;
use crate::web::history::{Pruned, Round};

/// How long the logs of builds and deploys are kept
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove the logs that are older than the section `history` keeps them
    ///
    /// The service does so every hour by itself. This works on its database, on its machine, beside it. Builds and
    /// deploys stay in the history, and say that their log was removed.
    #[command(after_help = "\
Examples:
  buildgrid history prune --dry-run
  BUILDGRID_HISTORY__KEEP_LOGS=30days buildgrid history prune --dry-run
  buildgrid history prune --json | jq -s 'map(.bytes) | add'")]
    Prune {
        /// Only tell what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Print JSON, one app a line
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    execute(args, config, &mut super::output::stdout()).await
}

async fn execute(args: Args, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let Command::Prune { dry_run, json } = args.command;
    let store = store(up::adopted(config).as_ref().unwrap_or(config).store.clone()).await?;
    let database = open(&data_dir(config)).await?;
    let round = Round {
        database: &database,
        store: store.as_ref(),
        limits: config.history,
        now: OffsetDateTime::now_utc(),
        dry_run,
    };
    let pruned = round.prune().await;
    database.close().await;
    let apps = pruned.map_err(anyhow::Error::from)?;
    match json {
        true => apps.iter().try_for_each(|app| {
            writeln!(out, "{}", serde_json::to_string(app).map_err(std::io::Error::from)?)
        })?,
        false => out.write_all(told(&apps, dry_run, store.is_some()).as_bytes())?,
    }
    Ok(Exit::Done)
}

/// The store, if it can be read here.
async fn store(config: StoreConfig) -> Result<Option<Store>, Failure> {
    Ok(tokio::task::spawn_blocking(move || Store::open_read_only(&config)).await?.ok())
}

fn told(apps: &[Pruned], dry_run: bool, sees_images: bool) -> String {
    let done = if dry_run { "would remove" } else { "removed" };
    let (mut text, mut logs, mut bytes, mut kept) = (String::new(), 0, 0, 0);
    for Pruned { namespace, app, logs: of_app, bytes: size, with_images } in apps {
        (logs, bytes, kept) = (logs + of_app, bytes + size, kept + with_images);
        if *of_app > 0 {
            text += &format!("{namespace}/{app}: {of_app}, {}\n", ByteSize(*size).display().iec());
        }
    }
    let noun = if logs == 1 { "log" } else { "logs" };
    text += &format!("{done} {logs} {noun}, {}\n", ByteSize(bytes).display().iec());
    if kept > 0 {
        let why = match sees_images {
            true => "their images are in the store",
            false => "no store can be read here that would tell whether their images are there",
        };
        text += &format!("{kept} more are as old and stay: {why} (history.keep_with_images)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_went_and_what_stays() {
        let app = |app: &str, logs, with_images| Pruned {
            namespace: "acme".parse().unwrap(),
            app: app.parse().unwrap(),
            logs,
            bytes: logs * 1024,
            with_images,
        };
        let apps = [app("shop", 3, 2), app("mail", 0, 1)];
        assert_eq!(
            told(&apps, false, true),
            "acme/shop: 3, 3.0 KiB\nremoved 3 logs, 3.0 KiB\n3 more are as old and stay: their images are in the store \
             (history.keep_with_images)\n"
        );
        assert!(told(&apps, true, false).contains("would remove 3 logs"));
        assert_eq!(told(&[], false, true), "removed 0 logs, 0 B\n");
    }
}
