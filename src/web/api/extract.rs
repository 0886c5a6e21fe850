//! The parts of a request, each with words for what is wrong with it.

use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::event::deploy::BuildId;
use crate::web::refusal::Refusal;

/// The largest JSON body, in bytes: a claim holds an event of 1 MiB, escaped.
const MAX_JSON: usize = 3 << 20;
/// How long a whole body may take to come. Far longer than any program of ours waits for its answer; a body that
/// comes byte by byte would keep its connection from others.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read all the same, in bytes: a client that is still sending does not
/// see why it is refused.
const SURPLUS: usize = 4 << 20;
/// The most items of one page, and how many there are unless asked.
const MAX_PAGE: usize = 200;
const USUAL_PAGE: usize = 50;

/// The query, in which every parameter must be known.
pub(in crate::web) struct Parameters<T>(pub(in crate::web) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(Refusal::Malformed(rejection.body_text())),
        }
    }
}

/// The variable parts of the path.
pub(super) struct Parameter<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Parameter<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(parameter)) => Ok(Self(parameter)),
            Err(rejection) => Err(Refusal::Malformed(rejection.body_text())),
        }
    }
}

/// A body of JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let bytes = body(request, MAX_JSON).await?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let (path, inner) = (error.path().to_string(), error.inner());
            match inner.is_data() {
                true => Refusal::Unprocessable(format!("{path}: {inner}")),
                false => Refusal::Malformed(format!("the body is not JSON: {inner}")),
            }
        })?;
        reader
            .end()
            .map_err(|error| Refusal::Malformed(format!("the body is not one JSON value: {error}")))?;
        Ok(Self(value))
    }
}

/// An answer of JSON.
impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// A body of at most `most` bytes, which has come within [`PATIENCE`].
pub(in crate::web) async fn body(request: Request, most: usize) -> Result<Bytes, Refusal> {
    body_within(PATIENCE, request, most).await
}

async fn body_within(patience: Duration, request: Request, most: usize) -> Result<Bytes, Refusal> {
    let whole = read_body(request.into_body().into_data_stream(), most);
    tokio::time::timeout(patience, whole).await.unwrap_or_else(|_| {
        Err(Refusal::Slow(format!("the body was not here within {} s", patience.as_secs())))
    })
}

async fn read_body(mut pieces: BodyDataStream, most: usize) -> Result<Bytes, Refusal> {
    let (mut body, mut surplus) = (BytesMut::new(), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Refusal::Malformed(format!("the body broke off: {error}")))?;
        match surplus == 0 && body.len() + piece.len() <= most {
            true => body.extend_from_slice(&piece),
            false => surplus += piece.len(),
        }
        if surplus > SURPLUS {
            break;
        }
    }
    match surplus {
        0 => Ok(body.freeze()),
        _ => Err(Refusal::TooLarge(format!("the body has more than {most} bytes"))),
    }
}

/// A build's id. One outside the grammar is no build's.
pub(in crate::web) fn build_id(text: &str) -> Result<BuildId, Refusal> {
    text.parse().map_err(|_| Refusal::NotFound(format!("build {:?}", shortened(text))))
}

/// A parameter with a type of its own.
pub(super) fn parameter<T>(name: &str, text: &str, words: &str) -> Result<T, Refusal>
where
    T: std::str::FromStr,
{
    text.parse().map_err(|_| Refusal::Malformed(format!("{name}: {:?} is not {words}", shortened(text))))
}

pub(super) fn page_size(limit: Option<usize>) -> Result<usize, Refusal> {
    match limit {
        None => Ok(USUAL_PAGE),
        Some(limit @ 1..=MAX_PAGE) => Ok(limit),
        Some(limit) => Err(Refusal::Malformed(format!("limit: {limit}; 1 to {MAX_PAGE} are taken"))),
    }
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures::stream;

    #[tokio::test]
    async fn a_body_that_drips_is_given_up() {
        let drip = |bytes, patience| {
            let pieces = stream::repeat(()).take(bytes).then(|()| async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
            });
            body_within(patience, Request::new(Body::from_stream(pieces)), 1_000_000)
        };
        assert_eq!(drip(3, PATIENCE).await.unwrap().len(), 3);
        let refused = drip(100_000, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(refused.status(), http::StatusCode::REQUEST_TIMEOUT);
    }
}
