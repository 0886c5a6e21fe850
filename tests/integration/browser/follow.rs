//! A log that grows while it is looked at.

use std::time::{Duration, Instant};

use serde_json::json;

use super::log::looking_at;
use crate::web::{Service, line};

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_lines_a_second_are_followed_and_nothing_moves_under_a_reader() {
    let service = Service::start().await;
    service.claimed().await;
    let append = async |from: u64, count: u64| {
        let lines: String =
            (from..from + count).map(|seq| line(seq, None, &format!("line {seq} of many"))).collect();
        assert_eq!(service.append(lines).await.status().as_u16(), 200);
    };
    append(0, 50).await;
    let browser = looking_at(&service, "/builds/b-1").await;
    browser
        .until(
            "it follows",
            "return document.querySelector('#follow').getAttribute('aria-pressed') === 'true'",
        )
        .await;
    let begun = Instant::now();
    for tenth in 0..30_u64 {
        append(50 + tenth * 500, 500).await;
        let due = Duration::from_millis(100 * (tenth + 1));
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
    }
    browser.shows("line 15049 of many").await;
    let late = begun.elapsed().saturating_sub(Duration::from_secs(3));
    assert!(late < Duration::from_secs(3), "the page is {late:?} behind");
    let at_end = "return scrollY + innerHeight >= document.documentElement.scrollHeight - 2";
    browser.until("the end is in sight", at_end).await;
    let elements = browser.eval("return document.querySelectorAll('*').length").await.as_u64().unwrap();
    assert!(elements < 6000, "{elements} elements are on the page");

    // A reader who scrolls up is left where he is.
    browser.wheel(-5000).await;
    browser
        .until(
            "following has ended",
            "return document.querySelector('#follow').getAttribute('aria-pressed') === 'false'",
        )
        .await;
    let settled = "const now = [...document.querySelectorAll('.l')].map(line => [line.id, line.getBoundingClientRect().top]).find(([, top]) => top > 100); \
        return now && (window.then ?? '') === (window.then = JSON.stringify(now)) ? now : null";
    let before = browser.until("the page rests", settled).await;
    for tenth in 0..10 {
        append(15_050 + tenth * 500, 500).await;
    }
    let pill = "return document.querySelector('#pill').innerText.trim() === '5,000 new lines'";
    browser.until("the new lines are counted", pill).await;
    browser.photograph_here("build-live-behind").await;
    let id = before[0].as_str().unwrap();
    let now =
        browser.eval(&format!("return document.getElementById('{id}').getBoundingClientRect().top")).await;
    let moved = (now.as_f64().unwrap() - before[1].as_f64().unwrap()).abs();
    assert!(moved < 1.5, "{id} has moved by {moved} pixels");
    // The pill leads back to the end, as End does.
    browser.click("#pill").await;
    browser.shows("line 20049 of many").await;
    browser.wheel(-3000).await;
    browser
        .until(
            "following has ended",
            "return document.querySelector('#follow').getAttribute('aria-pressed') === 'false'",
        )
        .await;
    browser.press("\u{e010}").await;
    browser.until("it follows again", at_end).await;
    append(20_050, 1).await;
    browser.shows("line 20050 of many").await;
    browser.comes_to("return document.querySelector('#pill').hidden", json!(true)).await;
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_step_alone_is_open_and_searches_go_on() {
    let service = Service::start().await;
    service.claimed().await;
    let append = async |seq: u64, step: &str, text: &str| {
        let line = line(seq, None, text).replace("[1/1] RUN x", step);
        assert_eq!(service.append(line).await.status().as_u16(), 200);
    };
    append(0, "[1/2] RUN a", "needle one").await;
    let browser = looking_at(&service, "/builds/b-1").await;
    let open = |names: &str| {
        format!(
            "return [...document.querySelectorAll('details.run[open] .step')].map(step => step.textContent).join() === '{names}'"
        )
    };
    browser.until("the first is open", &open("[1/2] RUN a")).await;
    append(1, "[2/2] RUN b", "hay").await;
    browser.until("only the second is open", &open("[2/2] RUN b")).await;
    // What is looked for is found in what comes later, too.
    browser.find("#q").await.send_keys("needle").await.unwrap();
    browser.shows("1 of 1").await;
    append(2, "[2/2] RUN b", "needle two").await;
    browser.shows("1 of 2").await;
    browser.finish().await;
    service.timeline.finish().await;
}
