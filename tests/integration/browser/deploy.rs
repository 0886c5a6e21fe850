//! The page of a deploy: its image, its pods, and their log.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::log::looking_at;
use crate::web::{Service, line};

/// A deploy with pods of two services on two servers.
async fn deployed() -> Service {
    let service = Service::start().await;
    service.claimed().await;
    let deploy = json!({"namespace": "acme", "app": "shop", "state": "running", "services": ["web", "worker"],
        "started_at": "2026-11-23T10:16:38.000Z"});
    let put = service.maestro(Method::PUT, "/deploys/shop-418").json(&deploy).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    let pods = [
        ("web", "web-7c9d5f6b8-x2k4p", "node-a"),
        ("web", "web-7c9d5f6b8-m9v7c", "node-b"),
        ("worker", "worker-5b8f9c4d7-hh6wz", "node-b"),
    ];
    let lines: String = (0..90)
        .map(|seq| {
            let (name, pod, node) = pods[seq as usize % 3];
            let text = if seq == 31 { "database pool warming up" } else { "=> Booting Puma" };
            line(seq, Some(name), text)
                .replace("[1/1] RUN x", &format!("Start {name}"))
                .replace("worker-1", node)
                .replace(r#""pod":null"#, &format!(r#""pod":"{pod}""#))
        })
        .collect();
    let post = service.maestro(Method::POST, "/deploys/shop-418/log").body(lines).send().await.unwrap();
    assert_eq!(post.status(), StatusCode::OK);
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_shows_its_pods_and_their_log_live() {
    let service = deployed().await;
    let browser = looking_at(&service, "/deploys/shop-418").await;
    assert_eq!(browser.text("h1").await, "Deploy shop-418");
    let rail =
        "return [...document.querySelectorAll('#rail a')].map(link => link.innerText.replace(/\\s+/g, ' '))";
    assert_eq!(
        browser.eval(rail).await,
        json!([
            "web 2",
            "web-7c9d5f6b8-m9v7c 30 node-b",
            "web-7c9d5f6b8-x2k4p 30 node-a",
            "worker 1",
            "worker-5b8f9c4d7-hh6wz 30 node-b"
        ])
    );
    browser.accessible("a deploy").await;
    // By pod, by server and service, each in the address.
    browser.eval("[...document.querySelectorAll('#rail a')][2].click()").await;
    browser.until("one pod is shown", "return document.querySelector('#log[data-ready]') && location.search.includes('pod=web-7c9d5f6b8-x2k4p')").await;
    assert_eq!(browser.text("#count").await, "30 of 90 lines");
    browser
        .open(&format!("{}/deploys/shop-418?service=web&server=node-b&q=warming", service.timeline.url()))
        .await;
    browser.shows("1 of 1").await;
    assert_eq!(browser.text("#count").await, "30 of 90 lines");
    assert_eq!(browser.text("#L32 .p").await, "web·m9v7c");
    assert_eq!(browser.text("#L32 .t").await, "00:00:00.031");
    browser.photograph("deploy").await;

    // It is followed like a build, to its end.
    let more =
        line(90, Some("web"), "ready").replace("worker-1", "node-b").replace("[1/1] RUN x", "Start web");
    let post = service.maestro(Method::POST, "/deploys/shop-418/log").body(more).send().await.unwrap();
    assert_eq!(post.status(), StatusCode::OK);
    browser
        .until(
            "the line is counted",
            "return document.querySelector('#count').textContent === '31 of 91 lines'",
        )
        .await;
    let done = json!({"namespace": "acme", "app": "shop", "state": "done", "services": ["web", "worker"],
        "started_at": "2026-11-23T10:16:38.000Z", "finished_at": "2026-11-23T10:17:20.000Z"});
    service.maestro(Method::PUT, "/deploys/shop-418").json(&done).send().await.unwrap();
    browser.shows("Done").await;
    browser.shows("42 s").await;
    browser.finish().await;
    service.timeline.finish().await;
}
