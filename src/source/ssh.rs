//! git over SSH: `git-upload-pack` at the other end of a channel. The address is checked and pinned as over HTTPS, the
//! server's key has to be known before anything is sent, and the private key is in memory only.
//!
//! Of the two, only the server's key is the operator's to confirm; where it cannot be, the error says its fingerprint
//! and the line that would pin it.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::url::Host;
use bytes::Bytes;
use russh::client::{self, AuthResult, Handle, Handler, Msg};
use russh::keys::ssh_key::EcdsaCurve;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{AlgorithmKind, Channel, ChannelMsg, Preferred};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::credentials::{Credential, Login};
use super::error::SourceError;
use super::http::{checked, resolve, unreachable};
use super::session::Session;
use super::url::RepositoryUrl;

const PORT: u16 = 22;
/// As much of what the server says beside the protocol as is quoted, in bytes.
const MAX_WORDS: usize = 500;
/// The kinds of keys that can be used, of servers and of ours. RSA is none: the library for it leaks private keys by the
/// time that it takes (RUSTSEC-2023-0071).
const KEYS: [Algorithm; 4] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
];

/// A conversation with `git-upload-pack`. Dropping it ends the connection.
pub(super) struct Conversation {
    pub(super) session: Arc<Session>,
    channel: Channel<Msg>,
    /// Bytes that came and were not used yet.
    rest: Bytes,
    /// What the server writes for people.
    words: Vec<u8>,
    exit: Option<u32>,
    /// Whether anything came that belongs to the protocol.
    begun: bool,
    _handle: Handle<Server>,
    _end: DropGuard,
}

impl Conversation {
    /// Connects, logs in and starts the program.
    pub(super) fn begin(session: Arc<Session>) -> Result<Self, SourceError> {
        let Some(Credential { name, login: Login::Key(pem), .. }) = &session.whose.credential else {
            return Err(session.unauthorized("SSH, by a key".to_owned()));
        };
        let key = private_key(name, pem.expose_secret())?;
        // known_hosts has IPv6 addresses without the brackets of URLs.
        let host = session.repository.as_url().host_str().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = session.repository.as_url().port().unwrap_or(PORT);
        let pinned = pinned(&session, &host, port)?;
        let address = match session.repository.as_url().host() {
            Some(Host::Domain(_)) | None => resolve(&session, &host, port)?,
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
        };
        let addresses = checked(&host, address, &session.allowed)?;
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let server = Server { session: Arc::clone(&session), host: named(&host, port), pinned };
        let work = async {
            let stream = TcpStream::connect(addresses.as_slice())
                .await
                .map_err(|error| unreachable(&session, error.to_string()))?;
            let stream = Ending { stream, end: Box::pin(end.cancelled_owned()) };
            open(&session, stream, server, key).await
        };
        let (channel, handle) = session.wait("connecting and logging in", session.connect_limit(), work)?;
        Ok(Self {
            channel,
            rest: Bytes::new(),
            words: Vec::new(),
            exit: None,
            begun: false,
            _handle: handle,
            _end: guard,
            session,
        })
    }

    /// The next piece of what the program writes; empty at its end.
    pub(super) fn next(&mut self) -> Result<Bytes, SourceError> {
        loop {
            if !self.rest.is_empty() {
                return Ok(std::mem::take(&mut self.rest));
            }
            let session = Arc::clone(&self.session);
            let message = session
                .wait("the next byte", session.stall_limit(), async { Ok(self.channel.wait().await) })?;
            match message {
                Some(ChannelMsg::Data { data }) => {
                    session.count(data.len())?;
                    self.begun = true;
                    self.rest = data;
                }
                Some(ChannelMsg::ExtendedData { data, .. }) => {
                    let room = MAX_WORDS.saturating_sub(self.words.len());
                    self.words.extend_from_slice(&data[..data.len().min(room)]);
                }
                Some(ChannelMsg::ExitStatus { exit_status }) => self.exit = Some(exit_status),
                Some(ChannelMsg::Failure) => return Err(self.refused("it runs no git-upload-pack for us")),
                Some(ChannelMsg::Close) => return self.ended(),
                None => return Err(unreachable(&session, "the connection broke".to_owned())),
                // After the end of its output comes how the program has ended.
                Some(_) => {}
            }
        }
    }

    /// Puts back what was taken and not used.
    pub(super) fn put_back(&mut self, rest: Bytes) {
        self.rest = rest;
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        let session = &self.session;
        session.wait("sending the request", session.stall_limit(), async {
            let sent = self.channel.data_bytes(Bytes::copy_from_slice(bytes)).await;
            sent.map_err(|_| unreachable(session, "the connection broke".to_owned()))
        })
    }

    /// What the end of the program means: before it has said anything, that it does not serve the repository.
    fn ended(&self) -> Result<Bytes, SourceError> {
        match (self.begun, self.exit) {
            (true, _) => Ok(Bytes::new()),
            (false, Some(status)) => Err(self.refused(&format!("git-upload-pack ended with {status}"))),
            (false, None) => Err(self.refused("git-upload-pack said nothing")),
        }
    }

    fn refused(&self, reason: &str) -> SourceError {
        let words = String::from_utf8_lossy(&self.words);
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let words: String = words.chars().filter(|character| !character.is_control()).collect();
        let how = match words.is_empty() {
            true => format!("over SSH: {reason}"),
            false => format!("over SSH: {reason} and says {words:?}"),
        };
        let with = self.session.whose.credential.as_ref().map(|credential| credential.name.clone());
        let (url, namespace) = (self.session.url.clone(), self.session.whose.namespace.clone());
        SourceError::RepositoryNotFound { url, how, namespace, with }
    }
}

async fn open(
    session: &Session,
    stream: Ending,
    server: Server,
    key: PrivateKey,
) -> Result<(Channel<Msg>, Handle<Server>), SourceError> {
    let algorithms: Vec<Algorithm> = match server.pinned.is_empty() {
        true => KEYS.to_vec(),
        // As OpenSSH: of the keys that a server has it is to show one that is known.
        false => {
            KEYS.into_iter().filter(|kind| server.pinned.iter().any(|key| key.algorithm() == *kind)).collect()
        }
    };
    let config = client::Config {
        preferred: Preferred { key: Cow::Owned(algorithms), ..Preferred::DEFAULT },
        ..client::Config::default()
    };
    let failed = |error: russh::Error| {
        session.take_failure().unwrap_or_else(|| unreachable(session, in_words(&error)))
    };
    let mut handle = client::connect_stream(Arc::new(config), stream, server).await.map_err(failed)?;
    let user = session.repository.as_url().username().to_owned();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    match handle.authenticate_publickey(user, key).await.map_err(failed)? {
        AuthResult::Success => {}
        AuthResult::Failure { .. } => return Err(session.unauthorized("SSH, by a key".to_owned())),
    }
    let channel = handle.channel_open_session().await.map_err(failed)?;
    channel.exec(true, command(&session.repository)).await.map_err(failed)?;
    Ok((channel, handle))
}

/// The line that a shell at the other end may read (quote.c, `sq_quote_buf`).
fn command(url: &RepositoryUrl) -> String {
    let path = url.path_over_ssh().replace('\'', r"'\''").replace('!', r"'\!'");
    format!("git-upload-pack '{path}'")
}

fn private_key(name: &str, pem: &str) -> Result<PrivateKey, SourceError> {
    let bad = |reason: &str| SourceError::BadCredential { name: name.to_owned(), reason: reason.to_owned() };
    let key = russh::keys::decode_secret_key(pem, None).map_err(|error| match error {
        russh::keys::Error::KeyIsEncrypted => {
            bad("its ssh_key is encrypted; store it without a passphrase, readable by the worker alone")
        }
        _ => bad("its ssh_key is not a private key that can be read; make one with ssh-keygen -t ed25519"),
    })?;
    match KEYS.contains(&key.algorithm()) {
        true => Ok(key),
        false => Err(bad(&format!(
            "its ssh_key is of the kind {}, which is not supported; make one with ssh-keygen -t ed25519",
            key.algorithm()
        ))),
    }
}

/// The keys that `source.known_hosts` has for a host.
fn pinned(session: &Session, host: &str, port: u16) -> Result<Vec<PublicKey>, SourceError> {
    let file = &session.config.known_hosts;
    let failed = |reason: String| SourceError::UnreadableKnownHosts { file: file.clone(), reason };
    // Opened here: the reader takes a file that it may not open for an empty one.
    if let Err(error) = std::fs::File::open(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(error.to_string()));
    }
    let found = russh::keys::known_hosts::known_host_keys_path(host, port, Path::new(file));
    Ok(found.map_err(|error| failed(error.to_string()))?.into_iter().map(|(_, key)| key).collect())
}

/// A host as known_hosts calls it (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
fn named(host: &str, port: u16) -> String {
    match port {
        PORT => host.to_owned(),
        port => format!("[{host}]:{port}"),
    }
}

fn in_words(error: &russh::Error) -> String {
    match error {
        russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, theirs, .. } => format!(
            "it has host keys of the kinds {} only; Ed25519 and ECDSA are supported, and of these what source.known_hosts has",
            theirs.join(", ")
        ),
        error => format!("SSH: {error}"),
    }
}

/// The server's side, as far as it has to be judged.
struct Server {
    session: Arc<Session>,
    /// As known_hosts calls it.
    host: String,
    pinned: Vec<PublicKey>,
}

impl Handler for Server {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        if self.pinned.iter().any(|pinned| pinned.key_data() == key.key_data()) {
            return Ok(true);
        }
        let (host, file) = (self.host.clone(), self.session.config.known_hosts.clone());
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        self.session.fail(match self.pinned.is_empty() {
            true => {
                let mut key = key.clone();
                key.set_comment("");
                let line = format!("{host} {}", key.to_openssh().unwrap_or_default().trim_end());
                SourceError::HostKeyUnknown { host, fingerprint, file, line }
            }
            false => SourceError::HostKeyChanged { host, fingerprint, file },
        });
        Ok(false)
    }
}

/// A connection that ends with a token, also for the task in which the library keeps it.
struct Ending {
    stream: TcpStream,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Ending {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Ending {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_one_word_for_a_shell() {
        let command = |url: &str| command(&url.parse().unwrap());
        assert_eq!(command("git@host:acme/x.git"), "git-upload-pack 'acme/x.git'");
        assert_eq!(command("ssh://git@host/a'b!;$(id)"), r"git-upload-pack '/a'\''b'\!';$(id)'");
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused_with_the_remedy() {
        for pem in [
            "",
            "hunter2",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n",
        ] {
            let error = private_key("git.acme.x", pem).unwrap_err().to_string();
            assert!(error.contains("ssh-keygen -t ed25519") && !error.contains("hunter2"), "{error}");
        }
    }
}
