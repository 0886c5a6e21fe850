//! What the worker does with the answers of a timeline service. Here they are canned: what is said, and
//! when, is the test's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State as Shared};
use axum::routing::{post, put};
use axum::{Json, Router};
use buildgrid::event::result::{ResultEvent, State};
use buildgrid::timeline::protocol::{
    AttemptState, Claim, ClaimAnswer, Problem, ProblemCode, Progress, StateReport,
};
use tokio::net::TcpListener;

use super::{COMMIT, quick};
use crate::support::grid::{TestGrid, fake_event};
use crate::support::patience::until;

#[derive(Clone, Default)]
struct Canned(Arc<Mutex<Words>>);

#[derive(Default)]
struct Words {
    /// The answers to the next claims; then go.
    answers: VecDeque<ClaimAnswer>,
    claims: Vec<Claim>,
    reports: Vec<StateReport>,
    lines: u64,
    cancel: bool,
    fenced: bool,
}

impl Canned {
    /// The service, and where it is.
    async fn start() -> (Self, String) {
        let canned = Self::default();
        let router = Router::new()
            .route("/api/v1/builds/{id}", put(claim))
            .route("/api/v1/builds/{id}/attempts/{attempt}/state", post(state))
            .route("/api/v1/builds/{id}/attempts/{attempt}/log", post(log))
            .with_state(canned.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (canned, url)
    }

    fn answer(&self, answer: ClaimAnswer) {
        self.0.lock().unwrap().answers.push_back(answer);
    }

    fn states(&self) -> Vec<AttemptState> {
        self.0.lock().unwrap().reports.iter().map(|report| report.state).collect()
    }

    fn progress(&self) -> Result<Json<Progress>, Refusal> {
        let words = self.0.lock().unwrap();
        if !words.fenced {
            return Ok(Json(Progress { next_seq: words.lines, cancel: words.cancel }));
        }
        let problem = Problem {
            kind: ProblemCode::Fenced.urn().to_owned(),
            title: "Fenced".to_owned(),
            status: 409,
            detail: "another attempt".to_owned(),
            next_seq: None,
        };
        let kind = [("content-type", "application/problem+json")];
        Err((http::StatusCode::CONFLICT, kind, serde_json::to_string(&problem).unwrap()))
    }
}

type Refusal = (http::StatusCode, [(&'static str, &'static str); 1], String);

async fn claim(Shared(canned): Shared<Canned>, Json(claim): Json<Claim>) -> Json<ClaimAnswer> {
    let mut words = canned.0.lock().unwrap();
    words.claims.push(claim);
    Json(words.answers.pop_front().unwrap_or(ClaimAnswer::Go { next_seq: 0 }))
}

async fn state(
    Shared(canned): Shared<Canned>,
    Json(report): Json<StateReport>,
) -> Result<Json<Progress>, Refusal> {
    canned.0.lock().unwrap().reports.push(report);
    canned.progress()
}

async fn log(
    Shared(canned): Shared<Canned>,
    Path(_): Path<(String, String)>,
    body: axum::body::Bytes,
) -> Result<Json<Progress>, Refusal> {
    let text = zstd::bulk::decompress(&body, 4 << 20).unwrap();
    canned.0.lock().unwrap().lines += text.split_inclusive(|&byte| byte == b'\n').count() as u64;
    canned.progress()
}

async fn grid() -> (TestGrid, Canned) {
    let (canned, url) = Canned::start().await;
    (TestGrid::with(|config| config.timeline.url = url).await, canned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_claimed_and_told() {
    let (grid, timeline) = grid().await;
    let event = fake_event("b-1", &quick(1));
    grid.publish(event.clone()).await;
    let published = grid.result("b-1", State::Published).await;
    let page = format!("{}/builds/b-1", grid.config.timeline.url);
    assert_eq!(published.log_url.as_deref(), Some(page.as_str()));
    until("the end is told", || timeline.states().contains(&AttemptState::Published)).await;
    let states = [AttemptState::Building, AttemptState::Publishing, AttemptState::Published];
    assert_eq!(timeline.states(), states);
    {
        let words = timeline.0.lock().unwrap();
        assert_eq!((words.claims.len(), words.claims[0].event.as_str()), (1, event.as_str()));
        let end = words.reports.last().unwrap();
        assert_eq!(end.result.as_deref(), Some(&published));
        assert_eq!(end.log.unwrap().count, grid.log("b-1").len() as u64);
        assert_eq!(words.lines, end.log.unwrap().count);
    }
    let metrics = format!("http://{}/metrics", grid.config.worker.status_listen);
    let metrics = reqwest::get(metrics).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("buildgrid_log_lag_seconds "), "{metrics}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_of_another_worker_is_deferred() {
    let (grid, timeline) = grid().await;
    timeline.answer(ClaimAnswer::Wait { reason: "worker-2 builds it".to_owned() });
    grid.publish(fake_event("b-1", &quick(1))).await;
    // The first retry queue holds it for ten seconds.
    let published = grid.result("b-1", State::Published).await;
    assert_eq!(published.attempt, 1, "no attempt was counted");
    assert_eq!(grid.results("b-1").len(), 2, "nothing was said of the deferral");
    assert_eq!(timeline.0.lock().unwrap().claims.len(), 2);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_elsewhere_is_not_built() {
    let (grid, timeline) = grid().await;
    let mut result: ResultEvent = {
        let json = r#"{"version":1,"id":"b-1","deploy_id":null,"attempt":2,"namespace":"smoke","app":"web","services":["web"],
            "repository":"fake","commit":"COMMIT","state":"published","kind":null,"reused":false,"image":"i","digest":null,
            "size":1,"reason":null,"step":null,"excerpt":[],"log_url":null,"started_at":null,"finished_at":null,"worker":"worker-2"}"#;
        serde_json::from_str(&json.replace("COMMIT", COMMIT)).unwrap()
    };
    result.log_url = Some("http://elsewhere/builds/b-1".to_owned());
    timeline.answer(ClaimAnswer::Done { result: Box::new(result.clone()) });
    timeline.answer(ClaimAnswer::Cancelled { reason: Some("a later event replaced it".to_owned()) });
    timeline.answer(ClaimAnswer::Conflict);
    grid.publish(fake_event("b-1", &quick(1))).await;
    assert_eq!(grid.result("b-1", State::Published).await, result, "it is sent again as it was");

    grid.publish(fake_event("b-2", &quick(2))).await;
    let cancelled = grid.result("b-2", State::Cancelled).await;
    assert!(cancelled.finished_at.is_some());
    assert_eq!(cancelled.reason.as_deref(), Some("a later event replaced it"));
    // One that comes before the first is settled is answered with it.
    let again = loop {
        grid.publish(fake_event("b-2", &quick(2))).await;
        let second = grid.nth_result("b-2", State::Cancelled, 2);
        if let Ok(second) = tokio::time::timeout(std::time::Duration::from_secs(3), second).await {
            break second;
        }
    };
    assert_eq!(again, cancelled, "and is known from then on");
    assert_eq!(timeline.0.lock().unwrap().claims.len(), 2);

    grid.publish(fake_event("b-3", &quick(3))).await;
    let letter = grid.dead_letter().await;
    assert!(letter.reason.contains("b-3") && letter.reason.contains("another event"), "{}", letter.reason);
    assert!(!grid.build_directory("b-1").exists() && !grid.build_directory("b-3").exists());
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_build_and_a_fence_gives_it_back() {
    let (grid, timeline) = grid().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":1,"outcome":"hang"}"#)).await;
    grid.log_line("b-1", "attempt 1").await;
    timeline.0.lock().unwrap().cancel = true;
    // Told with the answer to the next renewal, at the latest.
    grid.result("b-1", State::Cancelled).await;
    until("the end is told", || timeline.states().contains(&AttemptState::Cancelled)).await;

    *timeline.0.lock().unwrap() = Words::default();
    grid.publish(fake_event("b-2", r#"{"log_lines":1,"outcome":"hang"}"#)).await;
    grid.log_line("b-2", "attempt 1").await;
    timeline.answer(ClaimAnswer::Cancelled { reason: None });
    timeline.0.lock().unwrap().fenced = true;
    // It comes again at once, and is claimed again.
    grid.result("b-2", State::Cancelled).await;
    assert_eq!(timeline.0.lock().unwrap().claims.len(), 2);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_build_is_told_as_released() {
    let (mut grid, timeline) = grid().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":1,"outcome":"hang"}"#)).await;
    grid.log_line("b-1", "attempt 1").await;
    let shutdown = grid.shutdown();
    shutdown.drain.cancel();
    shutdown.abort.cancel();
    grid.worker_ended().await.unwrap();
    assert_eq!(timeline.states().last(), Some(&AttemptState::Released));
    let earlier = timeline.0.lock().unwrap().claims[0].attempt;
    // The next process says whose place it takes.
    *timeline.0.lock().unwrap() = Words::default();
    timeline.answer(ClaimAnswer::Cancelled { reason: None });
    grid.start_worker().await;
    grid.result("b-1", State::Cancelled).await;
    assert_eq!(timeline.0.lock().unwrap().claims[0].replaces, Some(earlier));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_costs_no_build() {
    let grid = TestGrid::with(|config| config.timeline.url = "http://127.0.0.1:1".to_owned()).await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    let published = grid.result("b-1", State::Published).await;
    assert_eq!(published.log_url.as_deref(), Some("http://127.0.0.1:1/builds/b-1"));
    let report = std::fs::read_to_string(grid.build_directory("b-1").join("report.json")).unwrap();
    assert!(report.contains("\"claimed\":false") && report.contains("\"closed\":null"), "{report}");
    grid.finish().await;
}
