//! From an outcome to the result event that tells the world.

use time::OffsetDateTime;

use crate::event::deploy::DeployEvent;
use crate::event::result::{Kind, ResultEvent, State};
use crate::pipeline::Outcome;
use crate::publish::publisher::Published;

/// What is the same in all result events of one attempt.
pub struct Report<'a> {
    pub event: &'a DeployEvent,
    pub attempt: u32,
    pub worker: &'a str,
    /// The host of the registry, which image URLs begin with.
    pub registry_host: &'a str,
    /// Where the timeline service is, if there is one.
    pub timeline: Option<&'a str>,
    pub started_at: OffsetDateTime,
}

impl Report<'_> {
    pub fn started(&self) -> ResultEvent {
        self.of(State::Started)
    }

    /// An infrastructure failure that is tried again.
    pub fn retrying(&self, reason: String) -> ResultEvent {
        ResultEvent { kind: Some(Kind::Infrastructure), reason: Some(reason), ..self.of(State::Retrying) }
    }

    /// The last word on the event.
    pub fn ended(&self, outcome: &Outcome) -> ResultEvent {
        let because = |state, kind, reason: &str| ResultEvent {
            kind,
            reason: Some(reason.to_owned()),
            finished_at: Some(OffsetDateTime::now_utc()),
            ..self.of(state)
        };
        match outcome {
            Outcome::Published(Published { digest, size, reused }) => ResultEvent {
                image: Some(self.event.image().url(self.registry_host)),
                digest: Some(*digest),
                size: Some(*size),
                reused: *reused,
                finished_at: Some(OffsetDateTime::now_utc()),
                ..self.of(State::Published)
            },
            Outcome::Failed(failure) => ResultEvent {
                step: failure.step.clone(),
                location: failure.location.clone(),
                advice: failure.advice.clone(),
                excerpt: failure.excerpt.clone(),
                ..because(State::Failed, Some(Kind::Build), &failure.reason)
            },
            Outcome::Rejected(reason) => because(State::Rejected, Some(Kind::Event), reason),
            Outcome::Cancelled => because(State::Cancelled, None, "cancelled"),
            Outcome::Infrastructure(reason) => because(State::Failed, Some(Kind::Infrastructure), reason),
        }
    }

    fn of(&self, state: State) -> ResultEvent {
        ResultEvent {
            started_at: Some(self.started_at),
            log_url: self.timeline.map(|address| format!("{address}/builds/{}", self.event.id)),
            ..ResultEvent::of(self.event, self.attempt, state, self.worker)
        }
    }
}
