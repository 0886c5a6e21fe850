//! A whole BuildGrid, looked at from the sign-in to the image.

use crate::support::browser::Browser;
use crate::support::grid::fake_event;
use crate::support::up::Machine;

#[tokio::test(flavor = "multi_thread")]
async fn a_live_build_is_watched_to_its_image() {
    let machine = Machine::new();
    let up = machine.start().await;
    let browser = Browser::start().await;
    let service = up.announcement.url.trim_end_matches('/').to_owned();
    browser.sign_in(&service, "admin", &up.password(), "/").await;
    assert_eq!(browser.text("h1").await, "Apps");

    let fake = r#"{"log_lines":40,"line_interval_ms":50,"layers":1,"layer_bytes":100}"#;
    up.enqueue(fake_event("b-1", fake)).await;
    browser.open(&format!("{service}/builds/b-1")).await;
    browser.shows("fake line 3 of 40").await;
    browser.shows("Building").await;
    browser.shows("fake line 40 of 40").await;
    // The page becomes the published one by itself, with the end of its log in sight.
    browser.shows("Published").await;
    let image = format!("{}/smoke/web.fake:9fceb02d0ae598e95dc970b74767f19372d61af8", machine.registry);
    browser
        .until(
            "the image can be copied",
            &format!("return document.querySelector('[data-copy=\"{image}\"]')"),
        )
        .await;
    let seen = "const last = [...document.querySelectorAll('.l')].at(-1); \
        return last?.innerText.includes('published') && last.getBoundingClientRect().bottom <= innerHeight";
    browser.until("the last line is in sight", seen).await;
    browser.accessible("a published build").await;
    browser.photograph("build-published").await;
    browser.open(&service).await;
    browser.accessible("apps").await;
    browser.photograph("apps").await;
    browser.finish().await;
}
