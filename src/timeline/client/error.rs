//! What can go wrong between us and the timeline service, by what a caller can do about it.

use std::time::Duration;

use crate::timeline::protocol::{Problem, ProblemCode};

/// A call to the timeline service that did not succeed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// No answer came: whether the call was done is not known.
    #[error("the timeline service at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    /// An answer that says "not now": 408, 429, 5xx; or one that is not the service's own.
    #[error("the timeline service at {address} cannot serve now: {reason}")]
    Busy { address: String, reason: String, retry_after: Option<Duration> },
    /// 401, also after the token file was read again.
    #[error(
        "the timeline service at {address} does not accept the token ({reason}); make one with `buildgrid token add` and write it into timeline.token_file"
    )]
    Unauthorized { address: String, reason: String },
    #[error("timeline.token_file {path} cannot be read: {reason}")]
    Token { path: String, reason: String },
    /// Any other 4xx: the same call will be refused again.
    #[error("the timeline service refuses the call: {} ({})", .0.detail, .0.status)]
    Refused(Box<Problem>),
}

impl CallError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    /// Whether the service itself has answered, whatever it said: it is there.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Refused(_))
    }

    /// How long the service asks to wait before the next call.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What the service has to say, where the call itself is at fault.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }

    /// The problem, if it is one that a client acts on.
    pub fn code(&self) -> Option<ProblemCode> {
        self.problem().and_then(ProblemCode::of)
    }
}
