//! Tests of the client: how answers are sorted, and the token.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing::{any, get};
use serde_json::Value;

use super::*;
use crate::timeline::protocol::ProblemCode;

async fn serve(router: Router) -> TimelineConfig {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    TimelineConfig { url, ..TimelineConfig::default() }
}

fn client(config: &TimelineConfig) -> TimelineClient {
    TimelineClient::new(config).unwrap().unwrap()
}

#[tokio::test]
async fn answers_are_sorted_by_what_can_be_done() {
    let answer = |Path(code): Path<u16>| async move {
        let status = StatusCode::from_u16(code).unwrap();
        let headers = [(RETRY_AFTER, "7"), (LOCATION, "https://elsewhere/")];
        (status, headers, "in its own words").into_response()
    };
    let gap = || async {
        let body = r#"{"type":"urn:buildgrid:gap","title":"Gap","status":409,"detail":"entry 3 is missing","next_seq":3}"#;
        (StatusCode::CONFLICT, [(CONTENT_TYPE, PROBLEM_JSON)], body)
    };
    let router = Router::new()
        .route("/api/v1/status/{code}", any(answer))
        .route("/api/v1/gap", get(gap))
        .route("/api/v1/words", get(|| async { "no JSON" }));
    let client = client(&serve(router).await);
    let call = |path: &'static str| {
        let client = client.clone();
        async move { client.get_json::<Value>(path, &[]).await.unwrap_err() }
    };

    for code in ["status/408", "status/429", "status/500", "status/502", "status/503"] {
        let error = call(code).await;
        assert!(error.is_transient() && !error.is_answer(), "{error}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)), "{error}");
        assert!(error.to_string().contains("in its own words"), "{error}");
    }
    let moved = call("status/302").await;
    assert!(moved.is_transient() && moved.to_string().contains("timeline.url"), "{moved}");
    assert!(call("words").await.is_transient());
    let login = call("status/401").await;
    assert!(matches!(login, CallError::Unauthorized { .. }) && login.is_transient(), "{login}");
    for code in ["status/400", "status/403", "status/404", "status/413", "status/422"] {
        let error = call(code).await;
        assert!(!error.is_transient() && error.is_answer() && error.code().is_none(), "{error}");
    }
    let error = call("gap").await;
    assert_eq!(error.code(), Some(ProblemCode::Gap));
    assert_eq!(error.problem().unwrap().next_seq, Some(3));
}

#[tokio::test]
async fn nobody_there_is_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = client(&TimelineConfig { url: url.clone(), ..TimelineConfig::default() });
    let error = client.get_json::<Value>("builds", &[]).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }) && error.is_transient());
    assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
    assert!(TimelineClient::new(&TimelineConfig::default()).unwrap().is_none(), "no url, no service");
}

#[tokio::test]
async fn a_token_that_was_changed_is_read_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let router = Router::new().route(
        "/api/v1/builds",
        get(move |headers: HeaderMap| async move {
            counted.fetch_add(1, Ordering::Relaxed);
            match headers.get("authorization").is_some_and(|value| value == "Bearer second") {
                true => (StatusCode::OK, "7"),
                false => (StatusCode::UNAUTHORIZED, "unknown token"),
            }
        }),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let config = TimelineConfig { token_file: Some(file.clone()), ..serve(router).await };
    let client = client(&config);
    let call = || client.get_json::<u32>("builds", &[]);

    let missing = call().await.unwrap_err();
    assert!(missing.is_transient() && missing.to_string().contains("timeline.token_file"), "{missing}");
    std::fs::write(&file, "first\n").unwrap();
    let refused = call().await.unwrap_err();
    assert!(refused.to_string().contains("buildgrid token add"), "{refused}");
    assert_eq!(calls.load(Ordering::Relaxed), 1, "the same token is not tried twice");
    std::fs::write(&file, "second\n").unwrap();
    assert_eq!(call().await.unwrap(), 7);
    assert_eq!(call().await.unwrap(), 7);
    assert_eq!(calls.load(Ordering::Relaxed), 4, "the new one is kept");
}
