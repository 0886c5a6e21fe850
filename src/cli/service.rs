//! Finding the timeline service, and the words and exit codes for what it answers.

use std::path::Path;

use anyhow::anyhow;

use super::exit::{Exit, Failure};
use super::permission;
use crate::config::Config;
use crate::telemetry::printable::printable;
use crate::timeline::TimelineConfig;
use crate::timeline::client::{CallError, TimelineClient};
use crate::up::{self, Announcement};
use crate::worker::pause::Paused;

/// The service that the configuration names, else that of a `buildgrid up` that runs here; none where there
/// is neither. Where both are one and the configuration names no token, the token is that of `up`.
pub async fn find(config: &Config) -> Result<Option<TimelineClient>, Failure> {
    let timeline = match config.timeline.base() {
        Some(_) if config.timeline.token_file.is_some() => config.timeline.clone(),
        // With TLS a `buildgrid up` has to be told its address, by which it is found all the same.
        Some(base) => {
            let directory = config.up.resolved_data_dir();
            let announced = tokio::task::spawn_blocking(move || running(&directory)).await?;
            let own = announced.ok().flatten().filter(|up| up.url.trim_end_matches('/') == base);
            TimelineConfig { token_file: own.map(|up| up.token_file), ..config.timeline.clone() }
        }
        None => {
            let directory = config.up.resolved_data_dir();
            // One that is named is meant; in its usual place, another user's is as good as none.
            if !config.up.data_dir.as_os_str().is_empty()
                && let Some(denied) = permission::denied(&directory.join("up.json"))
            {
                return Err(Failure::new(Exit::Configuration, anyhow!(denied)));
            }
            let announced = tokio::task::spawn_blocking(move || running(&directory)).await?;
            let Some(up) = announced.map_err(|error| Failure::new(Exit::Configuration, error))? else {
                return Ok(None);
            };
            TimelineConfig { url: up.url, token_file: Some(up.token_file), ..TimelineConfig::default() }
        }
    };
    TimelineClient::new(&timeline).map_err(|error| Failure::new(Exit::Configuration, error))
}

/// As [`find`], for commands that can do nothing without a service.
pub async fn needed(config: &Config) -> Result<TimelineClient, Failure> {
    find(config).await?.ok_or_else(|| {
        let directory = config.up.resolved_data_dir();
        let of_up = permission::denied(&directory.join("up.json"))
            .unwrap_or_else(|| format!("none runs on {}", directory.display()));
        Failure::unavailable(anyhow!(
            "no timeline service is known: set timeline.url and timeline.token_file in the configuration, \
             or start `buildgrid up` ({of_up})"
        ))
    })
}

/// Why builds that go to this service begin later, where that can be known: a `buildgrid up` that runs here has the
/// only worker of its service. Who else has workers, and whether they are paused, no command can see.
pub async fn paused(config: &Config) -> Option<String> {
    if config.timeline.base().is_some() {
        return None;
    }
    let data_dir = up::adopt(config).worker.data_dir;
    let paused = tokio::task::spawn_blocking(move || Paused::read(&data_dir)).await;
    // One that cannot be seen is told by the worker.
    let paused = paused.ok()?.ok()??;
    Some(format!("the worker is {}: builds wait until `buildgrid worker resume`", paused.words()))
}

/// What a `buildgrid up` that still runs says of itself. A file that its process has outlived says nothing.
fn running(directory: &Path) -> anyhow::Result<Option<Announcement>> {
    let runs = |up: &Announcement| Path::new("/proc").join(up.pid.to_string()).exists();
    Ok(Announcement::read(directory)?.filter(runs))
}

/// The sentence and exit code for a call that did not succeed.
pub fn explain(error: CallError) -> Failure {
    let exit = match &error {
        CallError::Unreachable { .. } | CallError::Busy { .. } => Exit::Unavailable,
        CallError::Unauthorized { .. } | CallError::Token { .. } => Exit::Configuration,
        CallError::Refused(problem) => match problem.status {
            // The token is good, and of a role that may not do this.
            403 => Exit::Configuration,
            400 | 404 | 409 | 413 | 422 => Exit::Usage,
            _ => Exit::Internal,
        },
    };
    match error {
        CallError::Refused(problem) => Failure::new(exit, anyhow!("{}", printable(&problem.detail))),
        error => Failure::new(exit, anyhow!("{}", printable(&error.to_string()))),
    }
}

/// As [`explain`], of a call that names one build. Its id may have been shortened, as those of commits and dead
/// letters may be.
pub fn explain_build(error: CallError) -> Failure {
    let is_unknown = error.problem().is_some_and(|problem| problem.status == 404);
    let failure = explain(error);
    match is_unknown {
        true => Failure {
            error: anyhow!(
                "{}; a build is named by its whole id, as `buildgrid builds` shows it",
                failure.error
            ),
            ..failure
        },
        false => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::protocol::Problem;

    #[tokio::test]
    async fn the_configured_one_comes_before_the_one_that_runs_here() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.up.data_dir = folder.path().to_owned();
        assert!(find(&config).await.unwrap().is_none());
        let none = needed(&config).await.err().unwrap();
        assert_eq!(none.exit, Exit::Unavailable);
        for way in ["timeline.url", "buildgrid up", &folder.path().display().to_string()] {
            assert!(none.error.to_string().contains(way), "{}", none.error);
        }
        let mut up = Announcement {
            version: Announcement::VERSION,
            pid: std::process::id(),
            url: "http://127.0.0.1:8420".to_owned(),
            token_file: folder.path().join("local.token"),
            registry: String::new(),
            status: String::new(),
        };
        up.write(folder.path()).unwrap();
        assert_eq!(needed(&config).await.unwrap().address(), "http://127.0.0.1:8420");
        config.timeline.url = "http://127.0.0.1:1".to_owned();
        assert_eq!(needed(&config).await.unwrap().address(), "http://127.0.0.1:1");

        config.timeline.url = String::new();
        // More than the kernel ever gives out.
        up.pid = u32::MAX;
        up.write(folder.path()).unwrap();
        assert!(find(&config).await.unwrap().is_none(), "it has ended");
        std::fs::write(folder.path().join("up.json"), "{").unwrap();
        assert_eq!(find(&config).await.err().unwrap().exit, Exit::Configuration);
    }

    #[test]
    fn a_refusal_is_told_in_the_services_words() {
        for (status, exit) in [
            (403, Exit::Configuration),
            (404, Exit::Usage),
            (409, Exit::Usage),
            (422, Exit::Usage),
            (418, Exit::Internal),
        ] {
            let problem = Problem {
                kind: "about:blank".to_owned(),
                title: String::new(),
                status,
                detail: "there is no build x\u{1b}[2J".to_owned(),
                next_seq: None,
            };
            let failure = explain(CallError::Refused(problem.into()));
            assert_eq!(failure.exit, exit, "{status}");
            assert_eq!(failure.error.to_string(), "there is no build x\\u{1b}[2J");
        }
        let away = CallError::Unreachable { address: "http://h:1".to_owned(), reason: "refused".to_owned() };
        let failure = explain(away);
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.error.to_string().contains("http://h:1"));
    }
}
