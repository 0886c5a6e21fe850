//! From a request to who asks.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use axum_extra::headers::authorization::Bearer;
use axum_extra::headers::{Authorization, HeaderMapExt as _};
use http::request::Parts;
use time::OffsetDateTime;

use super::{Principal, Scope, Secret, session};
use crate::publish::name::Namespace;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// Who asks, if anybody is known; an extension of every request.
#[derive(Debug, Clone)]
pub struct Identity(pub Option<Principal>);

/// Finds out who asks: by the token, else by the session. A token that is not known is refused at once, so
/// that a program does not go on as nobody.
pub async fn identify(State(timeline): State<Arc<Timeline>>, mut request: Request, next: Next) -> Response {
    let token = request.headers().typed_get::<Authorization<Bearer>>();
    let found = match token {
        Some(bearer) => match timeline.database.token(&Secret::given(bearer.token())).await {
            Ok(Some(principal)) => Ok(Some(principal)),
            Ok(None) => return Refusal::Unauthorized.into_response(),
            Err(error) => Err(error),
        },
        None => match session::secret(&CookieJar::from_headers(request.headers()), timeline.secure) {
            Some(secret) => timeline.database.session(&secret, OffsetDateTime::now_utc()).await,
            None => Ok(None),
        },
    };
    match found {
        Ok(principal) => {
            request.extensions_mut().insert(Identity(principal));
            next.run(request).await
        }
        Err(error) => Refusal::from(error).into_response(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let identity = parts.extensions.get::<Identity>();
        identity.and_then(|identity| identity.0.clone()).ok_or(Refusal::Unauthorized)
    }
}

impl Principal {
    /// Refuses what this login may not do anywhere.
    pub fn must(&self, scope: Scope) -> Result<(), Refusal> {
        match self.may(scope) {
            true => Ok(()),
            false => Err(Refusal::Forbidden(scope.words())),
        }
    }

    /// Refuses what is another namespace's, as if it were not there. `what` names it.
    pub fn must_see(&self, namespace: &Namespace, what: impl FnOnce() -> String) -> Result<(), Refusal> {
        match self.namespaces.hold(namespace) {
            true => Ok(()),
            false => Err(Refusal::NotFound(what())),
        }
    }
}
