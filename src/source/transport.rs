//! libgit2's smart transport for `http://` and `https://`, in the place of its own: libgit2 speaks git,
//! [`Http`] speaks HTTP. Stateless: each request of the negotiation is a POST of its own.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use git2::{Error, ErrorClass, ErrorCode, Remote};

use super::advertisement::{Advertisement, error_packet};
use super::error::SourceError;
use super::http::{Body, Http};
use super::session::Session;

/// The largest list of refs that is read, in bytes: libgit2 keeps all of it in memory.
const MAX_REFS: usize = 64 << 20;

/// Makes the transport of a remote; libgit2 calls it on the thread that fetches.
pub(super) fn http_transport(remote: &Remote<'_>) -> Result<Transport, Error> {
    let session =
        Session::current().ok_or_else(|| Error::from_str("no fetch is under way on this thread"))?;
    let http = Http::connect(Arc::clone(&session)).map_err(|error| kept(&session, error))?;
    Transport::smart(remote, true, Subtransport { http: Arc::new(http) })
}

struct Subtransport {
    http: Arc<Http>,
}

impl SmartSubtransport for Subtransport {
    fn action(&self, _url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        let http = Arc::clone(&self.http);
        match service {
            Service::UploadPackLs => {
                let body = http.refs().map_err(|error| kept(&http.session, error))?;
                Ok(Box::new(Refs { http, body, beginning: Some(Advertisement::default()), read: 0 }))
            }
            Service::UploadPack => Ok(Box::new(Exchange { http, request: Vec::new(), answer: None })),
            Service::ReceivePackLs | Service::ReceivePack => Err(Error::from_str("nothing is ever pushed")),
        }
    }

    fn close(&self) -> Result<(), Error> {
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
            if self.read > MAX_REFS {
                return Err(SourceError::NotARepository {
                    url: session.url.clone(),
                    reason: format!("its list of refs is longer than {} MiB", MAX_REFS >> 20),
                });
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

/// One request and its answer: what libgit2 writes is sent when it begins to read.
struct Exchange {
    http: Arc<Http>,
    request: Vec<u8>,
    answer: Option<Body>,
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
    let count = piece.len().min(buffer.len());
    piece.copy_to_slice(&mut buffer[..count]);
    body.put_back(piece);
    count
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
