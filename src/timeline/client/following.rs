//! Following a build live: server-sent events, and coming back by itself after a lost connection.

use std::time::{Duration, Instant};

use async_stream::{stream, try_stream};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::Response;
use sse_stream::SseByteStream;

use super::api::TimelineClient;
use super::error::CallError;
use super::reading::LogFilter;
use crate::event::deploy::BuildId;
use crate::timeline::entry::LogEntry;
use crate::timeline::protocol::Build;

const EVENTS: &str = "text/event-stream";
/// How long nothing may come. The service says every 10 s that it is there.
const SILENCE: Duration = Duration::from_secs(35);
/// The first pause before coming back; each next one is twice as long, up to [`LONGEST`].
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
/// How long a connection may be lost without a word about it: a restart of the service takes less.
const UNSAID: Duration = Duration::from_secs(3);
/// How long who follows builds waits for a service that is away.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What one who follows a build is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// How the build stands. May be the same twice.
    State(Box<Build>),
    /// The next line of the log: none is left out, none comes twice.
    Entry(Box<LogEntry>),
    /// The service has been away for some seconds; it is called again and again.
    Lost { reason: String },
    /// The service is there again, after [`Told::Lost`].
    Back,
}

impl TimelineClient {
    /// Follows a build until it ends, or the attempt that `filter` names.
    ///
    /// # Errors
    /// At once where the first connection fails or the service refuses; after 15 minutes where a service
    /// that was there does not come back.
    pub fn follow(
        &self,
        id: &BuildId,
        filter: &LogFilter,
    ) -> impl Stream<Item = Result<Told, CallError>> + Send + use<> {
        let (client, id, filter) = (self.clone(), id.clone(), filter.clone());
        try_stream! {
            let mut last: Option<String> = None;
            let mut away = Away::default();
            let mut response = client.open_log(&id, &filter, EVENTS, None).await?;
            loop {
                let mut events = std::pin::pin!(SseByteStream::new(chunks(client.clone(), response)));
                let mut reason = loop {
                    let event = match events.next().await {
                        Some(Ok(event)) => event,
                        Some(Err(error)) => break format!("{:#}", anyhow::Error::from(error)),
                        None => break "the service has ended the connection".to_owned(),
                    };
                    let data = event.data.unwrap_or_default();
                    if away.end() {
                        yield Told::Back;
                    }
                    match event.event.as_deref() {
                        Some("entry") => {
                            yield Told::Entry(Box::new(client.entry(data.as_bytes())?));
                            last = event.id.or(last);
                        }
                        Some("state") => yield Told::State(client.state(&data)?),
                        Some("end") => return,
                        // What a newer service has to say besides.
                        _ => {}
                    }
                };
                response = loop {
                    if away.is_news() {
                        yield Told::Lost { reason: std::mem::take(&mut reason) };
                    }
                    tokio::time::sleep(away.pause()).await;
                    match client.open_log(&id, &filter, EVENTS, last.as_deref()).await {
                        Ok(response) => break response,
                        Err(error @ (CallError::Unreachable { .. } | CallError::Busy { .. }))
                            if !away.is_too_long() =>
                        {
                            reason = error.to_string();
                        }
                        Err(error) => Err(error)?,
                    }
                };
            }
        }
    }

    fn state(&self, json: &str) -> Result<Box<Build>, CallError> {
        serde_json::from_str(json)
            .map_err(|error| self.broken(format!("its answer is not what this version understands: {error}")))
    }
}

/// The bytes of an answer, until it ends or falls silent.
fn chunks(
    client: TimelineClient,
    mut response: Response,
) -> impl Stream<Item = Result<Bytes, CallError>> + Send {
    stream! {
        loop {
            match client.next_chunk(&mut response, SILENCE).await {
                Ok(Some(chunk)) => yield Ok(chunk),
                Ok(None) => return,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        }
    }
}

/// How long the service has been away, and what was said of it.
#[derive(Debug, Default)]
struct Away {
    since: Option<Instant>,
    pauses: u32,
    said: bool,
}

impl Away {
    /// The next pause, with a part of chance, so that all who were cut off do not come back at once.
    fn pause(&mut self) -> Duration {
        self.since.get_or_insert_with(Instant::now);
        let pause = PAUSE.saturating_mul(1 << self.pauses.min(16)).min(LONGEST);
        self.pauses += 1;
        pause.mul_f64(rand::random_range(0.5..1.0))
    }

    fn lasts(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether it is time for a word.
    fn is_news(&mut self) -> bool {
        let news = !self.said && self.lasts() >= UNSAID;
        self.said |= news;
        news
    }

    fn is_too_long(&self) -> bool {
        self.lasts() >= PATIENCE
    }

    /// The service has said something: whether it must be told that it is back.
    fn end(&mut self) -> bool {
        std::mem::take(self).said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_end_with_the_first_word() {
        let mut away = Away::default();
        let pauses: Vec<Duration> = (0..12).map(|_| away.pause()).collect();
        assert!(pauses[0] <= PAUSE && pauses[11] >= LONGEST / 2 && pauses[11] <= LONGEST, "{pauses:?}");
        assert!(!away.is_news(), "nothing is said at once");
        away.since = Instant::now().checked_sub(UNSAID);
        assert!(away.is_news() && !away.is_news(), "said once");
        assert!(away.end() && !away.end());
        assert!(away.pause() <= PAUSE, "the next loss begins anew");
    }
}
