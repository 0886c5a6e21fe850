//! Content by digest: its entity tag is the digest, so that conditional requests are exact.

use axum::response::{IntoResponse, Response};
use axum_extra::headers::{ETag, Header, HeaderMapExt as _, IfMatch, IfNoneMatch};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::error::RegistryError;
use crate::store::digest::Digest;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

pub(super) struct Identity {
    digest: Digest,
    etag: ETag,
}

impl Identity {
    pub(super) fn of(digest: Digest) -> Self {
        let etag = format!("\"{digest}\"").parse().expect("a quoted digest is an entity tag");
        Self { digest, etag }
    }

    /// The answer that a condition of the request brings about instead of the content (RFC 9110, 13.2.2).
    pub(super) fn precondition(&self, request: &HeaderMap) -> Result<Option<Response>, RegistryError> {
        if condition::<IfMatch>(request).is_some_and(|condition| !condition.precondition_passes(&self.etag)) {
            return Err(RegistryError::PreconditionFailed);
        }
        let fresh = condition::<IfNoneMatch>(request)
            .is_some_and(|condition| !condition.precondition_passes(&self.etag));
        Ok(fresh.then(|| (StatusCode::NOT_MODIFIED, self.headers()).into_response()))
    }

    /// Whether a `Range` is of the content that the client began to fetch (RFC 9110, 13.1.5): what names nothing that
    /// can be read names other content.
    pub(super) fn allows_range(&self, request: &HeaderMap) -> bool {
        let mut lines = request.get_all(header::IF_RANGE).iter();
        match (lines.next(), lines.next()) {
            (None, _) => true,
            (Some(named), None) => named.as_bytes() == format!("\"{}\"", self.digest).as_bytes(),
            _ => false,
        }
    }

    pub(super) fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        let ascii = |text: String| HeaderValue::try_from(text).expect("a digest is ASCII");
        [
            (CONTENT_DIGEST, ascii(self.digest.to_string())),
            (header::ETAG, ascii(format!("\"{}\"", self.digest))),
        ]
    }
}

/// A header that is there. (An absent `If-Match` would be read as one that matches nothing.)
fn condition<H: Header>(headers: &HeaderMap) -> Option<H> {
    headers.contains_key(H::name()).then(|| headers.typed_get()).flatten()
}
