//! A build of two attempts, and pages whose reader is signed out or thinks again meanwhile.

use buildgrid::store::digest::Digest;
use buildgrid::timeline::protocol::LogSum;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::log::looking_at;
use crate::web::{ATTEMPT, Service, claim, event, line};

const SECOND: &str = "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c12";

fn lines(attempt: u32, count: u64) -> String {
    (0..count).map(|seq| line(seq, None, &format!("line {seq} of attempt {attempt}"))).collect()
}

impl Service {
    /// Ends the first attempt, not by the build's fault; the build is to be tried again.
    async fn is_tried_again(&self, lines: &str) {
        let event: serde_json::Value = serde_json::from_str(&event("b-1", "acme", "shop")).unwrap();
        let at = "2026-11-23T10:15:41.907Z";
        let log = LogSum { count: lines.lines().count() as u64, checksum: Digest::of(lines.as_bytes()) };
        let report = json!({"state": "retrying", "at": at, "log": log, "result": {
            "version": 1, "id": "b-1", "deploy_id": "shop-418", "attempt": 1, "namespace": "acme", "app": "shop",
            "services": event["services"], "repository": "fake", "commit": event["commit"], "state": "retrying",
            "kind": "infrastructure", "reused": false, "image": null, "digest": null, "size": null,
            "reason": "the store was unreachable", "step": null, "excerpt": [], "log_url": null,
            "started_at": at, "finished_at": at, "worker": "worker-1",
        }});
        let answer = self.report(report).await;
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    }

    /// A second attempt begins, on another worker, with these lines.
    async fn second_attempt(&self, lines: String) {
        let mut body = claim(&event("b-1", "acme", "shop"), SECOND);
        (body["worker"], body["number"]) = (json!("worker-2"), json!(2));
        let answer = self.worker(Method::PUT, "/builds/b-1").json(&body).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), r#"{"answer":"go","next_seq":0}"#);
        let path = format!("/builds/b-1/attempts/{SECOND}/log");
        let answer = self.worker(Method::POST, &path).body(lines).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_attempts_each_has_its_own_log() {
    let service = Service::start().await;
    service.claimed().await;
    let first = lines(1, 40);
    assert_eq!(service.append(first.clone()).await.status(), StatusCode::OK);
    let browser = looking_at(&service, "/builds/b-1").await;
    browser.shows("line 39 of attempt 1").await;
    service.is_tried_again(&first).await;
    browser.shows("Not the build’s fault: the store was unreachable").await;
    // Who reads the first goes on reading it, and is told of the second.
    service.second_attempt(lines(2, 70)).await;
    browser.shows("This is the log of an earlier attempt").await;
    browser.shows("line 39 of attempt 1").await;
    browser.comes_to("return document.querySelector('#count').textContent", "40 lines").await;
    let attempts = "return [...document.querySelectorAll('.attempts li')].map(item => \
        item.innerText.replace(/\\s+/g, ' ').replace(/\\d+ (s|min) ago|just now|[\\d.]+ s /g, '').trim())";
    let told = browser.eval(attempts).await;
    assert!(told[0].as_str().unwrap().starts_with("Attempt 1 Infrastructure worker-1"), "{told}");
    assert!(told[1].as_str().unwrap().starts_with("Attempt 2 Starting worker-2"), "{told}");
    browser.accessible("an earlier attempt").await;
    browser.photograph("build-earlier-attempt").await;

    browser.click("#superseded a").await;
    browser
        .until("the second log", "return document.querySelector('#log[data-ready]') && !location.search")
        .await;
    browser.shows("line 69 of attempt 2").await;
    browser.comes_to("return document.body.innerText.includes('of attempt 1')", false).await;
    assert_eq!(browser.text(".attempts .shown a").await, "Attempt 2");
    // It is followed; the first is a link away, and complete.
    let path = format!("/builds/b-1/attempts/{SECOND}/log");
    let more = line(70, None, "line 70 of attempt 2");
    assert_eq!(service.worker(Method::POST, &path).body(more).send().await.unwrap().status(), StatusCode::OK);
    browser.shows("line 70 of attempt 2").await;
    browser.photograph_here("build-second-attempt").await;
    browser.click(".attempts li:first-child a").await;
    browser.until("the first log", &format!("return document.querySelector('#log[data-ready]') && location.search === '?attempt={ATTEMPT}'")).await;
    browser.shows("line 0 of attempt 1").await;
    assert_eq!(browser.text("#foot > span:first-child").await, "40 lines, complete");
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_signed_out_is_told_so_and_nothing_is_asked_for_any_more() {
    let service = Service::start().await;
    service.claimed().await;
    assert_eq!(service.append(lines(1, 40)).await.status(), StatusCode::OK);
    let browser = looking_at(&service, "/builds/b-1").await;
    browser.shows("line 39 of attempt 1").await;
    let out = "fetch('/sign-out', {method: 'POST', redirect: 'manual'}).then(() => done(true))";
    browser.eval_async(out).await;
    assert_eq!(service.append(line(40, None, "one more")).await.status(), StatusCode::OK);
    browser.shows("You are signed out: the page stands as it was.").await;
    browser.comes_to("return document.querySelector('#follow').hidden", true).await;
    assert_eq!(browser.text("#rest").await, "no longer live");
    browser.comes_to("return document.querySelectorAll('[data-since]').length", 0).await;
    browser.photograph_here("build-signed-out").await;
    // What it was refused it does not ask for again.
    browser.eval("window.asked = performance.getEntriesByType('resource').length").await;
    assert_eq!(service.append(line(41, None, "and another")).await.status(), StatusCode::OK);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let since = "return performance.getEntriesByType('resource').length - window.asked";
    browser.comes_to(since, 0).await;
    browser.shows("line 39 of attempt 1").await;
    let refused = browser.complaints().await;
    assert!(refused.len() <= 3 && refused.iter().all(|complaint| complaint.contains("401")), "{refused:#?}");
    browser.click("#stale a").await;
    browser.find("input[name=password]").await;
    browser.complaints().await;
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_nobody_waits_for_is_given_up() {
    let service = Service::start().await;
    service.claimed().await;
    assert_eq!(service.append(lines(1, 40)).await.status(), StatusCode::OK);
    let browser = looking_at(&service, "/builds/b-1").await;
    // The first search is answered only when it is given up.
    browser
        .eval(
            "const real = fetch; window.signals = []; window.fetch = (url, options) => { \
            if (!String(url).includes('/hits?')) return real(url, options); \
            signals.push(options.signal); \
            return signals.length > 1 ? real(url, options) : new Promise((_, fail) => \
            options.signal.addEventListener('abort', () => fail(options.signal.reason))); }",
        )
        .await;
    browser.find("#q").await.send_keys("nothing like").await.unwrap();
    browser.until("it is asked", "return signals.length === 1 && !signals[0].aborted").await;
    browser.eval("const field = document.querySelector('#q'); field.value = 'line 3'; field.dispatchEvent(new Event('input'))").await;
    browser.until("it is given up", "return signals.length === 2 && signals[0].aborted").await;
    browser.shows("1 of 11").await;
    browser.finish().await;
    service.timeline.finish().await;
}
