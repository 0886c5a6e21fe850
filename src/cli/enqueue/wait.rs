//! `--wait`: from the result events of what was enqueued to an exit code.

use std::collections::BTreeMap;
use std::io::Write;

use super::Prepared;
use crate::cli::exit::{Exit, Failure};
use crate::cli::progress::at;
use crate::event::deploy::BuildId;
use crate::event::result::{Kind, ResultEvent, State};
use crate::publish::name::{AppName, Namespace};
use crate::queue::{Queue, QueueError, Results};
use crate::telemetry::printable::printable;

/// Listens for the results of some events.
pub(super) struct Waiting {
    results: Results,
    /// The events without an outcome, each with what was said of it last.
    open: BTreeMap<BuildId, Option<(u32, State)>>,
    apps: Vec<(Namespace, AppName)>,
}

impl Waiting {
    pub(super) async fn start(queue: &Queue, events: &[Prepared]) -> Result<Self, QueueError> {
        let mut apps: Vec<_> = events
            .iter()
            .map(|prepared| (prepared.event.namespace.clone(), prepared.event.app.clone()))
            .collect();
        apps.sort();
        apps.dedup();
        let results = queue.results(apps.iter().map(|(namespace, app)| (namespace, app))).await?;
        let open = events.iter().map(|prepared| (prepared.event.id.clone(), None)).collect();
        Ok(Self { results, open, apps })
    }

    /// Prints what becomes of the events until all have ended. With several, the exit code is that of
    /// the one that ended worst, in the order of the codes.
    pub(super) async fn outcome(
        mut self,
        queue: &Queue,
        json: bool,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, Failure> {
        let mut worst = Exit::Done;
        while !self.open.is_empty() {
            let Some(event) = self.results.next().await else {
                tracing::warn!("the connection to the broker was lost; results of the meantime are missed");
                let apps = self.apps.iter().map(|(namespace, app)| (namespace, app));
                self.results = queue.results(apps).await.map_err(super::explain)?;
                continue;
            };
            let Some(last) = self.open.get_mut(&event.id) else { continue };
            if last.replace((event.attempt, event.state)) == Some((event.attempt, event.state)) {
                // Results come at least once.
                continue;
            }
            match json {
                true => writeln!(out, "{}", serde_json::to_string(&event)?)?,
                false => write!(out, "{}", words(&event))?,
            }
            if event.state.is_final() {
                self.open.remove(&event.id);
                let exit = exit(&event);
                if exit as u8 > worst as u8 {
                    worst = exit;
                }
            }
        }
        Ok(worst)
    }
}

fn exit(event: &ResultEvent) -> Exit {
    match (event.state, event.kind) {
        (State::Failed, Some(Kind::Infrastructure)) => Exit::Infrastructure,
        (State::Failed, _) => Exit::BuildFailed,
        (State::Rejected, _) => Exit::Rejected,
        (State::Cancelled, _) => Exit::Cancelled,
        (State::Published | State::Started | State::Retrying, _) => Exit::Done,
    }
}

/// A result for people: one line, and below it what went wrong.
fn words(event: &ResultEvent) -> String {
    use std::fmt::Write;
    let mut text = format!("{}  {}", event.id, event.state);
    // Writing to a String cannot fail.
    match event.state {
        State::Started => {
            let _ = write!(text, " on {}, attempt {}", printable(&event.worker), event.attempt);
        }
        State::Published => {
            let image = event.image.as_deref().unwrap_or("an image without a name");
            let reused = if event.reused { ", which was there already" } else { "" };
            let _ = write!(text, "  {}{reused}", printable(image));
        }
        _ => {
            if let Some(reason) = &event.reason {
                let _ = write!(text, ": {}", printable(reason));
            }
        }
    }
    text.push('\n');
    if let Some(step) = &event.step {
        let _ = writeln!(text, "  in step {}{}", printable(step), at(event.location.as_deref()));
    }
    for line in &event.excerpt {
        let _ = writeln!(text, "  | {}", printable(line));
    }
    if let Some(advice) = &event.advice {
        let _ = writeln!(text, "  advice: {}", printable(advice));
    }
    if let (State::Failed, Some(url)) = (event.state, &event.log_url) {
        let _ = writeln!(text, "  the whole log: {}", printable(url));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::deploy::Identity;

    fn event(state: State, kind: Option<Kind>) -> ResultEvent {
        let identity = Identity {
            id: "e-1".parse().unwrap(),
            namespace: "acme".parse().unwrap(),
            app: "shop".parse().unwrap(),
        };
        ResultEvent { state, kind, reason: None, ..ResultEvent::rejected(identity, 1, "", "worker-1") }
    }

    #[test]
    fn the_outcome_is_the_exit_code() {
        for (state, kind, code) in [
            (State::Published, None, Exit::Done),
            (State::Failed, Some(Kind::Build), Exit::BuildFailed),
            (State::Failed, Some(Kind::Infrastructure), Exit::Infrastructure),
            (State::Rejected, Some(Kind::Event), Exit::Rejected),
            (State::Cancelled, None, Exit::Cancelled),
        ] {
            assert_eq!(exit(&event(state, kind)), code);
        }
    }

    #[test]
    fn a_failure_shows_where_and_why_and_cannot_attack_the_terminal() {
        let mut failed = event(State::Failed, Some(Kind::Build));
        failed.reason = Some("RUN make: exit code 2".to_owned());
        failed.step = Some("[2/4] RUN make".to_owned());
        failed.excerpt = vec!["cc: no input files".to_owned(), "\u{1b}[2Jgone".to_owned()];
        assert_eq!(
            words(&failed),
            "e-1  failed: RUN make: exit code 2\n  in step [2/4] RUN make\n  | cc: no input files\n  | \\u{1b}[2Jgone\n"
        );
    }
}
