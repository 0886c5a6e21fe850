//! `buildgrid store`: looks into the store, collects what nobody needs, and verifies the rest.

mod du;
mod gc;
mod ls;
mod scrub;

use bytesize::ByteSize;
use clap::Subcommand;

use super::exit::{Exit, Failure};
use super::permission;
use crate::config::Config;
use crate::store::{MENDS, Store, StoreConfig, StoreError, Unread};
use crate::up;

/// Look into the store of images, collect what no image needs, and verify the rest
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Args),
    Du(du::Args),
    Gc(gc::Args),
    Scrub(scrub::Args),
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let config = up::adopted(config).unwrap_or_else(|| config.clone());
    let out = &mut super::output::stdout();
    match args.command {
        Command::Ls(args) => ls::run(args, &config, out).await,
        Command::Du(args) => du::run(args, &config, out).await,
        Command::Gc(args) => gc::run(args, &config, out).await,
        Command::Scrub(args) => scrub::run(args, &config, out).await,
    }
}

/// Opens the store, which must be there, and does something with it that blocks.
async fn with_store<T: Send + 'static>(
    config: &StoreConfig,
    open: fn(&StoreConfig) -> Result<Store, StoreError>,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    let config = config.clone();
    let done = tokio::task::spawn_blocking(move || {
        let denied = config.directory().and_then(|path| permission::denied(&path.join("buildgrid")));
        if let Some(denied) = denied {
            return Err(Failure::new(Exit::Configuration, anyhow::anyhow!(denied)));
        }
        let store = open(&config).map_err(|error| {
            let is_away = matches!(error, StoreError::Object { .. });
            Failure::new(if is_away { Exit::Unavailable } else { Exit::Configuration }, error)
        })?;
        work(&store).map_err(failure)
    });
    done.await?
}

fn failure(error: StoreError) -> Failure {
    let cause = match &error {
        StoreError::TooMuchUnread { last, .. } => last,
        error => error,
    };
    let exit = match cause {
        StoreError::Busy => Exit::Busy,
        StoreError::Object { .. } => Exit::Unavailable,
        StoreError::ReadOnly { .. } | StoreError::Refused { .. } | StoreError::Unusable { .. } => {
            Exit::Configuration
        }
        _ => Exit::Internal,
    };
    Failure::new(exit, error)
}

/// How a listing ends: with an error where some of it is missing.
fn all_read(unread: &[Unread]) -> Result<Exit, Failure> {
    match unread {
        [] => Ok(Exit::Done),
        [..] => {
            let unread = unread.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
            let said = format!("not all is shown:\n  {unread}\nhelp: {MENDS}");
            Err(Failure::new(Exit::Internal, anyhow::anyhow!(said)))
        }
    }
}

/// `12.3 MiB`
fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// `1 blob`, `2 blobs`
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_from_which_something_is_missing_ends_with_its_name_and_what_helps() {
        assert_eq!(all_read(&[]).unwrap(), Exit::Done);
        let unread =
            Unread { path: "/store/link".to_owned(), reason: "it cannot be read: a loop".to_owned() };
        let ended = all_read(&[unread]).unwrap_err();
        let said = ended.error.to_string();
        assert_eq!(ended.exit, Exit::Internal);
        assert!(
            said.contains("  /store/link: it cannot be read: a loop\n") && said.ends_with(MENDS),
            "{said}"
        );
    }
}
