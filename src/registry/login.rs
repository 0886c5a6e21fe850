//! Logins: HTTP Basic with a credential of the store, on every route under `/v2/`.

use std::time::Instant;

use axum::RequestExt as _;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum_extra::TypedHeader;
use axum_extra::headers::Authorization;
use axum_extra::headers::authorization::Basic;
use http::header;

use super::error::RegistryError;
use super::router::Registry;
use crate::serving::Peer;
use crate::store::{Credential, UserName};

/// Who made a request; on the response, for its log line.
#[derive(Debug, Clone)]
pub(super) struct User(pub(super) UserName);

/// Lets a request pass with its [`Credential`], read from the store each time, so that a removed one
/// is refused at once.
pub(super) async fn require(registry: &Registry, mut request: Request, next: Next) -> Response {
    let credential = match login(registry, &mut request).await {
        Ok(credential) => credential,
        Err(error) => return error.into_response(),
    };
    let user = User(credential.user.clone());
    request.extensions_mut().insert(credential);
    let mut response = next.run(request).await;
    response.extensions_mut().insert(user);
    response
}

async fn login(registry: &Registry, request: &mut Request) -> Result<Credential, RegistryError> {
    // Which of several would count is for a proxy to decide in one way and for us in another.
    if request.headers().get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Err(RegistryError::AmbiguousLogin);
    }
    let TypedHeader(Authorization(basic)) = request
        .extract_parts::<TypedHeader<Authorization<Basic>>>()
        .await
        .map_err(|_| RegistryError::Unauthorized)?;
    if let Some(found) = registry.store.verify_credential(basic.username(), basic.password()).await? {
        return Ok(found);
    }
    // Nobody guesses 160 bits. Who is told to wait is a machine with an old password, which asks for ever; others
    // behind the same address, with right ones, are not.
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let source = peer.map(|peer| registry.proxies.source(peer, request.headers()));
    let wait = source.and_then(|source| registry.guesses.failed(basic.username(), source, Instant::now()));
    Err(wait.map_or(RegistryError::Unauthorized, |wait| RegistryError::TooManyFailures {
        wait_s: wait.as_secs() + 1,
    }))
}
