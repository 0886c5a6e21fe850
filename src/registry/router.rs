//! The routes of the registry and the order in which a request is judged.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::json;

use super::config::RegistryConfig;
use super::error::RegistryError;
use super::logins::Logins;
use super::manifests::{self, Manifests};
use super::referrers::{self, Subjects};
use super::{blobs, listings, login, observe};
use crate::config::Live;
use crate::publish::name::Namespace;
use crate::serving::tls::Tls;
use crate::serving::{Guesses, Proxies};
use crate::store::Store;

/// The longest request head, in bytes: what common servers and proxies take. A digest, a tag, a login and the media
/// types that a client lists are less than 2 KiB together.
const MAX_HEAD: usize = 32 << 10;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What the registry serves from; cheap to clone.
#[derive(Clone)]
pub struct Registry {
    pub(super) store: Store,
    pub(super) config: Arc<RegistryConfig>,
    /// Logins that failed.
    pub(super) guesses: Arc<Guesses>,
    /// Who is believed about where a request comes from.
    pub(super) proxies: Proxies,
    /// What may be read without a login.
    pub(super) public: Arc<BTreeSet<Namespace>>,
    /// Where `registry.host` may be another by now.
    live: Option<Live>,
    /// Logins that were right a moment ago.
    pub(super) logins: Logins,
    /// Manifests that were served.
    pub(super) manifests: Manifests,
    /// What is known of manifests that were looked at.
    pub(super) subjects: Subjects,
    pub(super) tls: Option<Tls>,
}

impl Registry {
    /// A registry of this store, which it only reads.
    pub fn new(config: RegistryConfig, proxies: Proxies, store: Store) -> Self {
        Self {
            store,
            public: Arc::new(config.public_namespaces.clone()),
            live: None,
            config: Arc::new(config),
            guesses: Arc::new(Guesses::of_machines()),
            proxies,
            logins: Logins::default(),
            manifests: Manifests::default(),
            subjects: Subjects::default(),
            tls: None,
        }
    }

    /// One whose host changes with a configuration that is reloaded.
    pub fn following(self, live: Live) -> Self {
        Self { live: Some(live), ..self }
    }

    /// How to log in.
    fn challenge(&self) -> HeaderValue {
        let newest = self.live.as_ref().map(|live| live.now().registry.host);
        let host = newest.as_ref().unwrap_or(&self.config.host);
        HeaderValue::try_from(login::challenge(&self.config, host))
            .expect("a host that was checked is printable")
    }

    /// As configured in `registry.tls`, if it is.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }
}

/// A pattern and what answers there.
type Route = (&'static str, fn() -> MethodRouter<Registry>);

/// All that is served. Names have two components, so every route is a fixed pattern.
const ROUTES: [Route; 8] = [
    ("/v2", || get(version)),
    ("/v2/", || get(version)),
    (login::TOKEN_ROUTE, || get(login::token)),
    ("/v2/_catalog", || get(listings::catalog)),
    ("/v2/{namespace}/{name}/manifests/{reference}", || get(manifests::manifest)),
    ("/v2/{namespace}/{name}/blobs/{digest}", || get(blobs::blob)),
    ("/v2/{namespace}/{name}/tags/list", || get(listings::tags)),
    ("/v2/{namespace}/{name}/referrers/{digest}", || get(referrers::referrers)),
];

/// The patterns of all routes.
pub fn routes() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|(pattern, _)| *pattern)
}

/// The registry as a service. What fits no route under `/v2/` is a repository that cannot exist here.
pub fn router(registry: Registry) -> Router {
    let routes =
        ROUTES.iter().fold(Router::new(), |routes, (pattern, handler)| routes.route(pattern, handler()));
    routes
        .fallback(elsewhere)
        .layer(middleware::from_fn_with_state(registry.clone(), judge))
        .layer(middleware::from_fn_with_state(registry.clone(), observe::request))
        .with_state(registry)
}

/// Under `/v2/` nothing is ever written, whoever asks: that answer needs no login, so that
/// `docker push` shows it. Everything else there needs one, but for what is public.
async fn judge(State(registry): State<Registry>, request: Request, next: Next) -> Response {
    if !is_api(request.uri()) {
        return next.run(request).await;
    }
    let mut response = match *request.method() {
        _ if head_length(&request) > MAX_HEAD => RegistryError::HeadTooLarge.into_response(),
        Method::GET | Method::HEAD => login::require(&registry, request, next).await,
        _ => RegistryError::ReadOnly.into_response(),
    };
    // Where the store is away, nothing is there: that must not look like an image that is gone.
    if response.status() == StatusCode::NOT_FOUND
        && let Err(error) = registry.store.check().await
    {
        response = RegistryError::from(error).into_response();
    }
    let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if is_unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, registry.challenge());
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn head_length(request: &Request) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    target + headers.sum::<usize>()
}

/// That the API is there and the login is good (OCI distribution specification 1.1, end-1).
async fn version() -> Response {
    Json(json!({})).into_response()
}

async fn elsewhere(uri: Uri) -> Response {
    match is_api(&uri) {
        true => RegistryError::NameUnknown.into_response(),
        false => {
            (StatusCode::NOT_FOUND, "This is a BuildGrid registry; its API is under /v2/.\n").into_response()
        }
    }
}

fn is_api(uri: &Uri) -> bool {
    uri.path().strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
