//! One log line and one count per request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{StatusCode, header};
use tracing::{debug, info};

use super::login::User;
use super::router::Registry;
use crate::serving::Peer;

/// The most characters of a path or of a client's name that are logged.
const MOST: usize = 300;

/// Times a request to its answer's head; the body may take longer.
pub(super) async fn request(State(registry): State<Registry>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), shortened(request.uri().path()));
    // The pattern, of which there are few, and never a path, of which there is no end.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    // Whom the proxies before it say to have been asked by.
    let source = peer.map(|peer| registry.proxies.source(peer, request.headers()));
    let source = source.filter(|source| peer.is_some_and(|peer| peer.ip().to_canonical() != *source));
    let source = source.map(tracing::field::display);
    let peer = peer.map(tracing::field::display);
    let client =
        request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(shortened);
    let response = next.run(request).await;
    let status = response.status();
    let user = response.extensions().get::<User>().map(|user| tracing::field::display(&user.0));
    let elapsed_ms = start.elapsed().as_millis() as u64;
    metrics::counter!(
        "buildgrid_registry_requests_total",
        "route" => route.clone(),
        "status" => status.as_str().to_owned()
    )
    .increment(1);
    // Who pulls what, and what is refused, is for operators; a 401 begins every client's login.
    let pull = route.ends_with("/manifests/{reference}");
    if status != StatusCode::UNAUTHORIZED && (pull || !status.is_success()) {
        info!(%method, path, status = status.as_u16(), user, peer, source, client, elapsed_ms, "request");
    } else {
        debug!(%method, path, status = status.as_u16(), user, peer, source, client, elapsed_ms, "request");
    }
    response
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
