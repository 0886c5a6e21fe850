//! What happens on a connection: whether a request is answered on it, or nothing is going on, so that it may make room for
//! another.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One connection's, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Visit {
    doing: Mutex<Doing>,
    evicted: CancellationToken,
}

#[derive(Debug)]
struct Doing {
    /// Requests whose answer is not made yet, to the last byte of its body.
    answering: usize,
    /// Whether bytes have been written and not all of them handed to the kernel.
    is_sending: bool,
    idle_since: Instant,
}

impl Doing {
    fn is_idle(&self) -> bool {
        self.answering == 0 && !self.is_sending
    }
}

impl Visit {
    pub(super) fn new() -> Self {
        let doing = Doing { answering: 0, is_sending: false, idle_since: Instant::now() };
        Self { doing: Mutex::new(doing), evicted: CancellationToken::new() }
    }

    /// Since when no request has been answered on it; so is one that has not sent a whole request. None while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let doing = self.doing();
        doing.is_idle().then_some(doing.idle_since)
    }

    /// Asks it to end, after the request that it may have begun meanwhile.
    pub(super) fn evict(&self) {
        self.evicted.cancel();
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// A request has come; it is answered until this and its [body](Answering::until_the_end_of) are dropped.
    pub(super) fn answer(self: &Arc<Self>) -> Answering {
        self.change(|doing| doing.answering += 1);
        Answering(self.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Doing)) {
        let mut doing = self.doing();
        let was_idle = doing.is_idle();
        change(&mut doing);
        if doing.is_idle() && !was_idle {
            doing.idle_since = Instant::now();
        }
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Answering(Arc<Visit>);

impl Answering {
    pub(super) fn until_the_end_of(self, body: Body) -> Body {
        Body::new(Answered { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(|doing| doing.answering -= 1);
    }
}

/// The body of an answer.
struct Answered {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's stream. hyper flushes whatever it has written, and drops a body as soon as it has taken all of it, which
/// may be minutes before a slow client has.
pub(super) struct Watched<S> {
    stream: S,
    visit: Arc<Visit>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, visit: Arc<Visit>) -> Self {
        Self { stream, visit }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.visit.change(|doing| doing.is_sending = true);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.visit.change(|doing| doing.is_sending = true);
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.visit.change(|doing| doing.is_sending = false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
