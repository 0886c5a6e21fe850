//! A proxy before the git server that can misbehave, and that remembers what was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

/// What the proxy does with a request.
pub enum Reaction {
    Pass,
    /// Passes it on and changes the answer.
    Edit(Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send>),
    /// Passes it on and gives the answer out byte by byte, one in each interval.
    Drip(Duration),
    /// Passes it on and stops in the middle of the answer: the connection stays open.
    Hang,
    /// Passes it on and breaks the connection in the middle of the answer.
    Cut,
    Answer(Response),
}

impl Reaction {
    pub fn status(status: u16) -> Self {
        Self::Answer(StatusCode::from_u16(status).unwrap().into_response())
    }

    pub fn redirect(location: impl Into<String>) -> Self {
        Self::Answer((StatusCode::FOUND, [("location", location.into())]).into_response())
    }

    /// The answer of a git server that refuses.
    pub fn refusal(text: &str) -> Self {
        let packet = format!("{:04x}ERR {text}", text.len() + 8);
        let headers = [("content-type", "application/x-git-upload-pack-result")];
        Self::Answer((headers, packet).into_response())
    }
}

/// A request, as `GET /hello.git/info/refs` and its body.
pub struct Request {
    pub line: String,
    pub body: Bytes,
}

impl Request {
    pub fn is_for_refs(&self) -> bool {
        self.line.ends_with("/info/refs")
    }

    pub fn is_for_objects(&self) -> bool {
        self.line.ends_with("/git-upload-pack")
    }

    pub fn contains(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

type React = dyn Fn(&Request) -> Reaction + Send + Sync;

struct Inner {
    upstream: String,
    client: reqwest::Client,
    react: Box<React>,
    seen: Mutex<Vec<String>>,
}

/// A running proxy; dropping it stops it.
pub struct GitProxy {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    inner: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

impl GitProxy {
    pub async fn start(upstream: &str, react: impl Fn(&Request) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let inner = Arc::new(Inner {
            upstream: upstream.to_owned(),
            client,
            react: Box::new(react),
            seen: Mutex::default(),
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner, task }
    }

    /// The requests so far, in their order.
    pub fn seen(&self) -> Vec<String> {
        self.inner.seen.lock().unwrap().clone()
    }
}

impl Drop for GitProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    assert!(
        !headers.contains_key("authorization") && !headers.contains_key("cookie"),
        "credentials were sent"
    );
    let request = Request { line: format!("{method} {}", uri.path()), body };
    inner.seen.lock().unwrap().push(request.line.clone());
    let reaction = (inner.react)(&request);
    let path = match &reaction {
        Reaction::Answer(_) => "",
        _ => uri.path(),
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let passed = inner
        .client
        .request(method, format!("{}{path}{query}", inner.upstream))
        .header("content-type", headers.get("content-type").map_or(&b""[..], |value| value.as_bytes()))
        .body(request.body);
    if let Reaction::Answer(response) = reaction {
        return response;
    }
    let answer = passed.send().await.unwrap();
    let status = answer.status();
    let content_type = answer.headers().get("content-type").cloned().unwrap();
    let bytes = answer.bytes().await.unwrap();
    let half = bytes.slice(..bytes.len() / 2);
    let body = match reaction {
        Reaction::Edit(edit) => Body::from(edit(bytes.to_vec())),
        Reaction::Drip(interval) => {
            Body::from_stream(futures::stream::iter(0..bytes.len()).then(move |at| {
                let byte = bytes.slice(at..=at);
                async move {
                    tokio::time::sleep(interval).await;
                    Ok::<_, std::io::Error>(byte)
                }
            }))
        }
        Reaction::Hang => {
            let first = futures::stream::iter([Ok::<_, std::io::Error>(half)]);
            Body::from_stream(first.chain(futures::stream::pending()))
        }
        Reaction::Cut => {
            Body::from_stream(futures::stream::iter([Ok(half), Err(std::io::Error::other("cut"))]))
        }
        Reaction::Pass | Reaction::Answer(_) => Body::from(bytes),
    };
    (status, [("content-type", content_type)], body).into_response()
}
