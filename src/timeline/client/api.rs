//! One call to `/api/v1`: the bearer token, the time limit, and what the answer's status means.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Client, RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::error::CallError;
use crate::timeline::TimelineConfig;
use crate::timeline::protocol::Problem;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a call may take from its beginning to the end of its answer; a followed stream, to the head of
/// its answer. Far below a lease, so that a connection that has died in silence costs none.
const CALL: Duration = Duration::from_secs(10);
/// The longest answer read whole, in bytes: a page of a list is far below.
const MAX_ANSWER: usize = 16 << 20;
/// The longest answer of an error that is quoted, in bytes.
const MAX_QUOTED: usize = 300;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: &str = "application/problem+json";

/// The timeline service, as a worker or a command calls it. Clones share connections and token.
///
/// Paths are relative to `/api/v1`, without a slash before them: `builds/b-17`. A call that is dropped may
/// have been done.
#[derive(Clone)]
pub struct TimelineClient(Arc<Inner>);

struct Inner {
    http: Client,
    /// Ends with a slash.
    base: Url,
    address: String,
    token_file: Option<PathBuf>,
    /// As it was read last; none before the first call.
    token: Mutex<Option<SecretString>>,
}

/// What is sent, ready to be sent again with another token.
struct Body {
    bytes: Bytes,
    headers: HeaderMap,
}

impl TimelineClient {
    /// The service that is configured, if one is. Nothing is called, and no token is read, yet.
    pub fn new(config: &TimelineConfig) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.base() else { return Ok(None) };
        let base: Url = format!("{address}/api/v1/").parse().context("read timeline.url")?;
        let http = config
            .network
            .client(&base)?
            .user_agent(concat!("buildgrid/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            // Whoever follows a stream learns that the other end is gone, although nothing is sent.
            .tcp_keepalive(CALL)
            .build()
            .context("make the client of the timeline service")?;
        Ok(Some(Self(Arc::new(Inner {
            http,
            base,
            address: address.to_owned(),
            token_file: config.token_file.clone(),
            token: Mutex::default(),
        }))))
    }

    /// Where the service is: `https://builds.example.com`.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    pub async fn get_json<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, CallError> {
        let url = self.url(path, query)?;
        self.call(Method::GET, url, None).await
    }

    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let url = self.url(path, &[])?;
        self.call(Method::POST, url, Some(self.json(body)?)).await
    }

    pub async fn put_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let url = self.url(path, &[])?;
        self.call(Method::PUT, url, Some(self.json(body)?)).await
    }

    /// Posts a body of another type, compressed as `encoding` says.
    pub async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        content_type: &'static str,
        encoding: Option<&'static str>,
        bytes: impl Into<Bytes>,
    ) -> Result<T, CallError> {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        headers.extend(encoding.map(|name| (CONTENT_ENCODING, HeaderValue::from_static(name))));
        let url = self.url(path, &[])?;
        self.call(Method::POST, url, Some(Body { bytes: bytes.into(), headers })).await
    }

    /// An answer that may go on for ever, of the type that `accept` asks for. There is no time limit once
    /// it has begun: the caller judges by the service's signs of life.
    pub async fn get_stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
        accept: &'static str,
        last_event_id: Option<&str>,
    ) -> Result<Response, CallError> {
        let url = self.url(path, query)?;
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        let last = last_event_id.and_then(|id| HeaderValue::from_str(id).ok());
        headers.extend(last.map(|id| (http::HeaderName::from_static("last-event-id"), id)));
        let send = self.send(Method::GET, url, &headers, None);
        let response = tokio::time::timeout(CALL, send)
            .await
            .map_err(|_| self.unreachable(format!("no answer within {} s", CALL.as_secs())))??;
        self.judge(response).await
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, CallError> {
        let joined = self.0.base.join(path);
        let mut url = joined.map_err(|error| self.unreachable(format!("{path:?} is no path: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn json(&self, body: &impl Serialize) -> Result<Body, CallError> {
        let bytes = serde_json::to_vec(body).map_err(|error| self.unreachable(error.to_string()))?;
        Ok(Body { bytes: bytes.into(), headers: HeaderMap::from_iter([(CONTENT_TYPE, JSON)]) })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        body: Option<Body>,
    ) -> Result<T, CallError> {
        let accept = HeaderMap::from_iter([(ACCEPT, JSON)]);
        let whole = async {
            let response = self.send(method, url, &accept, body).await?;
            let bytes = self.read(self.judge(response).await?).await?;
            serde_json::from_slice(&bytes).map_err(|error| {
                self.busy(format!("its answer is not what this version understands: {error}"), None)
            })
        };
        match tokio::time::timeout(CALL, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", CALL.as_secs()))),
        }
    }

    /// Sends with the token at hand and, where that is not accepted, once more with one that has
    /// meanwhile been written into the file.
    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: &HeaderMap,
        body: Option<Body>,
    ) -> Result<Response, CallError> {
        let request = || {
            let request = self.0.http.request(method.clone(), url.clone()).headers(headers.clone());
            match &body {
                Some(body) => request.headers(body.headers.clone()).body(body.bytes.clone()),
                None => request,
            }
        };
        let known = self.0.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let token = match known {
            Some(token) => Some(token),
            None => self.read_token().await?,
        };
        let response = self.send_with(request(), token.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let exposed =
            |token: &Option<SecretString>| token.as_ref().map(|token| token.expose_secret().to_owned());
        let fresh = self.read_token().await?;
        match exposed(&fresh) == exposed(&token) {
            true => Ok(response),
            false => self.send_with(request(), fresh.as_ref()).await,
        }
    }

    async fn send_with(
        &self,
        mut request: RequestBuilder,
        token: Option<&SecretString>,
    ) -> Result<Response, CallError> {
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        request.send().await.map_err(|error| self.unreachable(reason(error)))
    }

    async fn read_token(&self) -> Result<Option<SecretString>, CallError> {
        let Some(path) = &self.0.token_file else { return Ok(None) };
        let unusable = |reason: String| CallError::Token { path: path.display().to_string(), reason };
        let text = tokio::fs::read_to_string(path).await.map_err(|error| unusable(error.to_string()))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable("it does not hold one token on one line".to_owned()));
        }
        let token = Some(SecretString::from(token));
        self.0.token.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&token);
        Ok(token)
    }

    /// Sorts an answer by its status: a success, or the error it stands for.
    async fn judge(&self, response: Response) -> Result<Response, CallError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()));
            let to = to.unwrap_or_default();
            return Err(self.busy(format!("it redirects to {to:?} ({status}); correct timeline.url"), None));
        }
        let retry_after = retry_after(response.headers());
        let problem = self.problem(response).await;
        Err(match status {
            StatusCode::UNAUTHORIZED => {
                let reason = match &self.0.token_file {
                    Some(_) => problem.detail,
                    None => "none was sent: timeline.token_file is not set".to_owned(),
                };
                CallError::Unauthorized { address: self.0.address.clone(), reason }
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                self.busy(format!("{} ({status})", problem.detail), retry_after)
            }
            status if status.is_client_error() => CallError::Refused(Box::new(problem)),
            status => self.busy(format!("{} ({status})", problem.detail), retry_after),
        })
    }

    /// What the answer says is wrong; in its own words where it is not the service's problem document.
    async fn problem(&self, response: Response) -> Problem {
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let is_problem = kind.starts_with(PROBLEM_JSON.as_bytes());
        let body = self.read(response).await.unwrap_or_default();
        if is_problem && let Ok(problem) = serde_json::from_slice(&body) {
            return problem;
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(MAX_QUOTED)]);
        let title = status.canonical_reason().unwrap_or("error").to_owned();
        Problem {
            kind: "about:blank".to_owned(),
            detail: match text.trim() {
                "" => title.clone(),
                text => text.to_owned(),
            },
            title,
            status: status.as_u16(),
            next_seq: None,
        }
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, CallError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(reason(error)))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(self.busy(format!("its answer is longer than {MAX_ANSWER} bytes"), None));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn unreachable(&self, reason: String) -> CallError {
        CallError::Unreachable { address: self.0.address.clone(), reason }
    }

    fn busy(&self, reason: String, retry_after: Option<Duration>) -> CallError {
        CallError::Busy { address: self.0.address.clone(), reason, retry_after }
    }
}

/// The form in seconds, which is the service's own; a date is a proxy's, and back-off will do.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An error with its causes, without the URL, which the message around it names.
fn reason(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
