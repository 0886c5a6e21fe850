//! Following a log live: nothing is missed, by whoever reads slowly, comes late or comes back.

use buildgrid::event::result::State;
use buildgrid::timeline::entry::Stream;
use buildgrid::timeline::protocol::{AttemptId, AttemptState};
use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sse_stream::SseStream;
use tokio::sync::Notify;

use super::{ATTEMPT, Service, event, line, refused};
use crate::support::patience::in_time;
use crate::support::played::PlayedAttempt;

/// Follows the log of `id` until its end; answers the ids of its entries and the states that were told.
async fn follow(service: &Service, id: &str, last: Option<&str>) -> (Vec<String>, Vec<String>) {
    follow_from(service, id, last, &Notify::new()).await
}

/// As [`follow`], notifying `begun` at the first entry.
async fn follow_from(
    service: &Service,
    id: &str,
    last: Option<&str>,
    begun: &Notify,
) -> (Vec<String>, Vec<String>) {
    let mut request =
        service.maestro(Method::GET, &format!("/builds/{id}/log")).header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = SseStream::from_bytes_stream(response.bytes_stream());
    let (mut ids, mut states) = (Vec::new(), Vec::new());
    while let Some(event) = in_time("the next event", events.next()).await {
        let event = event.unwrap();
        let data = event.data.unwrap_or_default();
        match event.event.as_deref() {
            Some("entry") => {
                ids.push(event.id.unwrap());
                begun.notify_one();
            }
            Some("state") => {
                let build: serde_json::Value = serde_json::from_str(&data).unwrap();
                states.push(build["state"].as_str().unwrap().to_owned());
            }
            Some("end") => return (ids, states),
            _ => {}
        }
    }
    panic!("the stream ended without its end: {ids:?} {states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_every_line_and_state_through_to_the_end() {
    let service = Service::start().await;
    let client = service.timeline.client("worker");
    let mut attempt = PlayedAttempt::claim(&client, &event("b-1", "acme", "shop")).await;
    for _ in 0..3 {
        attempt.says(Stream::Stdout, None, "before").await;
    }
    let build = async {
        attempt.enters(AttemptState::Building).await;
        for _ in 0..50 {
            attempt.says(Stream::Stdout, Some("[1/1] RUN x"), "live").await;
        }
        attempt.enters(AttemptState::Publishing).await;
        attempt.ends(State::Published, None).await;
    };
    let (early, late, ()) = tokio::join!(
        follow(&service, "b-1", None),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            follow(&service, "b-1", None).await
        },
        build,
    );
    assert_eq!(early.0.len(), 53);
    assert_eq!(early.0, late.0);
    assert!(early.0.iter().enumerate().all(|(seq, id)| id.ends_with(&format!(":{seq}"))));
    assert_eq!(early.1.last().unwrap(), "published");
    // One that comes back goes on where it was; after the end, too.
    let (rest, _) = follow(&service, "b-1", Some(&early.0[40])).await;
    assert_eq!(rest, early.0[41..]);
    let bad = service.maestro(Method::GET, "/builds/b-1/log").header("accept", "text/event-stream");
    refused(bad.header("last-event-id", "x").send().await.unwrap(), StatusCode::BAD_REQUEST).await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_lags_and_loses_nothing() {
    let service = Service::start().await;
    service.claimed().await;
    let request = service.maestro(Method::GET, "/builds/b-1/log").header("accept", "text/event-stream");
    let response = request.send().await.unwrap();
    // Far more than the sockets hold, while nobody reads.
    let text = "x".repeat(2000);
    for start in (0..10_000).step_by(1000) {
        let lines: String = (start..start + 1000).map(|seq| line(seq, None, &text)).collect();
        assert_eq!(service.append(lines).await.status(), StatusCode::OK);
    }
    let mut events = SseStream::from_bytes_stream(response.bytes_stream());
    let mut next = 0;
    while next < 10_000 {
        let event = in_time("the next event", events.next()).await.unwrap().unwrap();
        if event.event.as_deref() == Some("entry") {
            assert!(event.id.unwrap().ends_with(&format!(":{next}")));
            next += 1;
        }
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_is_followed_by_itself() {
    let service = Service::start().await;
    let client = service.timeline.client("worker");
    let body = event("b-1", "acme", "shop");
    let mut first = PlayedAttempt::claim(&client, &body).await;
    first.says(Stream::Stdout, None, "first").await;
    let begun = Notify::new();
    let builds = async {
        begun.notified().await;
        first.ends(State::Retrying, Some("the store was away")).await;
        let mut second = PlayedAttempt::claim(&client, &body).await;
        second.says(Stream::Stdout, None, "second").await;
        second.ends(State::Published, None).await;
    };
    let (followed, ()) = tokio::join!(follow_from(&service, "b-1", None, &begun), builds);
    assert_eq!(followed.0.len(), 2);
    assert_ne!(followed.0[0].split(':').next(), followed.0[1].split(':').next(), "two attempts");
    assert_eq!(followed.1.last().unwrap(), "published");
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_lets_followers_go() {
    let service = Service::start().await;
    service.claimed().await;
    let request = service.maestro(Method::GET, "/builds/b-1/log").header("accept", "text/event-stream");
    let mut stream = request.send().await.unwrap().bytes_stream();
    in_time("the state", stream.next()).await.unwrap().unwrap();
    in_time("the service's end", service.timeline.finish()).await;
    assert!(in_time("the stream's end", stream.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_log_leads_to_no_other_log() {
    let service = Service::start().await;
    let client = service.timeline.client("worker");
    let mut other = PlayedAttempt::claim(&client, &event("b-2", "secret", "shop")).await;
    other.says(Stream::Stdout, None, "of another namespace").await;
    service.claimed().await;
    let claimed = service.worker(Method::PUT, "/builds/b-1");
    let again = json!({
        "event": event("b-1", "acme", "shop"), "worker": "w", "attempt": AttemptId::generate(),
        "number": 2, "late": true,
    });
    let beside = again["attempt"].as_str().unwrap().to_owned();
    assert_eq!(claimed.json(&again).send().await.unwrap().status(), StatusCode::OK);

    let secret = service.timeline.build("b-2").await.unwrap().attempts[0].id.to_string();
    for (query, last, status) in [
        (String::new(), &secret, StatusCode::NOT_FOUND),
        (format!("?attempt={ATTEMPT}"), &secret, StatusCode::NOT_FOUND),
        (format!("?attempt={ATTEMPT}"), &beside, StatusCode::BAD_REQUEST),
    ] {
        let request =
            service.timeline.request_of("maestro-of-acme", Method::GET, &format!("builds/b-1/log{query}"));
        let request =
            request.header("accept", "text/event-stream").header("last-event-id", format!("{last}:0"));
        refused(request.send().await.unwrap(), status).await;
    }
    service.timeline.finish().await;
}
