//! Refusals: one table of code, status and text. Codes are those of the OCI distribution
//! specification 1.1 ("Error Codes"), and of the CNCF Distribution registry where it has none.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use crate::store::StoreError;

/// Why a request is refused. What is absent and what is forbidden are one and the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryError {
    Unauthorized,
    AmbiguousLogin,
    HeadTooLarge,
    ReadOnly,
    NameInvalid,
    NameUnknown,
    ManifestUnknown,
    BlobUnknown,
    DigestInvalid,
    PageInvalid,
    RangeInvalid {
        /// Of what it would be a part, in bytes.
        length: u64,
    },
    PreconditionFailed,
    TooManyFailures {
        wait_s: u64,
    },
    Internal,
    Stopping,
    StoreAway,
}

impl RegistryError {
    fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Unauthorized => (
                S::UNAUTHORIZED,
                "UNAUTHORIZED",
                "log in with docker login, using a BuildGrid registry credential",
            ),
            Self::AmbiguousLogin => {
                (S::BAD_REQUEST, "UNSUPPORTED", "there are several Authorization headers; send one")
            }
            Self::HeadTooLarge => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "UNSUPPORTED",
                "the request's address and headers are longer than the 32 KiB that are read of them",
            ),
            // `docker push` prints this sentence.
            Self::ReadOnly => (
                S::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "this registry is read-only: commit your change and deploy it, and a new image will be built and appear here",
            ),
            Self::NameInvalid => (S::BAD_REQUEST, "NAME_INVALID", "that is not the name of a repository"),
            Self::NameUnknown => (
                S::NOT_FOUND,
                "NAME_UNKNOWN",
                "there is no such repository, or this login may not read it; names are <namespace>/<app>.<repository>",
            ),
            Self::ManifestUnknown => {
                (S::NOT_FOUND, "MANIFEST_UNKNOWN", "there is no such image, or this login may not read it")
            }
            Self::BlobUnknown => (
                S::NOT_FOUND,
                "BLOB_UNKNOWN",
                "there is no such blob in this repository, or this login may not read it",
            ),
            Self::DigestInvalid => {
                (S::BAD_REQUEST, "DIGEST_INVALID", "a digest is sha256: and 64 lower-case hex digits")
            }
            Self::PageInvalid => (
                S::BAD_REQUEST,
                "PAGINATION_NUMBER_INVALID",
                "n is not a count of entries from 0 to 100000; pages have at most 1000, and a link to the next one",
            ),
            // Distribution has this code, with this status, for the ranges of uploads.
            Self::RangeInvalid { .. } => (
                S::RANGE_NOT_SATISFIABLE,
                "RANGE_INVALID",
                "the range has none of the blob's bytes; Content-Range says how many there are",
            ),
            Self::PreconditionFailed => {
                (S::PRECONDITION_FAILED, "UNSUPPORTED", "the content is not what If-Match names")
            }
            Self::TooManyFailures { .. } => (
                S::TOO_MANY_REQUESTS,
                "TOOMANYREQUESTS",
                "this login was refused too often; check its user and password, and wait before the next try",
            ),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "UNKNOWN", "the registry failed; its log says why"),
            Self::StoreAway => (
                S::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                "the registry's store is away, as its log says; try again",
            ),
            Self::Stopping => (S::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the registry is stopping; try again"),
        }
    }
}

/// Of [`Unauthorized`](RegistryError::Unauthorized) the router adds the challenge.
impl IntoResponse for RegistryError {
    fn into_response(self) -> Response {
        let (status, code, message) = self.row();
        let body = Json(json!({"errors": [{"code": code, "message": message}]}));
        match self {
            Self::ReadOnly => (status, [(header::ALLOW, "GET, HEAD")], body).into_response(),
            Self::RangeInvalid { length } => {
                (status, [(header::CONTENT_RANGE, format!("bytes */{length}"))], body).into_response()
            }
            Self::TooManyFailures { wait_s } => {
                (status, [(header::RETRY_AFTER, wait_s.to_string())], body).into_response()
            }
            Self::Stopping | Self::StoreAway => (status, [(header::RETRY_AFTER, "5")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

/// The log says what happened, the client learns only that it did.
impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Stopping) {
            return Self::Stopping;
        }
        tracing::error!(%error, "the store failed");
        match error {
            StoreError::NoStore(_) | StoreError::Object { .. } => Self::StoreAway,
            _ => Self::Internal,
        }
    }
}
