//! The pages of apps, images and settings, and the search, as a person uses them.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::browser::{Browser, Size, Theme};
use crate::support::grid::fake_event;
use crate::support::process::{Ran, run};
use crate::support::registry::logins_are_read_again;
use crate::support::up::{Machine, Up};

const FAKE: &str = r#"{"log_lines":4,"layers":3,"layer_bytes":20000}"#;

/// Builds a commit under a deploy.
async fn published(up: &Up, id: &str, commit: &str, seed: u64) {
    let mut event: Value = serde_json::from_str(&fake_event(id, FAKE)).unwrap();
    (event["commit"], event["deploy_id"], event["fake"]["seed"]) =
        (json!(commit), json!(format!("d-{id}")), json!(seed));
    event["ref"] = json!("refs/heads/main");
    up.enqueue(event.to_string()).await;
    up.published(id).await;
}

async fn docker_login(machine: &Machine, user: &str, password: &str) -> Ran {
    let config = tempfile::tempdir().unwrap();
    let mut docker = Command::new("docker");
    docker.args(["login", "-u", user, "--password-stdin", &machine.registry]);
    docker.env("DOCKER_CONFIG", config.path());
    run(docker, password).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_found_from_its_app_and_by_the_search() {
    let machine = Machine::new();
    let up = machine.start().await;
    let (first, second) = ("1".repeat(40), "2".repeat(40));
    published(&up, "b-1", &first, 1).await;
    published(&up, "b-2", &second, 2).await;
    let report = json!({"namespace": "smoke", "app": "web", "state": "done", "started_at": "2026-11-23T10:16:38.000Z",
        "finished_at": "2026-11-23T10:17:20.000Z"});
    assert!(up.call(Method::PUT, "deploys/d-b-2", report.to_string()).await.status().is_success());
    let browser = Browser::start().await;
    let service = up.announcement.url.trim_end_matches('/').to_owned();
    browser.sign_in(&service, "admin", &up.password(), "/smoke/web").await;
    let image = format!("{}/smoke/web.fake:{second}", machine.registry);
    let copies = format!("return document.querySelector('[data-copy=\"docker pull {image}\"]')");
    browser.until("the command that pulls can be copied", &copies).await;
    browser.shows("serving").await;
    browser.click("label[for=with-kubernetes]").await;
    browser.shows("kubectl create secret docker-registry").await;
    browser.click("label[for=with-docker]").await;
    browser.accessible("an app").await;
    browser.photograph("app").await;

    browser.click(".details a[href^='/images/']").await;
    browser.shows("are new: that is what a node with 1111111 pulls").await;
    browser.accessible("an image").await;
    browser.photograph("image").await;

    // The key finds the box, and the box the commit.
    browser.find("body").await.send_keys("/").await.unwrap();
    browser.until("the box has the focus", "return document.activeElement.name === 'q'").await;
    browser.find(".find input").await.send_keys("1111111\u{e007}").await.unwrap();
    browser.shows("Found for “1111111”").await;
    browser.accessible("a search").await;
    browser.photograph("search").await;
    browser.click(".hits a[href='/builds/b-1']").await;
    browser.until("the build's page", "return location.pathname === '/builds/b-1'").await;
    browser.shows("Published").await;

    browser.open(&format!("{service}/smoke/web")).await;
    browser.click("label[for=with-kubernetes]").await;
    // A page that is brought up to date leaves what was chosen on it.
    published(&up, "b-3", &"3".repeat(40), 3).await;
    assert_eq!(browser.eval_async("buildgrid.refresh(location.href).then(done)").await, true);
    browser
        .until(
            "the page has the newest image",
            &format!("return document.querySelector('#current').innerText.includes('{}')", "3".repeat(40)),
        )
        .await;
    browser.comes_to("return document.getElementById('with-kubernetes').checked", true).await;
    browser.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_made_and_rotated_and_docker_logs_in_with_it() {
    let machine = Machine::new();
    let up = machine.start().await;
    let browser = Browser::start().await;
    let service = up.announcement.url.trim_end_matches('/').to_owned();
    let page = format!("{service}/settings/buildgrid");
    browser.sign_in(&service, "admin", &up.password(), "/settings/buildgrid").await;
    browser.shows("No credentials yet").await;
    browser.click("button[popovertarget=new]").await;
    browser.find("#others").await.send_keys("smoke").await.unwrap();
    browser.click("#new button[value=add]").await;
    browser.shows("It is shown this once").await;
    let (user, old) = (browser.text(".once h3 code").await, browser.text(".once .image code").await);
    docker_login(&machine, &user, &old).await.succeeded();

    browser.open(&page).await;
    browser.shows(&user).await;
    browser.click(&format!("button[popovertarget='rotate-{user}']")).await;
    browser.accessible("the question before a rotation").await;
    browser.click(&format!("#rotate-{user} button[value=rotate]")).await;
    browser.shows("The old password is refused").await;
    let new = browser.text(".once .image code").await;
    assert_ne!(old, new);
    logins_are_read_again().await;
    docker_login(&machine, &user, &old).await.failed();
    docker_login(&machine, &user, &new).await.succeeded();
    browser.accessible("a new password").await;
    // On a phone a command breaks between its words, and not within an option.
    browser.looks(Theme::Light, Size::Phone).await;
    let words = "return [...document.querySelectorAll('.command .word')].filter(word => word.textContent.startsWith('--')) \
        .map(word => word.offsetHeight)";
    browser.comes_to(words, json!([20])).await;
    browser.photograph("settings").await;

    // A reload asks for the page alone: the form is not sent again, and the password is gone.
    browser.eval("location.reload()").await;
    browser.until("the password is gone", "return !document.querySelector('.once')").await;
    docker_login(&machine, &user, &new).await.succeeded();
    browser.click(&format!("button[popovertarget='remove-{user}']")).await;
    browser.click(&format!("#remove-{user} button[value=remove]")).await;
    browser.shows("No credentials yet").await;
    logins_are_read_again().await;
    docker_login(&machine, &user, &new).await.failed();
    browser.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_built_by_a_form_that_keeps_what_was_typed() {
    let machine = Machine::new();
    let up = machine.start().await;
    published(&up, "b-1", &"1".repeat(40), 1).await;
    let browser = Browser::start().await;
    let service = up.announcement.url.trim_end_matches('/').to_owned();
    browser.sign_in(&service, "admin", &up.password(), "/smoke/web").await;
    browser.click("a.button").await;
    // All but the commit is as it was, and that is where one types.
    let typed = "return [...document.querySelectorAll('.order input:not([type]), .order textarea')] \
        .map(field => field.name + '=' + field.value).filter(text => !text.endsWith('='))";
    let fake = r#"fake={"log_lines":4,"layers":3,"layer_bytes":20000,"seed":1}"#;
    let kept = json!(["namespace=smoke", "app=web", "ref=main", fake]);
    browser.comes_to(typed, kept).await;
    // A page takes its `autofocus` up with the first frame that it draws, not as it is loaded.
    let focused = "return document.activeElement?.name === 'commit'";
    browser.until("the commit has the focus", focused).await;
    browser.accessible("the form").await;
    browser.photograph("build-form").await;

    // By the keyboard alone, and on a phone.
    browser.press("main").await;
    browser.enter().await;
    browser.shows("One field needs another look").await;
    assert!(browser.text("#f-commit-fault").await.contains("40 hex digits are needed"));
    let described = "return document.getElementById('f-commit').getAttribute('aria-describedby')";
    browser.comes_to(described, "f-commit-fault f-commit-hint").await;
    browser.comes_to("return document.getElementById('f-commit').value", "main").await;
    browser.until("the commit at fault has the focus", focused).await;
    let mut noted = browser.complaints().await;
    // It was sent once, and is noted as often as the driver asks for what was noted before.
    let metrics = format!("http://{}/metrics", up.announcement.status);
    let metrics = reqwest::get(metrics).await.unwrap().text().await.unwrap();
    let sent = "buildgrid_timeline_requests_total{route=\"/build\",status=\"422\"} 1\n";
    assert!(metrics.contains(sent), "{metrics}");
    noted.dedup();
    let [note] = &noted[..] else { panic!("{noted:#?}") };
    assert!(note.contains("the server responded with a status of 422"), "{note}");
    browser.eval("document.querySelector('[name=args]').value = 'A=1\\nno'; document.querySelector('[name=namespace]').value = 'acme'").await;
    browser.click(".send button").await;
    browser.shows("3 fields need another look").await;
    assert!(browser.text("#f-namespace-fault").await.contains("fake.namespaces"));
    browser.accessible("the form, refused").await;
    browser.photograph("build-form-refused").await;
    browser.looks(Theme::Light, Size::Phone).await;
    let wide = "return document.documentElement.scrollWidth <= innerWidth";
    browser.comes_to(wide, true).await;

    browser
        .eval(
            "for (const [name, value] of [['args', ''], ['namespace', 'smoke'], ['commit', '2'.repeat(40)]]) \
        document.querySelector(`[name=${name}]`).value = value",
        )
        .await;
    browser.complaints().await;
    browser.click(".send button").await;
    browser.until("the new build's page", "return location.pathname.startsWith('/builds/')").await;
    // The same without scripts, from a link that fills it in.
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    browser.open(&format!("{service}/build?namespace=smoke&app=web&commit={}", "3".repeat(40))).await;
    browser.click(".send button").await;
    browser
        .until(
            "the third build's page",
            "return location.pathname.startsWith('/builds/') && document.body.innerText.includes('3333333')",
        )
        .await;
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({"value": false})).await;
    browser.open(&format!("{service}/smoke/web")).await;
    browser.click(".entry:nth-child(2) .row-title").await;
    browser.shows("Published").await;
    browser.shows("2222222").await;
    browser.shows("admin").await;
    browser.finish().await;
}
