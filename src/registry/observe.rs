//! One log line and one count per request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{StatusCode, header};
use tracing::{debug, info};

use super::login::User;
use crate::serving::Peer;

/// Times a request to its answer's head; the body may take longer.
pub(super) async fn request(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // The pattern, of which there are few, and never a path, of which there is no end.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let peer = request.extensions().get::<Peer>().map(|peer| tracing::field::display(peer.0));
    let client =
        request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
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
        info!(%method, path, status = status.as_u16(), user, peer, client, elapsed_ms, "request");
    } else {
        debug!(%method, path, status = status.as_u16(), user, peer, client, elapsed_ms, "request");
    }
    response
}
