//! Files sent by the kernel, from its page cache into the socket, and never through this process (sendfile(2)).
//!
//! HTTP is hyper's, which takes bodies as bytes in memory. So a file's body is made of pieces of one static region,
//! [`PLACE`], that nobody reads: each stands for as many bytes of the file as it is long. hyper hands them on to the
//! connection as they are (it queues what a vectored writer takes, and copies nothing), and there they are known by
//! their address, and the file's bytes go out in their place. The files of a connection's bodies stand in a queue, in
//! the order of the bodies.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The most bytes of a file that are handed to the kernel at once.
const PIECE: usize = 4 << 20;

/// How long the blocking thread waits for a client to take more, before it goes: one that keeps up costs no way through
/// the runtime for each buffer of its socket.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// What stands for the bytes of files. It is never read or written, and takes no memory.
static PLACE: [u8; PIECE] = [0; PIECE];

/// A part of a file that is to be sent.
#[derive(Debug)]
pub struct FilePart {
    pub file: Arc<File>,
    /// For the log.
    pub path: PathBuf,
    /// Where it begins and how long it is, in bytes.
    pub offset: u64,
    pub length: u64,
}

/// Sends files on one connection: an extension of the requests that come on it. A connection that is not plain TCP has
/// none.
#[derive(Debug, Clone, Default)]
pub struct FileSender(Arc<Mutex<VecDeque<FilePart>>>);

impl FileSender {
    /// The part of the file as a response's body, on this connection and no other.
    pub fn body(&self, part: FilePart) -> FileBody {
        FileBody { left: part.length, part: Some(part), sender: self.clone() }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<FilePart>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of [`FileSender::body`].
#[derive(Debug)]
pub struct FileBody {
    /// Until it stands in the queue. The body of an answer to HEAD never does.
    part: Option<FilePart>,
    left: u64,
    sender: FileSender,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        if length == 0 {
            return Poll::Ready(None);
        }
        if let Some(part) = self.part.take() {
            self.sender.queue().push_back(part);
        }
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PLACE[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A TCP connection that sends the files of a [`FileSender`] in the places of its bodies.
pub(super) struct SendingStream {
    /// Shared with the blocking thread that hands a file to the kernel: while one does so, its descriptor is not closed,
    /// and becomes no other connection's.
    stream: Arc<TcpStream>,
    sender: FileSender,
    sending: Option<JoinHandle<io::Result<usize>>>,
}

impl SendingStream {
    pub(super) fn new(stream: TcpStream, sender: FileSender) -> Self {
        Self { stream: Arc::new(stream), sender, sending: None }
    }

    /// Sends of the first file in the queue what stands in one piece of [`PLACE`], or a part of that.
    fn poll_send_file(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        loop {
            let Some(sending) = &mut self.sending else {
                ready!(self.stream.poll_write_ready(context))?;
                self.sending = Some(self.send(most)?);
                continue;
            };
            let sent = ready!(Pin::new(sending).poll(context));
            self.sending = None;
            match sent.map_err(io::Error::other).flatten() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(sent) => {
                    self.sent(sent);
                    return Poll::Ready(Ok(sent));
                }
            }
        }
    }

    /// Hands a part of the first file to the kernel, on a blocking thread: it may have to be read from the disk.
    fn send(&self, most: usize) -> io::Result<JoinHandle<io::Result<usize>>> {
        let queue = self.sender.queue();
        let part = queue.front().ok_or_else(|| io::Error::other("no file is left to send"))?;
        let most = usize::try_from(part.length).unwrap_or(most).min(most);
        let (file, path, mut offset) = (part.file.clone(), part.path.clone(), part.offset);
        let stream = self.stream.clone();
        Ok(tokio::task::spawn_blocking(move || {
            // Within `try_io`, so that a socket that stays full is asked again only once it is not.
            let sent = stream.try_io(Interest::WRITABLE, || send_file(&stream, &file, &mut offset, most));
            if let Err(error) = &sent {
                let of_disk = error.raw_os_error() == Some(Errno::IO.raw_os_error());
                if of_disk || error.kind() == io::ErrorKind::UnexpectedEof {
                    tracing::error!(path = %path.display(), %error, "cannot read a file that is being sent; the client is cut off");
                }
            }
            sent
        }))
    }

    fn sent(&self, sent: usize) {
        let mut queue = self.sender.queue();
        if let Some(part) = queue.front_mut() {
            part.offset += sent as u64;
            part.length -= sent as u64;
            if part.length == 0 {
                queue.pop_front();
            }
        }
    }

    fn poll_write_bytes(&self, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write_vectored(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

/// Sends until all is sent or the client has taken nothing for a while; answers how much was.
fn send_file(stream: &TcpStream, file: &File, offset: &mut u64, most: usize) -> io::Result<usize> {
    let mut sent = 0;
    while sent < most {
        match rustix::fs::sendfile(stream, file, Some(offset), most - sent) {
            Ok(0) if sent == 0 => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
            }
            Ok(0) => break,
            Ok(some) => sent += some,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut writable = [PollFd::new(stream, PollFlags::OUT)];
                if !matches!(poll(&mut writable, Some(&PATIENCE)), Ok(1..)) {
                    break;
                }
            }
            // What has gone out is told first; the fault is met again.
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    if sent > 0 { Ok(sent) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

fn stands_for_a_file(bytes: &[u8]) -> bool {
    !bytes.is_empty() && PLACE.as_ptr_range().contains(&bytes.as_ptr())
}

impl AsyncRead for SendingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SendingStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bytes.iter().position(|slice| stands_for_a_file(slice)) {
            Some(0) => self.poll_send_file(context, bytes[0].len()),
            Some(first) => self.poll_write_bytes(context, &bytes[..first]),
            None => self.poll_write_bytes(context, bytes),
        }
    }

    /// Without it hyper would copy [`PLACE`].
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write) {
            // The client was first.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::SocketAddr;
    use std::time::Duration;

    use axum::body::Body as AnyBody;
    use axum::extract::Path;
    use axum::routing::get;
    use axum::{Extension, Router};
    use tempfile::NamedTempFile;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::serving::{Limits, Proxies, serve};

    /// Longer than a piece, and no part of it like another.
    fn content() -> Vec<u8> {
        (0..(PIECE as u32 + 1_000_000) / 4).flat_map(u32::to_le_bytes).collect()
    }

    /// A server that answers `/{offset}/{length}` with that part of the file, and `/small` with bytes in memory.
    async fn serving(file: &NamedTempFile) -> (SocketAddr, CancellationToken) {
        let path = file.path().to_owned();
        let part = move |Path((offset, length)): Path<(u64, u64)>,
                         Extension(sender): Extension<FileSender>| {
            let part = FilePart { file: Arc::new(File::open(&path).unwrap()), path, offset, length };
            std::future::ready(AnyBody::new(sender.body(part)))
        };
        let router =
            Router::new().route("/{offset}/{length}", get(part)).route("/small", get(|| async { "small" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let second = Duration::from_secs(1);
        let limits = Limits {
            service: "registry",
            connections: 10,
            client_timeout: 30 * second,
            drain_timeout: second,
        };
        tokio::spawn(serve(listener, router, None, Proxies::default(), limits, shutdown.clone()));
        (address, shutdown)
    }

    fn file_of(content: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    /// The next answer's body, and what has come after it.
    async fn answer(stream: &mut TcpStream, mut come: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        loop {
            let head = come.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            if let Some(head) = head {
                let fields = String::from_utf8(come[..head].to_vec()).unwrap();
                assert!(fields.starts_with("HTTP/1.1 200"), "{fields}");
                let length = fields.lines().find_map(|line| line.strip_prefix("content-length: "));
                let end = head + length.unwrap().parse::<usize>().unwrap();
                if come.len() >= end {
                    let rest = come.split_off(end);
                    return (come.split_off(head), rest);
                }
            }
            assert_ne!(stream.read_buf(&mut come).await.unwrap(), 0, "cut after {} bytes", come.len());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parts_of_files_are_sent_as_they_are_also_when_they_are_asked_for_at_once() {
        let content = content();
        let file = file_of(&content);
        let (address, _shutdown) = serving(&file).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let all = content.len();
        let asked = [(0, all), (3, 1), (5, 0), (1000, all - 1000), (all - 7, 7)];
        let mut requests = String::new();
        for (offset, length) in asked {
            requests += &format!(
                "GET /{offset}/{length} HTTP/1.1\r\nhost: a\r\n\r\nGET /small HTTP/1.1\r\nhost: a\r\n\r\n"
            );
        }
        stream.write_all(requests.as_bytes()).await.unwrap();
        // Both sides' buffers fill meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (mut body, mut rest) = (Vec::new(), Vec::new());
        for (offset, length) in asked {
            (body, rest) = answer(&mut stream, rest).await;
            assert!(body == content[offset..offset + length], "{offset}, {length}");
            (body, rest) = answer(&mut stream, rest).await;
            assert_eq!(body, b"small");
        }
        assert!(rest.is_empty() && !body.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_answer_to_head_has_the_length_alone() {
        let file = file_of(&content());
        let (address, _shutdown) = serving(&file).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let requests = "HEAD /0/100 HTTP/1.1\r\nhost: a\r\n\r\nGET /small HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        let (head, get) = answers.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 100"), "{answers}");
        assert!(get.starts_with("HTTP/1.1 200") && get.ends_with("small"), "{answers}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_became_shorter_cuts_the_client_off() {
        let file = file_of(b"four");
        let (address, _shutdown) = serving(&file).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /0/10 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut come = Vec::new();
        // Reset or closed: either way without the ten bytes.
        let _ = stream.read_to_end(&mut come).await;
        assert!(come.ends_with(b"\r\n\r\nfour"), "{come:?}");
    }
}
