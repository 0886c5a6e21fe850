//! Logins: who asks, and what may be read without a login, on every route under `/v2/`.
//!
//! A login is HTTP Basic with a credential of the store. Where a namespace is public, clients are asked for a token
//! instead (the token authentication of CNCF Distribution): told of Basic, docker asks for nothing without a login, and
//! told of neither it never sends the one it has, and calls any password right. A token is the login itself, or
//! [`ANONYMOUS`]: nothing is signed, kept or expires, and what is removed from the store is refused with a token as it
//! is without.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use http::request::Parts;
use http::{HeaderMap, header};
use serde_json::json;
use url::Url;

use super::config::RegistryConfig;
use super::error::RegistryError;
use super::router::Registry;
use crate::network;
use crate::publish::name::Namespace;
use crate::serving::Peer;
use crate::store::{Credential, UserName};

/// The route that gives out tokens.
pub(super) const TOKEN_ROUTE: &str = "/v2/_token";
/// The token of who has no login.
const ANONYMOUS: &str = "anonymous";
/// How long clients keep a token, in seconds, before they ask again; any length would do.
const TOKEN_KEPT_S: u32 = 300;

/// Who made a request, or is told to wait; on the response, for its log line.
#[derive(Debug, Clone)]
pub(super) struct User(pub(super) UserName);

/// Who asks, as far as it matters for what may be read.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    credential: Option<Arc<Credential>>,
    public: Arc<BTreeSet<Namespace>>,
}

impl Reader {
    pub(super) fn may_read(&self, namespace: &Namespace) -> bool {
        self.namespaces().any(|readable| readable == namespace)
    }

    /// All that may be read: the login's namespaces and the public ones, some twice.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let own = self.credential.iter().flat_map(|credential| &credential.namespaces);
        own.chain(&*self.public)
    }
}

/// Lets a request pass with its [`Reader`].
pub(super) async fn require(registry: &Registry, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let reader = match reader(registry, &head).await {
        Ok(reader) => reader,
        Err(error) => {
            let mut response = error.into_response();
            // An operator looks for the machine that is told to wait by the login that it tries.
            if let RegistryError::TooManyFailures { .. } = error
                && let Ok(Shown::Login { user, .. }) = Shown::in_headers(&head.headers)
                && let Ok(user) = user.parse()
            {
                response.extensions_mut().insert(User(user));
            }
            return response;
        }
    };
    let user = reader.credential.as_ref().map(|credential| User(credential.user.clone()));
    head.extensions.insert(reader);
    let mut response = next.run(Request::from_parts(head, body)).await;
    if let Some(user) = user {
        response.extensions_mut().insert(user);
    }
    response
}

async fn reader(registry: &Registry, request: &Parts) -> Result<Reader, RegistryError> {
    let public = registry.public.clone();
    let credential = match Shown::in_headers(&request.headers)? {
        Shown::Login { user, password } => Some(verified(registry, request, &user, &password).await?),
        Shown::Nothing if is_public(&public, request.uri.path()) => None,
        Shown::Nothing => return Err(RegistryError::Unauthorized),
    };
    Ok(Reader { credential, public })
}

/// Whether a path is for everybody: what is below a public namespace, and the token to ask for it with. A name that is
/// spelled in another way than it is written needs a login.
fn is_public(public: &BTreeSet<Namespace>, path: &str) -> bool {
    let namespace = path.strip_prefix("/v2/").and_then(|rest| Some(rest.split_once('/')?.0));
    match namespace {
        Some(namespace) => public.iter().any(|public| public.as_str() == namespace),
        None => path == TOKEN_ROUTE && !public.is_empty(),
    }
}

async fn verified(
    registry: &Registry,
    request: &Parts,
    user: &str,
    password: &str,
) -> Result<Arc<Credential>, RegistryError> {
    if let Some(found) = registry.logins.verify(&registry.store, user, password).await? {
        return Ok(found);
    }
    // Where the store is away, no login is there.
    registry.store.check().await?;
    // Nobody guesses 160 bits. Who is told to wait is a machine with an old password, which asks for ever; others
    // behind the same address, with right ones, are not.
    let peer = request.extensions.get::<Peer>().map(|peer| peer.0);
    let source = peer.map(|peer| registry.proxies.source(peer, &request.headers));
    let wait = source.and_then(|source| registry.guesses.failed(user, source, Instant::now()));
    Err(wait.map_or(RegistryError::Unauthorized, |wait| RegistryError::TooManyFailures {
        wait_s: wait.as_secs() + 1,
    }))
}

/// What a request shows of who it is from.
enum Shown {
    Nothing,
    Login { user: String, password: String },
}

impl Shown {
    fn in_headers(headers: &HeaderMap) -> Result<Self, RegistryError> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let Some(line) = lines.next() else { return Ok(Self::Nothing) };
        // Which of several would count is for a proxy to decide in one way and for us in another.
        if lines.next().is_some() {
            return Err(RegistryError::AmbiguousLogin);
        }
        let line = line.to_str().map_err(|_| RegistryError::Unauthorized)?;
        let (scheme, shown) = line.split_once(' ').ok_or(RegistryError::Unauthorized)?;
        let shown = shown.trim();
        let is_token = scheme.eq_ignore_ascii_case("Bearer");
        if is_token && shown == ANONYMOUS {
            return Ok(Self::Nothing);
        }
        if !is_token && !scheme.eq_ignore_ascii_case("Basic") {
            return Err(RegistryError::Unauthorized);
        }
        Self::login(shown).ok_or(RegistryError::Unauthorized)
    }

    /// Of Basic (RFC 7617) and of a token alike.
    fn login(encoded: &str) -> Option<Self> {
        let login = String::from_utf8(BASE64.decode(encoded.as_bytes()).ok()?).ok()?;
        let (user, password) = login.split_once(':')?;
        Some(Self::Login { user: user.to_owned(), password: password.to_owned() })
    }
}

/// GET [`TOKEN_ROUTE`]: a token for who is logged in, or for nobody. Which repository it is asked for makes no
/// difference, since what may be read is judged when it is read.
pub(super) async fn token(
    Extension(reader): Extension<Reader>,
    headers: HeaderMap,
) -> Result<Response, RegistryError> {
    let token = match (reader.credential, Shown::in_headers(&headers)?) {
        (Some(_), Shown::Login { user, password }) => BASE64.encode(format!("{user}:{password}").as_bytes()),
        _ => ANONYMOUS.to_owned(),
    };
    // Clients look for the one or the other.
    let answer = json!({"token": token, "access_token": token, "expires_in": TOKEN_KEPT_S});
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// What a client without a login is told of how to log in (RFC 9110, 11.6.1).
pub(super) fn challenge(config: &RegistryConfig, host: &str) -> String {
    let RegistryConfig { public_namespaces, tls, .. } = config;
    if public_namespaces.is_empty() {
        return "Basic realm=\"BuildGrid registry\"".to_owned();
    }
    // Never by what a request says of the host.
    let name = format!("http://{host}").parse::<Url>();
    let is_own = name.is_ok_and(|name| name.host().is_some_and(|host| network::is_own(&host)));
    let scheme = if is_own && tls.is_none() { "http" } else { "https" };
    format!("Bearer realm=\"{scheme}://{host}{TOKEN_ROUTE}\",service=\"{host}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_public_by_its_namespace_as_it_is_written() {
        let public = ["acme", "open"].map(|name| name.parse().unwrap()).into();
        for path in ["/v2/acme/shop.web/manifests/v1", "/v2/open/x", "/v2/acme/", TOKEN_ROUTE] {
            assert!(is_public(&public, path), "{path}");
            assert!(!is_public(&BTreeSet::new(), path), "{path}");
        }
        for path in [
            "/v2",
            "/v2/",
            "/v2/_catalog",
            "/v2/acme",
            "/v2/acme-b/x",
            "/v2/%61cme/x",
            "/v2//acme/x",
            "/v2/ACME/x",
            "/acme/x",
            "/v2/other/acme/x",
            "/v2/_token/",
            "/v2/_token/x",
        ] {
            assert!(!is_public(&public, path), "{path}");
        }
    }

    #[test]
    fn the_challenge_follows_the_configuration() {
        let of = |host: &str, public: &[&str]| {
            let public_namespaces = public.iter().map(|name| name.parse().unwrap()).collect();
            challenge(&RegistryConfig { public_namespaces, ..RegistryConfig::default() }, host)
        };
        assert_eq!(of("localhost:5000", &[]), "Basic realm=\"BuildGrid registry\"");
        for (host, scheme) in [
            ("localhost:5000", "http"),
            ("127.0.0.1:5000", "http"),
            ("[::1]:5000", "http"),
            ("images.example.com", "https"),
        ] {
            let expected = format!("Bearer realm=\"{scheme}://{host}/v2/_token\",service=\"{host}\"");
            assert_eq!(of(host, &["acme"]), expected);
        }
        let section = "tls = { certificate = \"c\", key = \"k\" }\npublic_namespaces = [\"acme\"]";
        let secured = challenge(&toml::from_str(section).unwrap(), "localhost:5000");
        assert!(secured.starts_with("Bearer realm=\"https://localhost:5000/"), "{secured}");
    }
}
