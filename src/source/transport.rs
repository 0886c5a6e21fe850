//! libgit2's smart transports, in the place of its own: libgit2 speaks git, [`Http`] speaks HTTP, where each request
//! of the negotiation is a POST of its own, and [`Conversation`] SSH, where all of it is one conversation.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use git2::{Error, ErrorClass, ErrorCode, Remote};

use super::advertisement::{Advertisement, error_packet, list_without_refs};
use super::deepen;
use super::error::SourceError;
use super::http::{Body, Http};
use super::session::Session;
use super::ssh::Conversation;

/// The largest list of refs that is read, in bytes: libgit2 keeps all of it in memory.
const MAX_REFS: usize = 64 << 20;

/// Makes the transport of a remote; libgit2 calls it on the thread that fetches.
pub(super) fn http_transport(remote: &Remote<'_>) -> Result<Transport, Error> {
    let session =
        Session::current().ok_or_else(|| Error::from_str("no fetch is under way on this thread"))?;
    let http = Http::connect(Arc::clone(&session)).map_err(|error| kept(&session, error))?;
    Transport::smart(remote, true, Subtransport { http: Arc::new(http) })
}

/// As [`http_transport`], for `ssh://`.
pub(super) fn ssh_transport(remote: &Remote<'_>) -> Result<Transport, Error> {
    Transport::smart(remote, false, Ssh)
}

struct Ssh;

impl SmartSubtransport for Ssh {
    fn action(&self, _url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        match service {
            // For the objects libgit2 goes on with the same stream.
            Service::UploadPackLs | Service::UploadPack => {
                let session = Session::current()
                    .ok_or_else(|| Error::from_str("no fetch is under way on this thread"))?;
                let conversation =
                    Conversation::begin(Arc::clone(&session)).map_err(|error| kept(&session, error))?;
                Ok(Box::new(Spoken {
                    conversation,
                    beginning: Some(Advertisement::new(false)),
                    refs: Some(0),
                    asked: false,
                }))
            }
            Service::ReceivePackLs | Service::ReceivePack => Err(Error::from_str("nothing is ever pushed")),
        }
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The list of refs, and after it requests and their answers.
struct Spoken {
    conversation: Conversation,
    /// The list's beginning, until it is whole.
    beginning: Option<Advertisement>,
    /// How much of the list was read; `None` once it is over.
    refs: Option<usize>,
    /// Whether the next piece begins an answer.
    asked: bool,
}

impl Spoken {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        loop {
            let piece = self.conversation.next()?;
            let session = &self.conversation.session;
            if std::mem::take(&mut self.asked)
                && let Some(text) = error_packet(&piece)
            {
                session.set_remote_error(text);
            }
            if let Some(read) = &mut self.refs {
                *read += piece.len();
                refs_fit(session, *read)?;
            }
            let Some(beginning) = &mut self.beginning else { return Ok(piece) };
            if let Some(begun) = beginning.push(&piece) {
                session.set_refuses_only_missing(begun.refuses_only_missing);
                self.beginning = None;
                return Ok(begun.bytes);
            }
        }
    }
}

impl Read for Spoken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = self.next().map_err(|error| kept_io(&self.conversation.session, error))?;
        let count = take(&mut piece, buffer);
        self.conversation.put_back(piece);
        Ok(count)
    }
}

impl Write for Spoken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.refs = None;
        self.asked = true;
        self.conversation.send(bytes).map_err(|error| kept_io(&self.conversation.session, error))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Subtransport {
    http: Arc<Http>,
}

impl SmartSubtransport for Subtransport {
    fn action(&self, _url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        let http = Arc::clone(&self.http);
        match service {
            Service::UploadPackLs => {
                if let Some(announced) = http.session.remembered() {
                    return Ok(Box::new(Remembered(list_without_refs(&announced))));
                }
                let body = http.refs().map_err(|error| kept(&http.session, error))?;
                Ok(Box::new(Refs { http, body, beginning: Some(Advertisement::new(true)), read: 0 }))
            }
            Service::UploadPack => {
                Ok(Box::new(Exchange { http, request: Vec::new(), answer: None, known: Bytes::new() }))
            }
            Service::ReceivePackLs | Service::ReceivePack => Err(Error::from_str("nothing is ever pushed")),
        }
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A list of refs that is not asked for.
struct Remembered(Bytes);

impl Read for Remembered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(take(&mut self.0, buffer))
    }
}

impl Write for Remembered {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("the list of refs takes no request"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The list of refs.
struct Refs {
    http: Arc<Http>,
    body: Body,
    /// The list's beginning, until it is whole.
    beginning: Option<Advertisement>,
    read: usize,
}

impl Refs {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        let session = &self.http.session;
        loop {
            let piece = self.body.next()?;
            self.read += piece.len();
            refs_fit(session, self.read)?;
            let Some(beginning) = &mut self.beginning else { return Ok(piece) };
            if let Some(begun) = beginning.push(&piece) {
                session.set_announced(begun.announced);
                session.set_refuses_only_missing(begun.refuses_only_missing);
                self.beginning = None;
                return Ok(begun.bytes);
            }
        }
    }
}

impl Read for Refs {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.next().map_err(|error| kept_io(&self.http.session, error))?;
        Ok(hand_out(piece, buffer, &mut self.body))
    }
}

impl Write for Refs {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("the list of refs takes no request"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One request and its answer: what libgit2 writes is sent when it begins to read, unless the answer is known.
struct Exchange {
    http: Arc<Http>,
    request: Vec<u8>,
    answer: Option<Body>,
    /// What is left of an answer that was known.
    known: Bytes,
}

impl Exchange {
    fn begin(&mut self) -> Result<Body, SourceError> {
        let mut answer = self.http.upload_pack(std::mem::take(&mut self.request))?;
        let first = answer.next()?;
        if let Some(text) = error_packet(&first) {
            self.http.session.set_remote_error(text);
        }
        answer.put_back(first);
        Ok(answer)
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.answer.is_none()
            && let Some(answer) = deepen::answer(&self.request)
        {
            self.request.clear();
            self.known = answer;
        }
        if !self.known.is_empty() {
            return Ok(take(&mut self.known, buffer));
        }
        let answer = match self.answer.take() {
            Some(answer) => answer,
            None => self.begin().map_err(|error| kept_io(&self.http.session, error))?,
        };
        let answer = self.answer.insert(answer);
        let piece = answer.next().map_err(|error| kept_io(&self.http.session, error))?;
        Ok(hand_out(piece, buffer, answer))
    }
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills the buffer from `piece`; what is left over goes back to where it came from.
fn hand_out(mut piece: Bytes, buffer: &mut [u8], body: &mut Body) -> usize {
    let count = take(&mut piece, buffer);
    body.put_back(piece);
    count
}

fn take(piece: &mut Bytes, buffer: &mut [u8]) -> usize {
    let count = piece.len().min(buffer.len());
    piece.copy_to_slice(&mut buffer[..count]);
    count
}

fn refs_fit(session: &Session, read: usize) -> Result<(), SourceError> {
    match read > MAX_REFS {
        true => Err(SourceError::NotARepository {
            url: session.url.clone(),
            reason: format!("its list of refs is longer than {} MiB", MAX_REFS >> 20),
        }),
        false => Ok(()),
    }
}

/// Keeps the error in the session, where the fetch finds it whole; libgit2 carries on a remark.
fn kept(session: &Session, error: SourceError) -> Error {
    session.fail(error);
    Error::new(ErrorCode::GenericError, ErrorClass::Http, "the session has the reason")
}

fn kept_io(session: &Session, error: SourceError) -> io::Error {
    session.fail(error);
    io::Error::other("the session has the reason")
}
