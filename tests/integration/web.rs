//! The timeline service over HTTP, as workers, programs and browsers see it. Its arbiter is tested beside
//! its code, with a clock of its own; a whole worker against it in `worker`.

mod access;
mod api;
mod appends;
mod backup;
mod build_form;
mod following;
mod images;
mod pages;
mod reading;
mod search;
mod settings;
mod space;
mod timeline;
mod tls;

use buildgrid::queue::QueueConfig;
use buildgrid::timeline::TimelineConfig;
use buildgrid::timeline::entry::timestamp;
use buildgrid::timeline::protocol::Problem;
use buildgrid::web::db::Database;
use buildgrid::web::history::{HistoryConfig, Round};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use time::OffsetDateTime;

use crate::support::registry::TestRegistry;
use crate::support::timeline::TestTimeline;

/// A service and the raw requests to it, of anybody.
pub struct Service {
    pub timeline: TestTimeline,
    http: reqwest::Client,
    worker: String,
    maestro: String,
}

impl Service {
    /// One that has nowhere to enqueue.
    pub async fn start() -> Self {
        Self::enqueueing(nowhere()).await
    }

    /// One that sees the store of a registry.
    async fn beside(registry: &TestRegistry) -> Self {
        Self::of(TestTimeline::beside(registry, &nowhere()).await)
    }

    async fn enqueueing(queue: QueueConfig) -> Self {
        Self::of(TestTimeline::start(&queue).await)
    }

    fn of(timeline: TestTimeline) -> Self {
        Self::trusting(timeline, None)
    }

    /// One whose clients trust an authority, if there is one.
    fn trusting(timeline: TestTimeline, authority: Option<reqwest::Certificate>) -> Self {
        let token = |config: TimelineConfig| std::fs::read_to_string(config.token_file.unwrap()).unwrap();
        let worker = token(timeline.config_at(&timeline.address.to_string(), "worker"));
        let maestro = token(timeline.config_at(&timeline.address.to_string(), "maestro"));
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.tls_certs_merge(authority);
        Self { http: http.build().unwrap(), worker, maestro, timeline }
    }

    /// A request without a login.
    pub fn nobody(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.timeline.url()))
    }

    /// A request of a worker, below `/api/v1`.
    pub fn worker(&self, method: Method, path: &str) -> RequestBuilder {
        self.nobody(method, &format!("/api/v1{path}")).bearer_auth(&self.worker)
    }

    /// A request of Maestro, below `/api/v1`.
    pub fn maestro(&self, method: Method, path: &str) -> RequestBuilder {
        self.nobody(method, &format!("/api/v1{path}")).bearer_auth(&self.maestro)
    }

    pub async fn get(&self, path: &str) -> serde_json::Value {
        let response = self.maestro(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }
}

/// A queue that nobody answers for.
fn nowhere() -> QueueConfig {
    QueueConfig { url: "amqp://127.0.0.1:1/%2f".parse().unwrap(), ..QueueConfig::default() }
}

/// Asserts that a response is a problem of this status, and answers it.
#[track_caller]
fn refused(response: Response, status: StatusCode) -> impl Future<Output = Problem> {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    async move {
        let problem: Problem = response.json().await.unwrap();
        assert_eq!(problem.status, status.as_u16());
        problem
    }
}

/// The deploy event of a fake build.
pub fn event(id: &str, namespace: &str, app: &str) -> String {
    let commit = "9fceb02d0ae598e95dc970b74767f19372d61af8";
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"{namespace}","app":"{app}","services":["web","worker"],"commit":"{commit}","ref":"refs/heads/main","deploy_id":"shop-418","requested_by":"deploy-bot","fake":{{}}}}"#
    )
}

/// A stored line.
pub fn line(seq: u64, service: Option<&str>, text: &str) -> String {
    let at = timestamp::to_string(OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_millis(seq));
    let service = service.map_or("null".to_owned(), |service| format!("\"{service}\""));
    format!(
        r#"{{"seq":{seq},"at":"{at}","stream":"stdout","step":"[1/1] RUN x","server":"worker-1","service":{service},"pod":null,"text":"{text}"}}"#
    ) + "\n"
}

/// The body of a claim.
pub fn claim(event: &str, attempt: &str) -> serde_json::Value {
    serde_json::json!({"event": event, "worker": "worker-1", "attempt": attempt, "number": 1})
}

pub const ATTEMPT: &str = "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11";

impl Service {
    /// Claims `b-1` of acme/shop as [`ATTEMPT`].
    pub async fn claimed(&self) {
        let body = claim(&event("b-1", "acme", "shop"), ATTEMPT);
        let answer = self.worker(Method::PUT, "/builds/b-1").json(&body).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), r#"{"answer":"go","next_seq":0}"#);
    }

    /// Appends to the log of [`ATTEMPT`].
    pub async fn append(&self, lines: impl Into<reqwest::Body>) -> Response {
        let path = format!("/builds/b-1/attempts/{ATTEMPT}/log");
        self.worker(Method::POST, &path).body(lines).send().await.unwrap()
    }

    pub async fn report(&self, report: serde_json::Value) -> Response {
        let path = format!("/builds/b-1/attempts/{ATTEMPT}/state");
        self.worker(Method::POST, &path).json(&report).send().await.unwrap()
    }

    /// Removes the log of the one build that there is, as is done when it is too old.
    pub async fn forget_logs(&self) {
        let database = Database::open_beside(&self.timeline.data()).await.unwrap();
        let limits = HistoryConfig { keep_last: 0, ..HistoryConfig::default() };
        let now = OffsetDateTime::now_utc() + time::Duration::days(91);
        let round = Round { database: &database, store: None, limits, now, dry_run: false };
        let pruned = round.prune().await.unwrap();
        database.close().await;
        assert_eq!((pruned.len(), pruned[0].logs), (1, 1));
    }

    pub async fn log(&self, query: &str) -> String {
        let response = self.maestro(Method::GET, &format!("/builds/b-1/log{query}")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        response.text().await.unwrap()
    }
}
