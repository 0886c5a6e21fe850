//! The calls of people's commands: list and show builds, read their logs, enqueue, end and repeat them.

use async_stream::try_stream;
use bytes::BytesMut;
use futures::Stream;
use reqwest::Response;
use std::time::Duration;

use super::api::TimelineClient;
use super::error::CallError;
use crate::event::deploy::BuildId;
use crate::timeline::entry::{LogEntry, Stream as Origin};
use crate::timeline::protocol::{
    AttemptId, Build, BuildDetail, BuildState, ImagesInUse, MAX_LINE, NDJSON, Page,
};

/// How long a log may pause while it is read: the service only has to look for the next lines.
const SILENCE: Duration = Duration::from_secs(60);
/// The most builds of one page that the service gives.
pub const MAX_PAGE: usize = 200;

/// Which builds to list. Every condition that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildsFilter {
    pub namespace: Option<String>,
    /// Needs a namespace.
    pub app: Option<String>,
    pub service: Option<String>,
    pub state: Option<BuildState>,
    pub git_ref: Option<String>,
    /// An id, or its beginning.
    pub commit: Option<String>,
    pub deploy_id: Option<String>,
}

/// Which lines of a log to read. Every condition that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// By default the attempt that counts.
    pub attempt: Option<AttemptId>,
    pub server: Option<String>,
    /// Lines of this service, and those of none, which belong to every service.
    pub service: Option<String>,
    pub pod: Option<String>,
    pub step: Option<String>,
    pub stream: Option<Origin>,
    /// Words of the text, whatever their case.
    pub words: Option<String>,
    /// Only entries after this seq.
    pub after: Option<u64>,
}

type Query = Vec<(&'static str, String)>;

fn query<const N: usize>(conditions: [(&'static str, Option<String>); N]) -> Query {
    conditions.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn borrowed(query: &Query) -> Vec<(&str, &str)> {
    query.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

impl BuildsFilter {
    fn query(&self) -> Query {
        query([
            ("namespace", self.namespace.clone()),
            ("app", self.app.clone()),
            ("service", self.service.clone()),
            ("state", self.state.map(|state| state.to_string())),
            ("ref", self.git_ref.clone()),
            ("commit", self.commit.clone()),
            ("deploy_id", self.deploy_id.clone()),
        ])
    }
}

impl LogFilter {
    fn query(&self) -> Query {
        let stream = self.stream.map(|stream| match stream {
            Origin::Stdout => "stdout",
            Origin::Stderr => "stderr",
            Origin::Status => "status",
        });
        query([
            ("attempt", self.attempt.map(|attempt| attempt.to_string())),
            ("server", self.server.clone()),
            ("service", self.service.clone()),
            ("pod", self.pod.clone()),
            ("step", self.step.clone()),
            ("stream", stream.map(str::to_owned)),
            ("q", self.words.clone()),
            ("after", self.after.map(|seq| seq.to_string())),
        ])
    }
}

impl TimelineClient {
    /// One page of builds, newest first: at most `limit`, after `cursor`.
    pub async fn builds(
        &self,
        filter: &BuildsFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<Build>, CallError> {
        let mut query = filter.query();
        query.push(("limit", limit.min(MAX_PAGE).to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        self.get_json("builds", &borrowed(&query)).await
    }

    pub async fn build(&self, id: &BuildId) -> Result<BuildDetail, CallError> {
        self.get_json(&format!("builds/{id}"), &[]).await
    }

    /// What deploys run, of all namespaces.
    pub async fn images_in_use(&self) -> Result<ImagesInUse, CallError> {
        self.get_json("images/in-use", &[]).await
    }

    /// Puts a deploy event into the queue. The same event twice is one build.
    pub async fn enqueue(&self, event: Vec<u8>) -> Result<Build, CallError> {
        self.post_bytes("builds", "application/json", None, event).await
    }

    /// Asks for a build's end; answers how it stands now.
    pub async fn cancel(&self, id: &BuildId) -> Result<Build, CallError> {
        self.post_json(&format!("builds/{id}/cancel"), &()).await
    }

    /// Builds the same commit again; answers the new build.
    pub async fn rebuild(&self, id: &BuildId) -> Result<Build, CallError> {
        self.post_json(&format!("builds/{id}/rebuild"), &()).await
    }

    /// The lines of a log that are there, in their order.
    pub async fn log(
        &self,
        id: &BuildId,
        filter: &LogFilter,
    ) -> Result<impl Stream<Item = Result<LogEntry, CallError>> + Send + use<>, CallError> {
        let response = self.open_log(id, filter, NDJSON, None).await?;
        Ok(entries(self.clone(), response))
    }

    /// The answer with a log, of the type that `accept` asks for.
    pub(super) async fn open_log(
        &self,
        id: &BuildId,
        filter: &LogFilter,
        accept: &'static str,
        last_event_id: Option<&str>,
    ) -> Result<Response, CallError> {
        let query = filter.query();
        self.get_stream(&format!("builds/{id}/log"), &borrowed(&query), accept, last_event_id).await
    }

    /// The next bytes of an answer; none at its end.
    pub(super) async fn next_chunk(
        &self,
        response: &mut Response,
        silence: Duration,
    ) -> Result<Option<bytes::Bytes>, CallError> {
        match tokio::time::timeout(silence, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(self.broken(format!("{:#}", anyhow::Error::from(error.without_url())))),
            Err(_) => Err(self.broken(format!("no sign of life for {} s", silence.as_secs()))),
        }
    }

    /// The error for an answer that broke off.
    pub(super) fn broken(&self, reason: String) -> CallError {
        CallError::Unreachable { address: self.address().to_owned(), reason }
    }

    pub(super) fn entry(&self, json: &[u8]) -> Result<LogEntry, CallError> {
        serde_json::from_slice(json).map_err(|error| {
            self.broken(format!("a line of the log is none that this version knows: {error}"))
        })
    }
}

fn entries(
    client: TimelineClient,
    mut response: Response,
) -> impl Stream<Item = Result<LogEntry, CallError>> + Send {
    try_stream! {
        let mut buffer = BytesMut::new();
        while let Some(chunk) = client.next_chunk(&mut response, SILENCE).await? {
            let mut searched = buffer.len();
            buffer.extend_from_slice(&chunk);
            while let Some(end) = memchr::memchr(b'\n', &buffer[searched..]) {
                let line = buffer.split_to(searched + end + 1);
                searched = 0;
                yield client.entry(&line)?;
            }
            if buffer.len() > MAX_LINE {
                Err(client.broken(format!("a line of the log has more than {MAX_LINE} bytes")))?;
            }
        }
        if !buffer.is_empty() {
            Err(client.broken("the log broke off in the middle of a line".to_owned()))?;
        }
    }
}
