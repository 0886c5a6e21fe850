//! What operators see of requests: a log line with fields, and a count by route and status.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use reqwest::Method;

use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;

/// A log in memory.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What this thread logs, until the guard is dropped.
    pub(super) fn here() -> (Self, tracing::subscriber::DefaultGuard) {
        Self::of(tracing::Level::INFO)
    }

    fn of(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Recorder and subscriber are this thread's, on which the server runs too.
#[tokio::test(flavor = "current_thread")]
async fn a_request_is_logged_once_and_counted_by_its_pattern() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (log, _subscriber) = Log::of(tracing::Level::DEBUG);

    let registry = TestRegistry::start().await;
    TestImage::saying("hello").publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
    registry.get("/v2/acme/shop.storefront/manifests/v1").await;
    registry.get("/v2/acme/shop.storefront/manifests/v1").await;
    registry.head("/v2/other/x.y/manifests/v1").await;
    registry.get("/v2/acme/shop.storefront/tags/list").await;
    registry.request(Method::POST, "/v2/a/b/blobs/uploads/").send().await.unwrap();
    registry.request(Method::GET, "/v2/").send().await.unwrap();

    let rendered = recorder.handle().render();
    for (route, status, count) in [
        ("/v2/{namespace}/{name}/manifests/{reference}", 200, 2),
        ("/v2/{namespace}/{name}/manifests/{reference}", 404, 1),
        ("/v2/{namespace}/{name}/tags/list", 200, 1),
        ("other", 405, 1),
        ("/v2/", 401, 1),
    ] {
        let line =
            format!("buildgrid_registry_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}\n");
        assert!(rendered.contains(&line), "{line} in\n{rendered}");
    }
    let log = log.text();
    let at = |level: &str| {
        let is_one = |line: &&str| line.contains(" request ") && line.contains(level);
        log.lines().filter(is_one).collect::<Vec<_>>()
    };
    let requests = at(" INFO ");
    // The listing and the missing login are details.
    assert_eq!((requests.len(), at(" DEBUG ").len()), (4, 2), "{log}");
    let user = format!("user={}", registry.user());
    let fields = [
        "method=GET",
        "path=\"/v2/acme/shop.storefront/manifests/v1\"",
        "status=200",
        &user,
        "peer=127.0.0.1:",
    ];
    for field in fields {
        assert!(requests[0].contains(field), "{field} in {}", requests[0]);
    }
    // Neither as it is, nor as a request carries it.
    let carried = BASE64.encode(format!("{}:{}", registry.user(), registry.password()).as_bytes());
    assert!(!log.contains(registry.password()) && !log.contains(&carried), "{log}");
    registry.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn who_is_told_to_wait_is_named_and_nobody_writes_a_long_line() {
    let (log, _subscriber) = Log::here();
    let registry = TestRegistry::start().await;
    let (user, long) = (registry.user().to_owned(), "x".repeat(20_000));
    let status = loop {
        let wrong = registry.request(Method::GET, "/v2/").basic_auth(&user, Some("old"));
        match wrong.send().await.unwrap().status() {
            reqwest::StatusCode::UNAUTHORIZED => {}
            other => break other,
        }
    };
    assert_eq!(status, reqwest::StatusCode::TOO_MANY_REQUESTS);
    let request = registry.request(Method::GET, &format!("/v2/{long}")).header("user-agent", &long);
    registry.send(request).await;
    let log = log.text();
    let waits = log.lines().find(|line| line.contains("status=429")).unwrap();
    assert!(waits.contains(&format!("user={user}")), "{waits}");
    let longest = log.lines().max_by_key(|line| line.len()).unwrap();
    assert!(longest.contains("…") && longest.len() < 1000, "{}", longest.len());
    registry.stop().await;
}
