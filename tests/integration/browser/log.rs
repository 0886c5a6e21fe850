//! The log viewer: what is seen, found, folded, linked and filtered.

use buildgrid::store::digest::Digest;
use buildgrid::timeline::protocol::LogSum;
use buildgrid::web::access::{Namespaces, Role};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::browser::Browser;
use crate::web::{Service, line};

/// The lines of a build that has failed.
fn story() -> String {
    let (base, install, compile) =
        ("[base 1/3] FROM ruby:3.3", "[build 3/6] RUN bundle install", "[build 6/6] RUN bin/rails assets");
    let mut lines: Vec<(Option<&str>, &str, String)> = vec![
        (None, "status", "attempt 1 on worker-1".to_owned()),
        (Some(base), "status", "done in 0.4 s".to_owned()),
        (Some("[base 2/3] WORKDIR /app"), "status", "cached".to_owned()),
    ];
    for number in 1..=366 {
        let text = format!(r"Fetching gem {number} \u001b[32mok\u001b[0m");
        lines.push((Some(install), "stdout", text));
    }
    lines.push((Some(install), "status", "done in 31.2 s".to_owned()));
    for number in 1..=60 {
        lines.push((Some(compile), "stdout", format!("compiling asset {number}")));
    }
    let error = r#"\u001b[31m✘ \u001b[1m[ERROR]\u001b[0m No matching export for import \"round\u001b[33mHalf\u001b[0mEven\""#;
    lines.push((Some(compile), "stderr", error.to_owned()));
    lines.push((
        Some(compile),
        "stderr",
        r#"      3 │ import { roundHalfEven } from \"../lib/money\""#.to_owned(),
    ));
    let long = "/usr/local/bundle/gems/jsbundling-rails-1.3.1/lib/tasks/jsbundling/build.rake:8:in `block (2 levels) in <top (required)>' ".repeat(3);
    lines.push((Some(compile), "stderr", long));
    lines.push((
        Some(compile),
        "status",
        "failed after 16.6 s: process did not complete: exit code: 1".to_owned(),
    ));
    let entry = |(seq, (step, stream, text)): (usize, (Option<&str>, &str, String))| {
        let step = step.map_or("null".to_owned(), |step| format!("{step:?}"));
        line(seq as u64, None, &text)
            .replace("\"[1/1] RUN x\"", &step)
            .replace("\"stdout\"", &format!("{stream:?}"))
    };
    lines.into_iter().enumerate().map(entry).collect()
}

/// A service, and somebody who is signed in at the page of its build.
pub(super) async fn looking_at(service: &Service, path: &str) -> Browser {
    let password = service.timeline.add_user("mara", Role::Member, Namespaces::All).await;
    let browser = Browser::start().await;
    browser.sign_in(&service.timeline.url(), "mara", &password, path).await;
    browser.until("the log is there", "return document.querySelector('#log[data-ready]')").await;
    browser
}

/// Ends the build as failed.
async fn fails(service: &Service, lines: &str) {
    let step = "[build 6/6] RUN bin/rails assets";
    let event = serde_json::from_str::<serde_json::Value>(&crate::web::event("b-1", "acme", "shop")).unwrap();
    let at = "2026-11-23T10:15:41.907Z";
    let log = LogSum { count: lines.lines().count() as u64, checksum: Digest::of(lines.as_bytes()) };
    let report = json!({"state": "failed", "at": at, "log": log, "result": {
        "version": 1, "id": "b-1", "deploy_id": "shop-418", "attempt": 1, "namespace": "acme", "app": "shop",
        "services": event["services"], "repository": "fake", "commit": event["commit"], "state": "failed",
        "kind": "build", "reused": false, "image": null, "digest": null, "size": null,
        "reason": format!("step {step}: exit code 1"), "step": step, "excerpt": [], "log_url": null,
        "started_at": at, "finished_at": at, "worker": "worker-1",
    }});
    let answer = service.report(report).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_opens_at_its_step_and_lines_are_linked() {
    let service = Service::start().await;
    service.claimed().await;
    assert_eq!(service.append(story()).await.status(), StatusCode::OK);
    fails(&service, &story()).await;
    let browser = looking_at(&service, "/builds/b-1").await;
    browser.accessible("a failed build").await;
    browser.photograph("build-failed").await;
    let open =
        "return [...document.querySelectorAll('details.run[open] .step')].map(step => step.textContent)";
    browser.comes_to(open, json!(["[build 6/6] RUN bin/rails assets"])).await;
    assert_eq!(browser.text("#L434 .x").await, "failed after 16.6 s: process did not complete: exit code: 1");
    let heads = "return [...document.querySelectorAll('.run summary')].map(head => head.innerText.replace(/\\s+/g, ' ').trim())";
    let heads = browser.eval(heads).await;
    assert_eq!(heads[1], "[base 2/3] WORKDIR /app 1 line cached");
    assert_eq!(heads[2], "[build 3/6] RUN bundle install 367 lines 31.2 s");
    // What is folded away of the step is a click away.
    assert_eq!(browser.text(".bare-part:not([hidden])").await, "Show 44 earlier lines of this step");
    browser.comes_to("return document.getElementById('L371')", json!(null)).await;
    browser.click(".bare-part:not([hidden])").await;
    browser.find("#L371").await;

    // A line is linked by its number, a range with Shift; the address leads back to them.
    browser.click("#L431 .n").await;
    browser.eval("document.querySelector('#L433 .n').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true, shiftKey: true}))").await;
    browser.comes_to("return location.hash", "#L431-L433").await;
    let marked = "return [...document.querySelectorAll('.linked')].map(line => line.id)";
    browser.comes_to(marked, json!(["L431", "L432", "L433"])).await;
    let url = service.timeline.url();
    // From elsewhere, into a step that is folded.
    browser.open(&format!("{url}/")).await;
    browser.open(&format!("{url}/builds/b-1#L200-L202")).await;
    browser.until("the lines are there", "return document.querySelectorAll('.linked').length === 3").await;
    let seen = "const box = document.querySelector('#L200').getBoundingClientRect(); return box.top > 0 && box.bottom < innerHeight";
    browser.until("they are in sight", seen).await;
    // Another link on the same page.
    browser.eval("location.hash = '#L434'").await;
    browser.until("the line is linked", "return document.querySelector('#L434.linked')").await;

    // What is around the lines is asked for anew without losing what it leads to.
    let around = format!("buildgrid.refresh('{url}/builds/b-1?from=1000000000000&q=gem').then(done)");
    assert_eq!(browser.eval_async(&around).await, true);
    assert_eq!(browser.text(".band a").await, "Go to line 434");
    let kept =
        "return [...document.querySelectorAll('#chips a')].every(link => link.search.includes('q=gem'))";
    browser.comes_to(kept, true).await;
    // The rail marks the step in view.
    let marked = "return document.querySelector('#rail [aria-current=step] .what')?.textContent";
    browser
        .until("the failing step is marked", &format!("{marked} === '[build 6/6] RUN bin/rails assets'"))
        .await;
    browser.eval("location.hash = '#L100'").await;
    browser
        .until("the step above is marked", &format!("{marked} === '[build 3/6] RUN bundle install'"))
        .await;
    browser.eval("location.hash = '#L434'").await;
    browser.until("the line is linked", "return document.querySelector('#L434.linked')").await;

    // Keys: the failure, the next step, all steps; none of them while somebody types.
    browser.eval("location.hash = ''; scrollTo(0, 0)").await;
    browser.press("e").await;
    browser.until("the failure is linked", "return location.hash === '#L434'").await;
    browser.press("O").await;
    browser
        .until("all are open", "return document.querySelectorAll('details.run:not([open])').length === 0")
        .await;
    browser.press("O").await;
    browser
        .until("all are folded", "return document.querySelectorAll('details.run[open]').length === 0")
        .await;
    browser.press("kkkkjo").await;
    let second = "return [...document.querySelectorAll('details.run')].map(run => run.open)";
    browser.until("the second is open", &format!("{second}.join() === 'false,true,false,false'")).await;
    browser.press("t").await;
    browser
        .until("the time of day", "return document.querySelector('.l .t').textContent === '00:00:00.000'")
        .await;
    browser.press("w").await;
    browser.find(".unwrapped").await;
    browser.press("?").await;
    browser.find("#keys[open]").await;
    browser.accessible("the keys").await;
    browser.press("\u{e00c}").await;
    browser.find("#keys:not([open])").await;
    browser.press("fOt").await;
    browser.comes_to("return document.querySelector('#q').value", "Ot").await;
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_found_in_all_lines_marked_and_counted() {
    let service = Service::start().await;
    service.claimed().await;
    assert_eq!(service.append(story()).await.status(), StatusCode::OK);
    fails(&service, &story()).await;
    let browser = looking_at(&service, "/builds/b-1").await;
    browser.find("#q").await.send_keys("GEM 36").await.unwrap();
    browser.shows("1 of 8").await;
    // The step of the hit was folded; the hit is marked across colours, and in sight.
    browser
        .until(
            "the first hit is current",
            "return document.querySelector('#L39.sought mark')?.textContent === 'gem 36'",
        )
        .await;
    browser.comes_to("return new URLSearchParams(location.search).get('q')", "GEM 36").await;
    browser.photograph("build-search").await;
    browser.accessible("a search").await;
    browser.find("#q").await.send_keys("\u{e007}").await.unwrap();
    browser.until("the second", "return document.querySelector('#L363.sought mark')").await;
    browser.eval("document.activeElement.blur()").await;
    browser.press("nN").await;
    browser.until("there and back", "return document.querySelector('#L363.sought mark')").await;
    browser.press("NN").await;
    browser.shows("8 of 8").await;
    // Words across pieces of other looks.
    browser.press("\u{e00c}").await;
    browser
        .until("the search is cleared", "return document.querySelector('#hits').hidden && !location.search")
        .await;
    browser.press("f").await;
    browser.press("import {").await;
    browser.until("the line is found", "return document.querySelector('#L432.sought mark')").await;
    // Back by the address alone.
    browser.open(&format!("{}/builds/b-1?q=No+matching", service.timeline.url())).await;
    browser.until("it is found again", "return document.querySelector('#L431.sought mark')").await;
    browser.shows("1 of 1").await;
    // What is nowhere is said to be nowhere.
    browser.open(&format!("{}/builds/b-1?q=nowhere&stream=stderr", service.timeline.url())).await;
    browser.shows("No line has “nowhere”").await;
    browser.shows("3 of 434 lines searched.").await;
    browser.photograph("build-nothing-found").await;
    browser.click("#search-all").await;
    browser.shows("434 lines searched.").await;
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_hide_lines_and_say_how_many() {
    let service = Service::start().await;
    service.claimed().await;
    let servers = ["worker-1", "worker-2"];
    let lines: Vec<String> = (0..400)
        .map(|seq| {
            let step = format!("[{}/4] RUN x", 1 + seq / 100);
            let stream = if seq % 10 == 3 { "stderr" } else { "stdout" };
            let line =
                line(seq, [None, Some("web"), Some("db")][seq as usize % 3], &format!("line {seq} here"));
            line.replace("[1/1] RUN x", &step)
                .replace("worker-1", servers[usize::from(seq >= 200)])
                .replace("stdout", stream)
        })
        .collect();
    assert_eq!(service.append(lines.concat()).await.status(), StatusCode::OK);
    let browser = looking_at(&service, "/builds/b-1").await;
    let url = service.timeline.url();
    let choose = async |chip: &str, word: &str| {
        let chip = format!(
            "return [...document.querySelectorAll('#chips summary')].find(chip => chip.innerText.trim() === '{chip}')"
        );
        browser.eval(&format!("{}.click()", chip.trim_start_matches("return "))).await;
        browser.eval(&format!("[...document.querySelectorAll('#chips .menu[open] a')].find(link => link.innerText.startsWith('{word}')).click()")).await;
        browser.until("the page is another", &format!("return document.querySelector('#log[data-ready]') && [...document.querySelectorAll('.chip.set')].some(chip => chip.innerText.includes('{word}'))")).await;
    };
    choose("Stream", "stderr").await;
    assert_eq!(browser.text("#count").await, "40 of 400 lines");
    choose("Server", "worker-2").await;
    assert_eq!(browser.text("#count").await, "20 of 400 lines");
    browser.comes_to("return location.search", "?server=worker-2&stream=stderr").await;
    let heads = "return [...document.querySelectorAll('.run .count')].map(count => count.textContent)";
    assert_eq!(
        browser.eval(heads).await,
        json!([
            "100 lines hidden by the filter",
            "100 lines hidden by the filter",
            "10 of 100 lines",
            "10 of 100 lines"
        ])
    );
    choose("Service", "db").await;
    choose("Step", "[4/4] RUN x").await;
    let shown = (300..400).filter(|seq| seq % 10 == 3 && seq % 3 != 1).map(|seq| format!("line {seq} here"));
    let texts = "return [...document.querySelectorAll('.l .x')].map(text => text.textContent)";
    browser.until("the lines are there", "return document.querySelectorAll('.l').length").await;
    browser.comes_to(texts, json!(shown.collect::<Vec<_>>())).await;
    browser.accessible("a filtered log").await;
    browser.photograph("build-filtered").await;
    // A filter is taken away by its chip; a pod has nothing to choose.
    browser.find(".chip.none").await;
    browser.click(".chip.set").await;
    browser
        .until(
            "the server's filter is gone",
            "return document.querySelector('#log[data-ready]') && !location.search.includes('server')",
        )
        .await;
    // A line that is hidden is said to be.
    browser.open(&format!("{url}/builds/b-1?step=%5B4/4%5D+RUN+x#L7")).await;
    browser
        .until("it is said", "return document.querySelector('#said').textContent === 'Line 7 is not shown'")
        .await;
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_lines_stay_text() {
    let service = Service::start().await;
    service.claimed().await;
    let hostile = r"<img src=x onerror=alert(1)></div><script>alert(1)</script>\u001b]8;;javascript:alert(1)\u001b\\link\u001b[31m<b>red\u202egnp.exe\u0000\u2028end";
    let step = r#"</summary><script>alert(2)</script>\u202e"#;
    let lines: String = (0..30)
        .map(|seq| {
            line(seq, Some("<i>web</i>"), hostile)
                .replace("[1/1] RUN x", step)
                .replace("worker-1", "<u>w</u>")
                .replace(r#""pod":null"#, r#""pod":"<s>-pod</s>""#)
        })
        .collect();
    let answer = service.append(lines).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    let browser = looking_at(&service, "/builds/b-1?q=%3Cimg+src&service=%3Ci%3Eweb%3C/i%3E").await;
    browser.shows("1 of 30").await;
    let text = browser.text("#L1 .x").await;
    assert_eq!(
        text,
        r"<img src=x onerror=alert(1)></div><script>alert(1)</script>link<b>red\u{202e}gnp.exe\u{0}\u{2028}end"
    );
    assert_eq!(browser.text("#L1 mark").await, "<img src");
    assert_eq!(browser.text("#L1 .p").await, "<i>web</i>·pod</s>");
    let head = browser.text(".run .step").await;
    assert_eq!(head, r"</summary><script>alert(2)</script>\u{202e}");
    let strange = "return document.querySelectorAll('main img, main script, main i, main u, main s').length";
    browser.comes_to(strange, 0).await;
    browser.accessible("a hostile log").await;
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scripts_a_log_is_read_in_parts() {
    let service = Service::start().await;
    service.claimed().await;
    let lines: String = (0..1200).map(|seq| line(seq, None, &format!("line {seq} of many"))).collect();
    assert_eq!(service.append(lines).await.status(), StatusCode::OK);
    let password = service.timeline.add_user("mara", Role::Viewer, Namespaces::All).await;
    let browser = Browser::start().await;
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    browser.sign_in(&service.timeline.url(), "mara", &password, "/builds/b-1?from=1").await;
    let texts =
        "return [...document.querySelectorAll('.l')].map(line => line.innerText.replace(/\\s+/g, ' '))";
    let shown = browser.eval(texts).await;
    assert_eq!((shown.as_array().unwrap().len(), &shown[499]), (500, &json!("500 0.5 s line 499 of many")));
    assert_eq!(browser.text("[rel=next]").await, "700 lines after these");
    browser.click("[rel=next]").await;
    browser.until("the next part", "return document.querySelector('#L501')").await;
    browser.click("[rel=prev]").await;
    browser.until("the part before", "return document.querySelector('#L1')").await;
    browser.find("#q").await.send_keys("line 77 \u{e007}").await.unwrap();
    browser
        .until(
            "what has the words",
            "return document.querySelectorAll('.l').length === 1 && document.querySelector('#L78')",
        )
        .await;
    browser.finish().await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_no_longer_kept_is_said_to_be() {
    let service = Service::start().await;
    service.claimed().await;
    assert_eq!(service.append(story()).await.status(), StatusCode::OK);
    fails(&service, &story()).await;
    service.forget_logs().await;
    let password = service.timeline.add_user("mara", Role::Viewer, Namespaces::All).await;
    let browser = Browser::start().await;
    browser.sign_in(&service.timeline.url(), "mara", &password, "/builds/b-1").await;
    assert!(browser.text("#foot").await.starts_with("434 lines, removed on "));
    browser.accessible("a log that is gone").await;
    browser.finish().await;
    service.timeline.finish().await;
}
