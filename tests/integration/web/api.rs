//! Claims, builds, apps, services and deploys over HTTP, and the document that describes them.

use std::collections::BTreeSet;

use buildgrid::queue::Queue;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ATTEMPT, Service, claim, event, refused};
use crate::support::broker::TestBroker;

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_described_and_every_description_is_a_route() {
    let service = Service::start().await;
    let document = service.nobody(Method::GET, "/api/v1/openapi.json").send().await.unwrap();
    let document: Value = document.json().await.unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut described = Vec::new();
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            described.push(format!("{} {path}", method.to_uppercase()));
        }
    }
    described.sort();
    // The contract: DESIGN's table of the API, line by line.
    assert_eq!(
        described,
        [
            "GET /api/v1/apps",
            "GET /api/v1/apps/{namespace}/{app}",
            "GET /api/v1/builds",
            "GET /api/v1/builds/{id}",
            "GET /api/v1/builds/{id}/log",
            "GET /api/v1/builds/{id}/log/hits",
            "GET /api/v1/builds/{id}/log/outline",
            "GET /api/v1/deploys/{id}",
            "GET /api/v1/deploys/{id}/log",
            "GET /api/v1/deploys/{id}/log/hits",
            "GET /api/v1/deploys/{id}/log/outline",
            "GET /api/v1/images/in-use",
            "GET /api/v1/services/{namespace}/{app}/{service}",
            "POST /api/v1/builds",
            "POST /api/v1/builds/{id}/attempts/{attempt}/log",
            "POST /api/v1/builds/{id}/attempts/{attempt}/state",
            "POST /api/v1/builds/{id}/cancel",
            "POST /api/v1/builds/{id}/rebuild",
            "POST /api/v1/deploys/{id}/log",
            "PUT /api/v1/builds/{id}",
            "PUT /api/v1/deploys/{id}",
        ]
    );
    for route in &described {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace(['{', '}'], "x");
        let answer = service.nobody(method.parse().unwrap(), &path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{route} is there, and asks for a login");
        // A method that is not described is not there.
        let other = service.nobody(Method::DELETE, &path).send().await.unwrap();
        refused(other, StatusCode::METHOD_NOT_ALLOWED).await;
    }
    // Whatever is sent back has the shape that the document gives it a name for.
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for schema in
        ["Build", "BuildDetail", "Claim", "ClaimAnswer", "StateReport", "Progress", "Problem", "LogEntry"]
    {
        assert!(schemas.contains_key(schema), "{schema} is not described");
    }
    service.claimed().await;
    let build = service.get("/builds/b-1").await;
    let properties = schemas["Build"]["properties"].as_object().unwrap();
    let shown = service.get("/builds").await["items"][0].as_object().unwrap().clone();
    assert_eq!(shown.keys().collect::<Vec<_>>().len(), properties.len());
    assert!(shown.keys().all(|key| properties.contains_key(key)), "{shown:?}");
    assert!(build["attempts"].is_array());
    for of in ["/api/v1/builds/{id}/log", "/api/v1/deploys/{id}/log"] {
        let media = document["paths"][of]["get"]["responses"]["200"]["content"].as_object().unwrap();
        let media: BTreeSet<&str> = media.keys().map(String::as_str).collect();
        assert_eq!(media, ["application/x-ndjson", "text/event-stream", "text/plain"].into());
    }
    for (schema, word) in [("BuildState", "claimed"), ("AttemptState", "fetching"), ("DeployState", "done")] {
        let words = schemas[schema]["enum"].as_array().unwrap();
        assert!(words.contains(&json!(word)), "{schema} as it is on the wire: {words:?}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_must_be_of_an_event_that_a_worker_would_take() {
    let service = Service::start().await;
    let good = event("b-1", "acme", "shop");
    let put = |path: &str, body: Value| service.worker(Method::PUT, path).json(&body).send();
    for (path, body, status, words) in [
        ("/builds/b-2", claim(&good, ATTEMPT), 422, "b-1"),
        ("/builds/b-1", claim("{}", ATTEMPT), 422, "event: missing field `version`"),
        ("/builds/b-1", claim(&good.replace("shop\"", "Sh.op\""), ATTEMPT), 422, "Sh.op"),
        ("/builds/b-1", claim(&good, "not-a-uuid"), 422, "attempt"),
        ("/builds/b-1", json!({"event": good}), 422, "missing field"),
        ("/builds/b-1", json!([]), 422, "invalid"),
        ("/builds/b-1", json!({"event": good, "worker": "", "attempt": ATTEMPT, "number": 1}), 422, "worker"),
        (
            "/builds/b-1",
            json!({"event": good, "worker": "w", "attempt": ATTEMPT, "number": -1}),
            422,
            "number",
        ),
    ] {
        let answer = put(path, body).await.unwrap();
        let problem = refused(answer, StatusCode::from_u16(status).unwrap()).await;
        assert!(problem.detail.contains(words), "{:?} does not say {words:?}", problem.detail);
    }
    let broken = service.worker(Method::PUT, "/builds/b-1").body("{").send().await.unwrap();
    refused(broken, StatusCode::BAD_REQUEST).await;
    let large = service.worker(Method::PUT, "/builds/b-1").body(vec![b' '; 4 << 20]).send().await.unwrap();
    refused(large, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert_eq!(service.get("/builds").await["items"], json!([]), "nothing was taken down");
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_are_listed_by_page_and_filter() {
    let service = Service::start().await;
    for n in 0..7 {
        let (id, app) = (format!("b-{n}"), if n % 2 == 0 { "shop" } else { "mail" });
        let attempt = format!("0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c2{n}");
        let body = claim(&event(&id, "acme", app), &attempt);
        let path = format!("/builds/{id}");
        assert_eq!(
            service.worker(Method::PUT, &path).json(&body).send().await.unwrap().status(),
            StatusCode::OK
        );
    }
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|b| b["id"].as_str().unwrap().to_owned()).collect()
    };
    let (mut seen, mut path) = (Vec::new(), "/builds?limit=3".to_owned());
    loop {
        let page = service.get(&path).await;
        seen.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => path = format!("/builds?limit=3&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["b-6", "b-5", "b-4", "b-3", "b-2", "b-1", "b-0"]);
    for (query, found) in [
        ("namespace=acme&app=mail", vec!["b-5", "b-3", "b-1"]),
        ("service=worker&namespace=acme&app=mail&limit=1", vec!["b-5"]),
        ("service=nobody&namespace=acme&app=mail", vec![]),
        ("state=claimed&limit=2", vec!["b-6", "b-5"]),
        ("state=published", vec![]),
        ("ref=main&limit=1&namespace=acme&app=mail", vec!["b-5"]),
        ("ref=refs/heads/main&limit=1&namespace=acme&app=mail", vec!["b-5"]),
        ("ref=other&namespace=acme&app=mail", vec![]),
        ("commit=9fceb02&limit=1", vec!["b-6"]),
        ("commit=9fceb03", vec![]),
        ("deploy_id=shop-418&limit=1", vec!["b-6"]),
        ("namespace=smoke", vec![]),
    ] {
        assert_eq!(ids(&service.get(&format!("/builds?{query}")).await), found, "{query}");
    }
    let apps = service.get("/apps?limit=1").await;
    assert_eq!(apps["items"][0]["app"], "mail");
    let next = apps["next"].as_str().unwrap();
    assert_eq!(service.get(&format!("/apps?cursor={next}")).await["items"][0]["app"], "shop");
    assert_eq!(service.get("/apps?name=ho").await["items"][0]["app"], "shop");
    assert_eq!(service.get("/apps?name=%25").await["items"], json!([]), "no pattern, but a word");
    for bad in [
        "/builds?cursor=x",
        "/builds?cursor=",
        "/builds?cursor=e30",
        "/builds?limit=0",
        "/builds?limit=201",
        "/builds?limit=x",
        "/builds?state=running",
        "/builds?ref=main",
        "/builds?service=web&namespace=acme",
        "/builds?commit=9f",
        "/builds?commit=xyzw",
        "/builds?app=shop",
        "/builds?namespace=A",
        "/builds?colour=red",
        "/apps?cursor=x",
        "/apps?namespace=a.b",
        "/apps?limit=-1",
    ] {
        let answer = service.maestro(Method::GET, bad).send().await.unwrap();
        let problem = refused(answer, StatusCode::BAD_REQUEST).await;
        assert!(!problem.detail.is_empty(), "{bad}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_enqueued_over_http_and_lands_on_the_exchange() {
    let rabbit = TestBroker::start().await;
    let queue = Queue::amqp(&rabbit.config(), "test");
    queue.ready().await.unwrap();
    queue.declare().await.unwrap();
    let service = Service::enqueueing(rabbit.config()).await;
    let post = |path: &str, body: String| service.maestro(Method::POST, path).body(body).send();
    let body = event("b-1", "acme", "shop");
    let answer = post("/builds", body.clone()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.headers()["location"], "/api/v1/builds/b-1");
    let build: Value = answer.json().await.unwrap();
    assert_eq!((&build["state"], &build["id"]), (&json!("queued"), &json!("b-1")));
    let mut subscription = queue.subscribe().await.unwrap();
    let delivery = crate::support::patience::in_time("the event", subscription.next()).await.unwrap();
    assert_eq!(delivery.body, body.as_bytes());
    delivery.ack().await;

    refused(post("/builds", event("b-1", "acme", "mail")).await.unwrap(), StatusCode::CONFLICT).await;
    for (bad, words) in [("{}", "version"), ("", "empty"), ("[1]", "object")] {
        let problem =
            refused(post("/builds", bad.to_owned()).await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
        assert!(problem.detail.contains(words), "{}", problem.detail);
    }
    let large = "x".repeat((1 << 20) + 1);
    refused(post("/builds", large).await.unwrap(), StatusCode::PAYLOAD_TOO_LARGE).await;

    // One that nobody has begun ends at once; its rebuild is another build.
    let cancelled: Value = post("/builds/b-1/cancel", String::new()).await.unwrap().json().await.unwrap();
    assert_eq!(cancelled["state"], "cancelled");
    let again = post("/builds/b-1/cancel", String::new()).await.unwrap();
    assert_eq!(again.status(), StatusCode::ACCEPTED);
    let rebuilt: Value = post("/builds/b-1/rebuild", String::new()).await.unwrap().json().await.unwrap();
    assert_ne!(rebuilt["id"], "b-1");
    let delivery = crate::support::patience::in_time("the rebuild", subscription.next()).await.unwrap();
    let sent: Value = serde_json::from_slice(&delivery.body).unwrap();
    assert_eq!((&sent["id"], &sent["build"]["rebuild"]), (&rebuilt["id"], &json!(true)));
    delivery.ack().await;
    refused(post("/builds/none/cancel", String::new()).await.unwrap(), StatusCode::NOT_FOUND).await;
    drop(subscription);
    queue.close().await;
    service.timeline.finish().await;
    rabbit.assert_drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_away_is_named_and_nothing_is_taken_down() {
    let rabbit = TestBroker::start().await;
    // Nobody has declared exchange and queue.
    let service = Service::enqueueing(rabbit.config()).await;
    let body = event("b-1", "acme", "shop");
    let answer = service.maestro(Method::POST, "/builds").body(body).send().await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "5");
    let problem = refused(answer, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(problem.detail.starts_with("the queue does not take the event"), "{}", problem.detail);
    assert_eq!(service.get("/builds").await["items"], json!([]));
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_is_reported_with_its_pods_lines() {
    let service = Service::start().await;
    service.claimed().await;
    let report = |state: &str| {
        json!({"namespace": "acme", "app": "shop", "state": state, "services": ["web"],
            "started_at": "2026-11-23T10:15:02.123Z"})
    };
    let put =
        |id: &str, body: Value| service.maestro(Method::PUT, &format!("/deploys/{id}")).json(&body).send();
    let unknown = service.maestro(Method::POST, "/deploys/shop-418/log").body("").send().await.unwrap();
    refused(unknown, StatusCode::NOT_FOUND).await;
    assert_eq!(put("shop-418", report("running")).await.unwrap().status(), StatusCode::OK);
    let lines: String = (0..100)
        .map(|seq| super::line(seq, Some(if seq % 10 == 0 { "web" } else { "worker" }), "x"))
        .collect();
    let appended = service.maestro(Method::POST, "/deploys/shop-418/log").body(lines).send().await.unwrap();
    assert_eq!(appended.text().await.unwrap(), r#"{"next_seq":100,"cancel":false}"#);
    put("shop-418", report("done")).await.unwrap();
    let deploy = service.get("/deploys/shop-418").await;
    assert_eq!((&deploy["state"], &deploy["entries"]), (&json!("done"), &json!(100)));
    assert_eq!(deploy["builds"][0]["id"], "b-1", "joined by its deploy_id");
    let web = service.maestro(Method::GET, "/deploys/shop-418/log?service=web").send().await.unwrap();
    assert_eq!(web.text().await.unwrap().lines().count(), 10);

    // Another namespace has one of the same name: its reader is led on to its own next page.
    let other = json!({"namespace": "other", "app": "shop", "state": "done"});
    assert_eq!(put("shop-418", other).await.unwrap().status(), StatusCode::OK);
    let first = service.maestro(Method::GET, "/deploys/shop-418/log?namespace=acme&limit=60").send();
    let link = first.await.unwrap().headers()["link"].to_str().unwrap().to_owned();
    let next = link.strip_prefix("</api/v1").and_then(|link| link.split('>').next()).unwrap();
    let rest = service.maestro(Method::GET, next).send().await.unwrap();
    assert_eq!(rest.text().await.unwrap().lines().count(), 40, "{link}");
    refused(
        service.maestro(Method::GET, "/deploys/shop-418/log").send().await.unwrap(),
        StatusCode::CONFLICT,
    )
    .await;

    for (body, words) in [
        (report("perhaps"), "state"),
        (json!({"namespace": "acme", "app": "shop", "state": "done", "extra": 1}), "extra"),
        (json!({"namespace": "acme", "app": "shop", "state": "done", "services": ["a/b"]}), "services"),
    ] {
        let problem = refused(put("shop-418", body).await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
        assert!(problem.detail.contains(words), "{}", problem.detail);
    }
    let long = "x".repeat(257);
    refused(put(&long, report("done")).await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(service.get("/deploys/shop-418?namespace=acme").await["state"], "done");
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_asks_for_the_image_of_a_service() {
    let service = Service::start().await;
    service.claimed().await;
    let asked = service.get("/services/acme/shop/worker").await;
    assert_eq!(asked["image"], Value::Null, "nothing is published");
    for absent in
        ["/services/acme/shop/other", "/services/acme/mail/web", "/services/acme/A/web", "/apps/acme/mail"]
    {
        refused(service.maestro(Method::GET, absent).send().await.unwrap(), StatusCode::NOT_FOUND).await;
    }
    let client = service.timeline.client("worker");
    let other = event("b-9", "acme", "mail");
    let attempt = crate::support::played::PlayedAttempt::claim(&client, &other).await;
    attempt.ends(buildgrid::event::result::State::Published, None).await;
    let asked = service.get("/services/acme/mail/worker").await;
    assert_eq!(
        asked["image"],
        "registry.example.com/acme/mail.fake:9fceb02d0ae598e95dc970b74767f19372d61af8"
    );
    assert_eq!(asked["build"]["id"], "b-9");
    assert_eq!(service.get("/apps/acme/mail").await["current"]["id"], "b-9");
    service.timeline.finish().await;
}
