//! `buildgrid worker pause` and `resume`: an operator stops the intake of the worker on this machine, and lets
//! it go on.

use std::io::Write;
use std::path::Path;

use anyhow::anyhow;
use time::OffsetDateTime;

use super::exit::{Exit, Failure};
use super::permission;
use crate::config::Config;
use crate::lock::Holder;
use crate::up;
use crate::worker::build_directory::DataDirectory;
use crate::worker::pause::{Pause, Paused};

/// The longest reason, in bytes: it stands in one line of `systemctl status`.
const LONGEST_REASON: usize = 256;

/// Let the worker of this machine take no more events
///
/// Running builds go on to their end. It holds until `buildgrid worker resume`, through restarts as well. A pause of
/// somebody else is replaced, and shown.
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
        let before = Paused::read(data_dir)?;
        let since = OffsetDateTime::now_utc();
        Pause { by: who(), since, reason }.write(data_dir)?;
        let now = match DataDirectory::user(data_dir)? {
            Some(worker) => format!(
                "{} is paused: it takes no more events, and running builds go on; `buildgrid worker resume` ends it",
                named(worker)
            ),
            None => format!(
                "paused, and no worker runs here ({}): the next to start takes no events until `buildgrid worker resume`",
                data_dir.display()
            ),
        };
        Ok(match before {
            Some(before) => format!("{now}\nthis replaces an earlier pause: it was {}", before.words()),
            None => now,
        })
    })
    .await
}

pub async fn resume(_: ResumeArgs, config: &Config) -> Result<Exit, Failure> {
    on_worker(config, |data_dir| {
        let before = Paused::read(data_dir)?;
        let was_paused = Paused::remove(data_dir)?;
        let before = before.map_or_else(String::new, |before| format!("; it was {}", before.words()));
        Ok(match (was_paused, DataDirectory::user(data_dir)?) {
            (true, Some(worker)) => format!("{} takes events again{before}", named(worker)),
            (true, None) => format!(
                "the pause is over, and no worker runs here ({}): the next to start takes events{before}",
                data_dir.display()
            ),
            (false, Some(worker)) => format!("{} was not paused", named(worker)),
            (false, None) => {
                format!("no worker runs here ({}), and it was not paused", data_dir.display())
            }
        })
    })
    .await
}

fn named(worker: Holder) -> String {
    worker.0.map_or_else(|| "the worker".to_owned(), |pid| format!("the worker (pid {pid})"))
}

/// Does `work` in the worker's data directory, and says what came of it.
async fn on_worker(
    config: &Config,
    work: impl FnOnce(&Path) -> anyhow::Result<String> + Send + 'static,
) -> Result<Exit, Failure> {
    let refused = |words: String| Err(Failure::new(Exit::Configuration, anyhow!(words)));
    let up_dir = &config.up.data_dir;
    if !up_dir.as_os_str().is_empty()
        && let Some(denied) = permission::denied(&up::queue_directory(up_dir))
    {
        return refused(denied);
    }
    let config = up::adopted(config).unwrap_or_else(|| config.clone());
    let data_dir = config.worker.data_dir;
    let builds = data_dir.join("builds");
    if let Some(denied) = permission::denied(&builds) {
        return refused(denied);
    }
    if let Err(error) = std::fs::metadata(builds) {
        return refused(format!(
            "{} is no worker's data directory ({error}); name it as worker.data_dir or up.data_dir",
            data_dir.display()
        ));
    }
    let said = tokio::task::spawn_blocking(move || work(&data_dir)).await??;
    let _ = writeln!(std::io::stdout(), "{said}");
    Ok(Exit::Done)
}

/// Who runs this, behind sudo as well.
fn who() -> String {
    let named = |name: &&str| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(named);
    user.unwrap_or_else(permission::us)
}
