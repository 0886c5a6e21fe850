//! Refusals: one table of status, title and type, told as `application/problem+json` (RFC 9457).

use std::fmt;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::db::WriteError;
use super::log::read::ReadError;
use crate::store::StoreError;
use crate::timeline::protocol::{AttemptState, Problem, ProblemCode};

/// Why a request is not answered. What is absent and what is another namespace's are one and the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody is logged in, or the token is not known.
    Unauthorized,
    /// Who asks may not do this anywhere.
    Forbidden(&'static str),
    /// The request came from another site's page.
    CrossSite,
    /// There is none, or it is another namespace's.
    NotFound(String),
    /// There was one, which is no longer kept.
    Gone(String),
    UnknownAttempt,
    MethodNotAllowed,
    Malformed(String),
    Unprocessable(String),
    MediaType(String),
    TooLarge(String),
    /// The request took too long to come.
    Slow(String),
    Conflict(String),
    Fenced,
    Backwards {
        from: AttemptState,
        to: AttemptState,
    },
    Gap {
        next_seq: u64,
    },
    Incomplete {
        next_seq: u64,
    },
    Checksum,
    /// A part of the installation does not answer.
    Unavailable(String),
    Internal,
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        use StatusCode as S;
        match self {
            Self::Unauthorized => S::UNAUTHORIZED,
            Self::Forbidden(_) | Self::CrossSite => S::FORBIDDEN,
            Self::NotFound(_) | Self::UnknownAttempt => S::NOT_FOUND,
            Self::Gone(_) => S::GONE,
            Self::MethodNotAllowed => S::METHOD_NOT_ALLOWED,
            Self::Malformed(_) => S::BAD_REQUEST,
            Self::Unprocessable(_) => S::UNPROCESSABLE_ENTITY,
            Self::MediaType(_) => S::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) => S::PAYLOAD_TOO_LARGE,
            Self::Slow(_) => S::REQUEST_TIMEOUT,
            Self::Conflict(_)
            | Self::Fenced
            | Self::Backwards { .. }
            | Self::Gap { .. }
            | Self::Incomplete { .. }
            | Self::Checksum => S::CONFLICT,
            Self::Unavailable(_) => S::SERVICE_UNAVAILABLE,
            Self::Internal => S::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::UnknownAttempt => Some(ProblemCode::UnknownAttempt),
            Self::Fenced => Some(ProblemCode::Fenced),
            Self::Gap { .. } => Some(ProblemCode::Gap),
            Self::Incomplete { .. } => Some(ProblemCode::Incomplete),
            Self::Checksum => Some(ProblemCode::Checksum),
            _ => None,
        }
    }

    /// What is wrong with this request, as one sentence.
    pub fn detail(&self) -> String {
        match self {
            Self::Unauthorized => "log in, or send a token as Authorization: Bearer".to_owned(),
            Self::Forbidden(what) => format!("this login may not {what}"),
            Self::CrossSite => "the request came from another site's page".to_owned(),
            Self::NotFound(what) => format!("there is no {what}, or this login may not see it"),
            Self::UnknownAttempt => {
                "this attempt was not claimed here; claim it, with \"late\": true if it has begun".to_owned()
            }
            Self::MethodNotAllowed => {
                "this method is not for this address; see /api/v1/openapi.json".to_owned()
            }
            Self::Gone(detail)
            | Self::Malformed(detail)
            | Self::Unprocessable(detail)
            | Self::MediaType(detail)
            | Self::TooLarge(detail)
            | Self::Slow(detail)
            | Self::Conflict(detail)
            | Self::Unavailable(detail) => detail.clone(),
            Self::Fenced => "another attempt has taken the place of this one".to_owned(),
            Self::Backwards { from, to } => {
                format!("the attempt is {} and cannot become {}", from.as_str(), to.as_str())
            }
            Self::Gap { next_seq } => format!("entries are missing: send from seq {next_seq} on"),
            Self::Incomplete { next_seq } => {
                format!(
                    "only {next_seq} entries of the log are here: send from seq {next_seq} on, then the end again"
                )
            }
            Self::Checksum => {
                "the stored log is not the one whose count and checksum were reported".to_owned()
            }
            Self::Internal => "the service failed; its log says why".to_owned(),
        }
    }

    fn problem(&self) -> Problem {
        let status = self.status();
        let (kind, title) = match self.code() {
            Some(code) => (code.urn().to_owned(), format!("{code:?}")),
            None => ("about:blank".to_owned(), status.canonical_reason().unwrap_or_default().to_owned()),
        };
        let next_seq = match self {
            Self::Gap { next_seq } | Self::Incomplete { next_seq } => Some(*next_seq),
            _ => None,
        };
        Problem { kind, title, status: status.as_u16(), detail: self.detail(), next_seq }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem()).unwrap_or_default();
        let media = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status(), [(header::CONTENT_TYPE, media)], body).into_response();
        match &self {
            Self::Unauthorized => {
                let challenge = HeaderValue::from_static("Bearer realm=\"BuildGrid timeline\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::Unavailable(_) => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

/// The log says what happened, the client learns only that it did.
impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "the timeline's database failed");
        Self::Internal
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        tracing::error!(%error, "a stored log cannot be read");
        Self::Internal
    }
}

/// Paths are the operator's matter, and stand in the log.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::Unavailable(match error {
            StoreError::NoStore(_) => "this service sees no store".to_owned(),
            StoreError::ReadOnly { .. } => "this service may not write to the store".to_owned(),
            StoreError::Full { .. } => "the store's disk is full".to_owned(),
            StoreError::Stopping => "the service is stopping; try again".to_owned(),
            _ => "the store failed; the service's log says how".to_owned(),
        })
    }
}

/// What may work in a moment.
impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        let unwritten = "the service could not write; its log says why. Try again";
        match error {
            WriteError::Stopping => Self::Unavailable("the service is stopping; try again".to_owned()),
            WriteError::Transaction(_) => Self::Unavailable(unwritten.to_owned()),
            WriteError::Database(error) => {
                tracing::error!(error, "the timeline's database failed");
                Self::Unavailable(unwritten.to_owned())
            }
        }
    }
}
