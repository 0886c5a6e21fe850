//! `buildgrid worker pause` and `resume`: an operator stops the intake of the worker on this machine, and lets
//! it go on.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::anyhow;
use time::OffsetDateTime;

use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::up;
use crate::worker::build_directory::DataDirectory;
use crate::worker::pause::{Pause, Paused};

/// The longest reason, in bytes: it stands in one line of `systemctl status`.
const LONGEST_REASON: usize = 256;

/// Let the worker of this machine take no more events
///
/// Running builds go on to their end. It holds until `buildgrid worker resume`, through restarts as well.
#[derive(clap::Args)]
#[command(after_help = "\
Run it as root, or as the user that the worker runs as. The worker obeys within two seconds; /readyz,
`systemctl status` and its log say who has paused it, when and why.

Example:
  buildgrid worker pause --reason \"disk swap at 14:00\"")]
pub struct PauseArgs {
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Let a paused worker take events again
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  buildgrid worker resume")]
pub struct ResumeArgs {}

pub async fn pause(args: PauseArgs, config: &Config) -> Result<Exit, Failure> {
    let reason = args.reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.len() > LONGEST_REASON) {
        return Err(Failure::new(Exit::Usage, anyhow!("the reason is longer than {LONGEST_REASON} bytes")));
    }
    on_worker(config, move |data_dir| {
        let since = OffsetDateTime::now_utc();
        Pause { by: who(), since, reason }.write(data_dir)?;
        Ok(match DataDirectory::user(data_dir) {
            Some(pid) => format!(
                "the worker {pid} is paused: it takes no more events, and running builds go on; \
                 `buildgrid worker resume` ends it"
            ),
            None => "paused; no worker runs now, and the next to start takes no events until `buildgrid worker resume`"
                .to_owned(),
        })
    })
    .await
}

pub async fn resume(_: ResumeArgs, config: &Config) -> Result<Exit, Failure> {
    on_worker(config, |data_dir| {
        let before = Paused::read(data_dir)?;
        Ok(match (Paused::remove(data_dir)?, before) {
            (true, Some(before)) => format!("the worker takes events again; it was {}", before.words()),
            (true, None) => "the worker takes events again".to_owned(),
            (false, _) => "the worker was not paused".to_owned(),
        })
    })
    .await
}

/// Does `work` in the worker's data directory, and says what came of it.
async fn on_worker(
    config: &Config,
    work: impl FnOnce(&Path) -> anyhow::Result<String> + Send + 'static,
) -> Result<Exit, Failure> {
    let config = up::adopted(config).unwrap_or_else(|| config.clone());
    let data_dir = config.worker.data_dir;
    if let Err(error) = std::fs::metadata(data_dir.join("builds")) {
        let words = format!(
            "{} is no worker's data directory ({error}); name it as worker.data_dir or up.data_dir, or run this as \
             root or as the worker's user",
            data_dir.display()
        );
        return Err(Failure::new(Exit::Configuration, anyhow!(words)));
    }
    let said = tokio::task::spawn_blocking(move || work(&data_dir)).await??;
    let _ = writeln!(std::io::stdout(), "{said}");
    Ok(Exit::Done)
}

/// Who runs this, behind sudo as well.
fn who() -> String {
    let named = |name: &&str| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(named);
    user.unwrap_or_else(|| {
        // /proc/self belongs to the user that the program runs as.
        let uid = std::fs::metadata("/proc/self").map(|us| us.uid().to_string());
        uid.map_or_else(|_| "somebody".to_owned(), |uid| format!("the user with id {uid}"))
    })
}
