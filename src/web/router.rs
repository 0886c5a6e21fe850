//! The routes, and the order in which a request is judged: observed, kept from other sites' pages,
//! identified, answered.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderName, HeaderValue, StatusCode, header};
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::access::identify;
use super::api;
use super::pages::CONTENT_SECURITY_POLICY;
use super::refusal::Refusal;
use super::service::Timeline;
use super::site::{self, Fault};

/// The service as one router.
pub(super) fn router(timeline: Arc<Timeline>) -> Router {
    let (api, document) = api::router().split_for_parts();
    let document = Arc::new(document);
    let serve_document = move || {
        let document = document.clone();
        async move { Json((*document).clone()) }
    };
    // What browsers send along by themselves, cookies, must not be used by other sites' pages.
    let csrf =
        CsrfLayer::new().with_rejection_response(|_: ProtectionError| Refusal::CrossSite.into_response());
    Router::new()
        .merge(site::router())
        .merge(api)
        .route(&format!("{}/openapi.json", api::BASE), get(serve_document))
        .method_not_allowed_fallback(|| async { Refusal::MethodNotAllowed })
        .fallback(elsewhere)
        .layer(middleware::from_fn_with_state(timeline.clone(), identify))
        .layer(csrf)
        .layer(middleware::from_fn(headers))
        .layer(middleware::from_fn(observe))
        .with_state(timeline)
}

async fn elsewhere(request: Request) -> Response {
    let path = request.uri().path();
    let refusal = Refusal::NotFound(format!("page {:?}", path.chars().take(200).collect::<String>()));
    match path == "/api" || path.starts_with("/api/") {
        true => refusal.into_response(),
        false => Fault(refusal).into_response(),
    }
}

/// What every answer says to browsers.
async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What one login sees is no other's.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// One log line and one count for each request.
async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // The pattern, of which there are few, and never a path, of which there is no end.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let status = response.status();
    let elapsed_ms = started.elapsed().as_millis() as u64;
    metrics::counter!(
        "buildgrid_timeline_requests_total",
        "route" => route,
        "status" => status.as_str().to_owned()
    )
    .increment(1);
    match status {
        status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
            tracing::error!(%method, path, status = status.as_u16(), elapsed_ms, "request");
        }
        _ => tracing::debug!(%method, path, status = status.as_u16(), elapsed_ms, "request"),
    }
    response
}
