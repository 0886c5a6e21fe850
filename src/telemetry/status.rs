//! The status pages of a daemon: `/healthz` (it runs), `/readyz` (it does its work), `/metrics`.

use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the samples of the histograms are summed up.
const UPKEEP: Duration = Duration::from_secs(5);

/// One condition of readiness: what it is about, and what is wrong with it if anything is.
pub struct Condition {
    pub name: &'static str,
    pub fault: Option<String>,
}

/// Asked at each request to `/readyz`; must answer at once.
pub type Readiness = Arc<dyn Fn() -> Vec<Condition> + Send + Sync>;

/// How often [`watched`] looks.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at a part from time to time, so that one that hangs does not hold up who asks. What changes is
/// logged once. Needs a tokio runtime.
pub fn watched<F: Future<Output = Result<(), String>> + Send + 'static>(
    name: &'static str,
    look: impl Fn() -> F + Send + 'static,
) -> Readiness {
    let (fault, watched) = watch::channel(None);
    tokio::spawn(async move {
        while !fault.is_closed() {
            let mut looked = pin!(look());
            let found = match tokio::time::timeout(LOOK, &mut looked).await {
                Ok(found) => found.err(),
                Err(_) => {
                    note(name, &fault, Some(format!("it does not answer within {LOOK:?}")));
                    // Each look may take a thread until it ends: there is only one at a time.
                    looked.await.err()
                }
            };
            note(name, &fault, found);
            tokio::time::sleep(LOOK).await;
        }
    });
    Arc::new(move || vec![Condition { name, fault: watched.borrow().clone() }])
}

fn note(name: &str, fault: &watch::Sender<Option<String>>, found: Option<String>) {
    if *fault.borrow() == found {
        return;
    }
    match &found {
        Some(error) => tracing::error!(error, "the {name} cannot be read"),
        None => tracing::info!("the {name} can be read again"),
    }
    fault.send_replace(found);
}

/// Several readinesses as one.
pub fn all(parts: Vec<Readiness>) -> Readiness {
    Arc::new(move || parts.iter().flat_map(|part| part()).collect())
}

/// Why it is not ready, in one line; `ready` where nothing is wrong.
pub fn faults(readiness: &Readiness) -> String {
    let fault = |condition: Condition| condition.fault.map(|fault| format!("{}: {fault}", condition.name));
    let faults: Vec<_> = readiness().into_iter().filter_map(fault).collect();
    if faults.is_empty() { "ready".to_owned() } else { faults.join("; ") }
}

#[derive(Clone)]
struct Pages {
    readiness: Readiness,
    metrics: PrometheusHandle,
}

/// Serves the status pages until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let upkeep = metrics.clone();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Pages { readiness, metrics });
    let pages = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    tokio::select! {
        served = pages.into_future() => served.context("serve the status pages"),
        never = summarise(upkeep) => never,
    }
}

/// Sums up the histograms from time to time: their samples would grow for ever if nobody scraped.
async fn summarise(metrics: PrometheusHandle) -> ! {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

/// 200 when every condition holds, 503 otherwise; one line for each condition.
async fn readyz(State(pages): State<Pages>) -> Response {
    let conditions = (pages.readiness)();
    let ready = conditions.iter().all(|condition| condition.fault.is_none());
    let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
    for Condition { name, fault } in conditions {
        text.push_str(&format!("{name}: {}\n", fault.as_deref().unwrap_or("ok")));
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

async fn render(State(pages): State<Pages>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
        .into_response()
}
