//! A timeline service for tests: it keeps what it is told by the contract, and misbehaves on request.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};

use crate::store::digest::Digest;
use crate::timeline::TimelineConfig;
use crate::timeline::entry::LogEntry;
use crate::timeline::protocol::{
    AttemptId, Claim, ClaimAnswer, MAX_APPEND, Problem, ProblemCode, Progress, StateReport,
};

#[derive(Clone, Default)]
pub struct StandIn(Arc<Mutex<Service>>);

#[derive(Default)]
pub struct Service {
    pub attempts: HashMap<AttemptId, Told>,
    pub claims: Vec<Claim>,
    /// What the next claims are answered.
    pub answer: Option<ClaimAnswer>,
    /// Told with every answer.
    pub cancel: bool,
    /// Every call is answered with this, and nothing is done.
    pub fault: Option<StatusCode>,
    /// Of so many calls, one is done and its answer lost.
    pub lose_every: Option<usize>,
    /// No call is answered.
    pub hang: bool,
    pub calls: usize,
}

#[derive(Default)]
pub struct Told {
    pub reports: Vec<StateReport>,
    pub log: BTreeMap<u64, String>,
    pub fenced: bool,
}

impl Told {
    /// The stored lines, as they were sent.
    pub fn text(&self) -> String {
        self.log.values().map(|line| format!("{line}\n")).collect()
    }

    fn next_seq(&self) -> u64 {
        self.log.len() as u64
    }
}

impl StandIn {
    pub async fn start() -> (Self, TimelineConfig) {
        let service = Self::default();
        let router = Router::new()
            .route("/api/v1/builds/{id}", put(claim))
            .route("/api/v1/builds/{id}/attempts/{attempt}/state", post(state))
            .route("/api/v1/builds/{id}/attempts/{attempt}/log", post(log))
            .with_state(service.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (service, TimelineConfig { url, ..TimelineConfig::default() })
    }

    pub fn lock(&self) -> MutexGuard<'_, Service> {
        self.0.lock().unwrap()
    }

    /// Does a call, unless it is to fail.
    async fn call(&self, call: impl FnOnce(&mut Service) -> Response) -> Response {
        let hangs = self.lock().hang;
        if hangs {
            std::future::pending::<()>().await;
        }
        let mut service = self.lock();
        service.calls += 1;
        if let Some(status) = service.fault {
            return (status, "on request").into_response();
        }
        let answer = call(&mut service);
        match service.lose_every.is_some_and(|every| service.calls.is_multiple_of(every)) {
            true => (StatusCode::BAD_GATEWAY, "the answer is lost").into_response(),
            false => answer,
        }
    }
}

async fn claim(State(service): State<StandIn>, Json(claim): Json<Claim>) -> Response {
    let call = |service: &mut Service| {
        let attempt = claim.attempt;
        if let Some(replaced) = claim.replaces.and_then(|id| service.attempts.get_mut(&id)) {
            replaced.fenced = true;
        }
        service.claims.push(claim);
        if let Some(answer) = &service.answer {
            return Json(answer).into_response();
        }
        let next_seq = service.attempts.entry(attempt).or_default().next_seq();
        Json(ClaimAnswer::Go { next_seq }).into_response()
    };
    service.call(call).await
}

async fn state(
    State(service): State<StandIn>,
    Path((_, attempt)): Path<(String, AttemptId)>,
    Json(report): Json<StateReport>,
) -> Response {
    let call = |service: &mut Service| {
        let cancel = service.cancel;
        let told = match of(service, attempt) {
            Ok(told) => told,
            Err(problem) => return *problem,
        };
        if let Some(sum) = report.log {
            if sum.count > told.next_seq() {
                return problem(ProblemCode::Incomplete, Some(told.next_seq()));
            }
            if sum.count < told.next_seq() || sum.checksum != Digest::of(told.text().as_bytes()) {
                return problem(ProblemCode::Checksum, None);
            }
        }
        match told.reports.last().map_or(0, |last| last.state.rank()) {
            rank if rank > report.state.rank() => return StatusCode::CONFLICT.into_response(),
            _ if told.reports.last() == Some(&report) => {}
            _ => told.reports.push(report),
        }
        Json(Progress { next_seq: told.next_seq(), cancel }).into_response()
    };
    service.call(call).await
}

async fn log(
    State(service): State<StandIn>,
    Path((_, attempt)): Path<(String, AttemptId)>,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response {
    assert_eq!(headers[header::CONTENT_TYPE], "application/x-ndjson");
    assert_eq!(headers[header::CONTENT_ENCODING], "zstd");
    let call = |service: &mut Service| {
        let cancel = service.cancel;
        let told = match of(service, attempt) {
            Ok(told) => told,
            Err(problem) => return *problem,
        };
        let text = String::from_utf8(zstd::bulk::decompress(&body, MAX_APPEND).unwrap()).unwrap();
        for line in text.split_terminator('\n') {
            let entry: LogEntry = serde_json::from_str(line).unwrap();
            match entry.seq.cmp(&told.next_seq()) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => drop(told.log.insert(entry.seq, line.to_owned())),
                std::cmp::Ordering::Greater => return problem(ProblemCode::Gap, Some(told.next_seq())),
            }
        }
        Json(Progress { next_seq: told.next_seq(), cancel }).into_response()
    };
    service.call(call).await
}

fn of(service: &mut Service, attempt: AttemptId) -> Result<&mut Told, Box<Response>> {
    match service.attempts.get_mut(&attempt) {
        None => Err(Box::new(problem(ProblemCode::UnknownAttempt, None))),
        Some(told) if told.fenced => Err(Box::new(problem(ProblemCode::Fenced, None))),
        Some(told) => Ok(told),
    }
}

fn problem(code: ProblemCode, next_seq: Option<u64>) -> Response {
    let status = match code {
        ProblemCode::UnknownAttempt => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    };
    let problem = Problem {
        kind: code.urn().to_owned(),
        title: "Problem".to_owned(),
        status: status.as_u16(),
        detail: "on request".to_owned(),
        next_seq,
    };
    let body = serde_json::to_vec(&problem).unwrap();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}
