//! git's smart HTTP requests over reqwest: the address checked and pinned, redirects followed on the
//! same server only, every wait bounded. The protocol is that of git's
//! Documentation/gitprotocol-http.txt. Credentials go with every request, to the server of the
//! repository's URL and no other.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::HeaderValue;
use ::http::StatusCode;
use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, USER_AGENT};
use ::url::{Host, Url};
use bytes::Bytes;
use data_encoding::BASE64;
use reqwest::{Client, Response};
use secrecy::{ExposeSecret, SecretString};

use super::address::{AllowedAddress, is_public, permitted};
use super::credentials::{Credential, Login};
use super::error::SourceError;
use super::session::{Session, Whose};

/// Some forges answer only to clients that call themselves git.
const AGENT: &str = concat!("git/2.0 (buildgrid ", env!("CARGO_PKG_VERSION"), ")");
/// Redirects that are followed before the advertisement of refs.
const MAX_REDIRECTS: usize = 5;
const INFO_REFS: &str = "/info/refs";
const SERVICE: &str = "service=git-upload-pack";

/// A client for the one server of a session, connected to an address that was checked.
pub(super) struct Http {
    client: Client,
    authorization: Option<HeaderValue>,
    pub(super) session: Arc<Session>,
}

impl Http {
    /// Resolves the repository's host, checks every address, and pins the permitted ones.
    pub(super) fn connect(session: Arc<Session>) -> Result<Self, SourceError> {
        let url = session.base();
        let allowed = &session.allowed;
        let network = &session.config.network;
        let builder = network.client(&url).map_err(|error| unreachable(&session, format!("{error:#}")))?;
        let mut builder = builder.user_agent(AGENT).connect_timeout(session.config.connect_timeout);
        let mut is_far = true;
        match url.host() {
            // The proxy resolves the name, and decides what may be reached.
            Some(Host::Domain(_)) if network.proxy_for(&url).is_some() => {}
            Some(Host::Domain(host)) => {
                let addresses = resolve(&session, host, url.port_or_known_default().unwrap_or(0))?;
                let addresses = checked(host, addresses, allowed)?;
                is_far = addresses.iter().any(|address| is_public(address.ip()));
                builder = builder.resolve_to_addrs(host, &addresses);
            }
            Some(Host::Ipv4(address)) => {
                checked(&address.to_string(), vec![SocketAddr::new(address.into(), 0)], allowed)?;
                is_far = is_public(address.into());
            }
            Some(Host::Ipv6(address)) => {
                checked(&address.to_string(), vec![SocketAddr::new(address.into(), 0)], allowed)?;
                is_far = is_public(address.into());
            }
            None => return Err(unreachable(&session, "the URL has no host".to_owned())),
        }
        let client = builder.build().map_err(|error| unreachable(&session, reason(&error)))?;
        let authorization = match &session.whose.credential {
            // On networks that the operator has allowed, the file with this URL is the operator's own choice.
            Some(Credential { name, .. }) if url.scheme() == "http" && is_far => {
                let (url, name) = (session.url.clone(), name.clone());
                return Err(SourceError::UnprotectedCredential { url, name });
            }
            Some(credential) => Some(authorization(credential)?),
            None => None,
        };
        Ok(Self { client, authorization, session })
    }

    /// `GET <repository>/info/refs?service=git-upload-pack`.
    pub(super) fn refs(&self) -> Result<Body, SourceError> {
        let base = self.session.base();
        let mut url = base.clone();
        url.set_path(&format!("{}{INFO_REFS}", base.path().trim_end_matches('/')));
        url.set_query(Some(SERVICE));
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send("the list of refs", self.client.get(url.clone()))?;
            if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
                url = self.redirected(&url, &response)?;
                continue;
            }
            self.expect(&response, "application/x-git-upload-pack-advertisement")?;
            // The base for what follows is where the refs were found.
            let path = url.path().strip_suffix(INFO_REFS).unwrap_or_default().to_owned();
            url.set_path(&path);
            url.set_query(None);
            self.session.set_base(url);
            return Ok(self.body(response));
        }
        Err(SourceError::NotARepository {
            url: self.session.url.clone(),
            reason: format!("more than {MAX_REDIRECTS} redirects"),
        })
    }

    /// `POST <repository>/git-upload-pack`.
    pub(super) fn upload_pack(&self, request: Vec<u8>) -> Result<Body, SourceError> {
        let mut url = self.session.base();
        url.set_path(&format!("{}/git-upload-pack", url.path().trim_end_matches('/')));
        let request = self
            .client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header(ACCEPT, "application/x-git-upload-pack-result")
            .body(request);
        let response = self.send("the answer to the request for objects", request)?;
        if response.status().is_redirection() {
            // As git: only the first request of a fetch may be redirected.
            let target = response.headers().get(LOCATION).map(|target| target.as_bytes()).unwrap_or_default();
            let target = String::from_utf8_lossy(target);
            let target = url.join(&target).map_or_else(|_| "an unreadable address".to_owned(), shown);
            return Err(self.refused(target, "which a fetch under way cannot follow"));
        }
        self.expect(&response, "application/x-git-upload-pack-result")?;
        Ok(self.body(response))
    }

    fn send(&self, doing: &'static str, request: reqwest::RequestBuilder) -> Result<Response, SourceError> {
        let mut request = request.header(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        self.session.wait(doing, self.session.stall_limit(), async {
            request.send().await.map_err(|error| match error.is_connect() && error.is_timeout() {
                true => {
                    let (limit, key) = self.session.connect_limit();
                    self.session.timed_out("connecting", limit, key)
                }
                false => unreachable(&self.session, reason(&error)),
            })
        })
    }

    /// Where a redirect of the advertisement leads, if it stays on the server.
    fn redirected(&self, from: &Url, response: &Response) -> Result<Url, SourceError> {
        let location = &response.headers()[LOCATION];
        let unreadable = || self.refused("an unreadable address".to_owned(), "which is not followed");
        let target = location.to_str().ok().and_then(|text| from.join(text).ok()).ok_or_else(unreadable)?;
        let reason = match () {
            () if target.host() != from.host() => "which is another host",
            () if target.scheme() != from.scheme() => "which is another scheme",
            () if target.port_or_known_default() != from.port_or_known_default() => "which is another port",
            () if !target.username().is_empty() || target.password().is_some() => {
                "which contains credentials"
            }
            () if !target.path().ends_with(INFO_REFS) || target.query() != Some(SERVICE) => {
                "which is not where a repository's refs are"
            }
            () => match self.permitted(&target) {
                Ok(()) => return Ok(target),
                Err(reason) => return Err(self.refused(shown(target), reason)),
            },
        };
        Err(self.refused(shown(target), reason))
    }

    /// Whether the namespace's rules and the credential in use are for where a redirect leads, too.
    fn permitted(&self, target: &Url) -> Result<(), String> {
        let repository = shown(target.clone());
        let url = repository.parse().map_err(|error| format!("which cannot be used: {error}"))?;
        let Whose { permit, credential, .. } = &self.session.whose;
        permit(&url).map_err(|reason| format!("which the rules do not allow: {reason}"))?;
        match credential {
            Some(credential) if !credential.is_for(&url) => {
                let name = &credential.name;
                Err(format!(
                    "which the credential {name} is not for; name that URL in the event, or widen the credential's"
                ))
            }
            _ => Ok(()),
        }
    }

    fn refused(&self, target: String, reason: impl Into<String>) -> SourceError {
        SourceError::RefusedRedirect { url: self.session.url.clone(), target, reason: reason.into() }
    }

    fn expect(&self, response: &Response, content_type: &str) -> Result<(), SourceError> {
        let url = || self.session.url.clone();
        let status = response.status();
        let how = || format!("HTTP status {}", status.as_u16());
        let with = self.session.whose.credential.as_ref().map(|credential| credential.name.clone());
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.session.unauthorized(how())),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let namespace = self.session.whose.namespace.clone();
                return Err(SourceError::RepositoryNotFound { url: url(), how: how(), namespace, with });
            }
            status => return Err(unreachable(&self.session, format!("it answered {status}"))),
        }
        let sent = response.headers().get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
        match sent == content_type.as_bytes() {
            true => Ok(()),
            false => Err(SourceError::NotARepository {
                url: url(),
                reason: format!("it answered with {:?}", String::from_utf8_lossy(sent)),
            }),
        }
    }

    fn body(&self, response: Response) -> Body {
        Body { response, rest: Bytes::new(), session: Arc::clone(&self.session) }
    }
}

/// An answer's body, read in pieces on a blocking thread.
pub(super) struct Body {
    response: Response,
    rest: Bytes,
    session: Arc<Session>,
}

impl Body {
    /// The next piece; empty at the end.
    pub(super) fn next(&mut self) -> Result<Bytes, SourceError> {
        loop {
            if !self.rest.is_empty() {
                return Ok(std::mem::take(&mut self.rest));
            }
            let session = Arc::clone(&self.session);
            let chunk = session.wait("the next byte", session.stall_limit(), async {
                let lost = |error| unreachable(&session, format!("the connection broke: {}", reason(&error)));
                self.response.chunk().await.map_err(lost)
            })?;
            let Some(chunk) = chunk else { return Ok(Bytes::new()) };
            session.count(chunk.len())?;
            self.rest = chunk;
        }
    }

    /// Puts back what was taken and not used.
    pub(super) fn put_back(&mut self, rest: Bytes) {
        self.rest = rest;
    }
}

pub(super) fn resolve(session: &Session, host: &str, port: u16) -> Result<Vec<SocketAddr>, SourceError> {
    session.wait("resolving the host's name", session.connect_limit(), async {
        let found = tokio::net::lookup_host((host, port)).await;
        let found: Vec<_> =
            found.map_err(|error| unreachable(session, format!("cannot resolve {host}: {error}")))?.collect();
        match found.is_empty() {
            true => Err(unreachable(session, format!("{host} has no address"))),
            false => Ok(found),
        }
    })
}

/// The addresses that may be connected to; an error if there is none.
pub(super) fn checked(
    host: &str,
    addresses: Vec<SocketAddr>,
    allowed: &[AllowedAddress],
) -> Result<Vec<SocketAddr>, SourceError> {
    let (permitted, refused): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| permitted(host, address.ip(), allowed));
    match refused.first() {
        Some(address) if permitted.is_empty() => {
            Err(SourceError::RefusedAddress { host: host.to_owned(), address: address.ip().to_string() })
        }
        _ => Ok(permitted),
    }
}

/// The header that carries a credential, which is never logged.
fn authorization(credential: &Credential) -> Result<HeaderValue, SourceError> {
    let value = match &credential.login {
        Login::Password { username, password } => {
            let login = SecretString::from(format!("{username}:{}", password.expose_secret()));
            format!("Basic {}", BASE64.encode(login.expose_secret().as_bytes()))
        }
        Login::Token(token) => format!("Bearer {}", token.expose_secret()),
        Login::Key(_) => String::new(),
    };
    let mut value = HeaderValue::try_from(value).map_err(|_| SourceError::BadCredential {
        name: credential.name.clone(),
        reason: "it has a character that HTTP cannot carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A URL as it may be shown: without credentials and query.
fn shown(mut url: Url) -> String {
    url.set_query(None);
    url.set_fragment(None);
    // They fail only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let text = url.to_string();
    text.strip_suffix(INFO_REFS).unwrap_or(&text).to_owned()
}

pub(super) fn unreachable(session: &Session, reason: String) -> SourceError {
    SourceError::Unreachable { url: session.url.clone(), reason }
}

/// An error with its causes, without repeating the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut parts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Wrappers often repeat the words of what they wrap.
        parts.retain(|part: &String| !part.contains(&text));
        parts.push(text);
        cause = error.source();
    }
    match parts.is_empty() {
        true => "the request failed".to_owned(),
        false => parts.join(": "),
    }
}
