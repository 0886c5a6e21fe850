//! A worker that is played by its calls to the timeline service.

use buildgrid::event::deploy::{BuildId, DeployEvent};
use buildgrid::event::result::{Kind, ResultEvent, State};
use buildgrid::store::digest::Digest;
use buildgrid::timeline::client::{Lines, TimelineClient};
use buildgrid::timeline::entry::{LogEntry, Stream};
use buildgrid::timeline::protocol::{AttemptId, AttemptState, Claim, ClaimAnswer, LogSum, StateReport};
use time::OffsetDateTime;

/// A worker's attempt at a build, as the service sees it.
pub struct PlayedAttempt {
    client: TimelineClient,
    event: DeployEvent,
    attempt: AttemptId,
    lines: Vec<u8>,
    next: u64,
}

impl PlayedAttempt {
    /// Claims the event and is told to go.
    pub async fn claim(client: &TimelineClient, body: &str) -> Self {
        let (event, _) = DeployEvent::parse(body.as_bytes()).unwrap();
        let attempt = AttemptId::generate();
        let claim = Claim {
            event: body.to_owned(),
            worker: "worker-1".to_owned(),
            attempt,
            number: 1,
            requeue: None,
            replaces: None,
            late: false,
        };
        let answer = client.claim(&event.id, &claim).await.unwrap();
        assert_eq!(answer, ClaimAnswer::Go { next_seq: 0 });
        Self { client: client.clone(), event, attempt, lines: Vec::new(), next: 0 }
    }

    pub fn id(&self) -> &BuildId {
        &self.event.id
    }

    pub async fn enters(&self, state: AttemptState) {
        let at = OffsetDateTime::now_utc();
        let report = StateReport { state, at, commit: None, result: None, log: None };
        self.client.report(&self.event.id, self.attempt, &report).await.unwrap();
    }

    /// Writes a line; answers whether the build is to be cancelled.
    pub async fn says(&mut self, stream: Stream, step: Option<&str>, text: &str) -> bool {
        let entry = LogEntry {
            seq: self.next,
            at: OffsetDateTime::now_utc(),
            stream,
            step: step.map(str::to_owned),
            server: "worker-1".to_owned(),
            service: None,
            pod: None,
            text: text.to_owned(),
        };
        let mut line = serde_json::to_vec(&entry).unwrap();
        line.push(b'\n');
        self.lines.extend_from_slice(&line);
        self.next += 1;
        let lines = Lines::compress(&line).unwrap();
        self.client.append(&self.event.id, self.attempt, lines).await.unwrap().cancel
    }

    /// Ends the attempt, as published or, for a `reason`, failed by the build's own fault.
    pub async fn ends(self, state: State, reason: Option<&str>) {
        let image = self.event.image().url("registry.example.com");
        let result = ResultEvent {
            image: (state == State::Published).then_some(image),
            kind: (state == State::Failed).then_some(Kind::Build),
            reason: reason.map(str::to_owned),
            step: reason.map(|_| "[2/2] RUN make".to_owned()),
            excerpt: reason.map(|_| vec!["cc: no input files".to_owned()]).unwrap_or_default(),
            ..ResultEvent::of(&self.event, 1, state, "worker-1")
        };
        let report = StateReport {
            state: state.as_str().parse().unwrap(),
            at: OffsetDateTime::now_utc(),
            commit: None,
            result: Some(Box::new(result)),
            log: Some(LogSum { count: self.next, checksum: Digest::of(&self.lines) }),
        };
        self.client.report(&self.event.id, self.attempt, &report).await.unwrap();
    }
}
