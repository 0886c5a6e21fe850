//! The Build & Deploy timeline on the pages of an app and of its services.

use buildgrid::web::access::{Namespaces, Role};
use regex::Regex;
use reqwest::{Method, StatusCode, header};
use serde_json::json;

use super::{Service, event};

impl Service {
    /// Takes a build down as one that this deploy, these services and this ref are named for.
    async fn built(&self, id: &str, deploy: Option<&str>, services: &[&str], git_ref: &str) {
        let mut event: serde_json::Value = serde_json::from_str(&event(id, "acme", "shop")).unwrap();
        (event["deploy_id"], event["services"], event["ref"]) =
            (json!(deploy), json!(services), json!(git_ref));
        let attempt = buildgrid::timeline::protocol::AttemptId::generate();
        let claim = super::claim(&event.to_string(), &attempt.to_string());
        let claimed = self.worker(Method::PUT, &format!("/builds/{id}")).json(&claim).send().await.unwrap();
        assert_eq!(claimed.status(), StatusCode::OK);
        // Their places in the timeline are milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }

    async fn deployed(&self, id: &str, report: serde_json::Value) {
        let report = self.maestro(Method::PUT, &format!("/deploys/{id}")).json(&report).send().await.unwrap();
        assert_eq!(report.status(), StatusCode::OK);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }

    pub(super) async fn page(&self, session: &str, path: &str) -> String {
        let page = self.nobody(Method::GET, path).header(header::COOKIE, session).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        page.text().await.unwrap()
    }
}

/// The builds and deploys of a page in their order, those of one entry in brackets.
fn told(page: &str) -> String {
    let entries = page.split("<li class=\"entry\"").skip(1);
    let title =
        Regex::new(r#"class="row-title"(?: href="/(?:builds|deploys)/([^"?]+)[^"]*")?>([^<]*)<"#).unwrap();
    let told = entries.map(|entry| {
        let titles = title
            .captures_iter(entry)
            .map(|found| found.get(1).map_or_else(|| found[2].to_owned(), |id| id.as_str().to_owned()));
        format!("[{}]", titles.collect::<Vec<_>>().join(" "))
    });
    told.collect::<Vec<_>>().join(" ")
}

fn next(page: &str) -> Option<String> {
    let next = Regex::new(r#"rel="next" href="([^"]*)""#).unwrap();
    next.captures(page).map(|found| found[1].replace("&#38;", "&"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deploys_run_is_told_to_whoever_keeps_the_store() {
    let service = Service::start().await;
    let image = |tag: &str| format!("registry.example.com/acme/shop.storefront:{tag}");
    // The last one of each service that is done, and what is under way; others are over, or replaced.
    for (id, app, state, services, tag) in [
        ("d-0", "till", "done", &[][..], "t0"),
        ("d-1", "shop", "done", &["web", "worker"], "v1"),
        ("d-2", "shop", "done", &["web"], "v2"),
        ("d-3", "shop", "done", &["web"], "v3"),
        ("d-4", "shop", "failed", &["web"], "v4"),
        ("d-5", "shop", "cancelled", &["web"], "v5"),
        ("d-6", "shop", "running", &["web"], "v6"),
        ("d-7", "shop", "waiting", &["worker"], "v7"),
        ("d-8", "mail", "done", &["smtp"], "m8"),
        ("d-9", "mail", "done", &[], "m9"),
    ] {
        let report = json!({"namespace": "acme", "app": app, "state": state, "services": services, "image": image(tag)});
        service.deployed(id, report).await;
    }
    // Of two repositories each keeps its own, whatever was deployed last.
    for (id, services, repository) in
        [("d-10", &["web"][..], "a"), ("d-11", &["web"], "b"), ("d-12", &[], "b")]
    {
        let image = format!("registry.example.com/acme/two.{repository}:v1");
        let report =
            json!({"namespace": "acme", "app": "two", "state": "done", "services": services, "image": image});
        service.deployed(id, report).await;
    }
    // It is not known what this one runs.
    let begun = json!({"namespace": "acme", "app": "begun", "state": "running", "image": image("first")});
    service.deployed("d-13", begun).await;
    // What a deploy's builds have published.
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    service.published("b-1", &"1".repeat(40), &image("built"), digest, 1).await;
    service
        .deployed(
            "shop-418",
            json!({"namespace": "acme", "app": "shop", "state": "done", "services": ["api"]}),
        )
        .await;

    let worker = service.token(Role::Worker, "*").await;
    let answer =
        service.nobody(Method::GET, "/api/v1/images/in-use").bearer_auth(&worker).send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    let built = format!("{}@{digest}", image("built"));
    let shop = ["first", "m8", "m9", "t0", "v1", "v3", "v6", "v7"].map(image).to_vec();
    let two = ["a", "b"].map(|repository| format!("registry.example.com/acme/two.{repository}:v1")).to_vec();
    let expected: Vec<_> = [vec![built], shop, two].concat();
    let apps = ["acme/mail", "acme/shop", "acme/till", "acme/two"];
    assert_eq!(answer, json!({"images": expected, "apps": apps}));
    // A part of the namespaces would be taken for all of them.
    let some = service.token(Role::Worker, "acme").await;
    let answer =
        service.nobody(Method::GET, "/api/v1/images/in-use").bearer_auth(&some).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.text().await.unwrap().contains("that needs a token for all of them"));
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_and_deploys_stand_together_where_they_belong() {
    let service = Service::start().await;
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    let (web, both, main) = (["web"], ["web", "worker"], "refs/heads/main");
    service.built("b-1", Some("d-1"), &both, main).await;
    service.built("b-2", None, &web, "refs/heads/feature/x").await;
    let own = buildgrid::registry::RegistryConfig::default().host;
    let rollback = json!({"namespace": "acme", "app": "shop", "state": "done", "services": ["web"],
        "image": format!("{own}/acme/shop.fake:9fceb02d0ae598e95dc970b74767f19372d61af8")});
    service.deployed("again", rollback).await;
    service.built("b-3", Some("d-1"), &both, main).await;
    service.built("b-4", Some("d & 4"), &["worker"], main).await;
    service
        .deployed("d-1", json!({"namespace": "acme", "app": "shop", "state": "running", "services": both}))
        .await;
    service.deployed("other", json!({"namespace": "acme", "app": "till", "state": "done"})).await;

    let page = service.page(&session, "/acme/shop").await;
    assert_eq!(told(&page), "[b-4 d &#38; 4] [b-3 b-1 d-1] [again] [b-2]");
    assert!(
        page.contains("joint waits") && page.contains("joint forks") && page.contains("serving"),
        "{page}"
    );
    let image = "/images/acme/shop.fake:9fceb02d0ae598e95dc970b74767f19372d61af8";
    assert!(page.contains(image), "{page}");
    // One of another registry has no page here.
    let elsewhere =
        json!({"namespace": "acme", "app": "till", "state": "done", "image": "docker.io/acme/till.x:abc"});
    service.deployed("elsewhere", elsewhere).await;
    let mut event: serde_json::Value = serde_json::from_str(&event("t-1", "acme", "till")).unwrap();
    event["deploy_id"] = json!(null);
    let attempt = buildgrid::timeline::protocol::AttemptId::generate().to_string();
    let claim = super::claim(&event.to_string(), &attempt);
    assert!(
        service.worker(Method::PUT, "/builds/t-1").json(&claim).send().await.unwrap().status().is_success()
    );
    let till = service.page(&session, "/acme/till").await;
    assert!(till.contains("docker.io/acme/till.x") && !till.contains("href=\"/images/"), "{till}");
    for (query, expected) in [
        ("/acme/shop?service=worker", "[b-4 d &#38; 4] [b-3 b-1 d-1]"),
        ("/acme/shop/worker", "[b-4 d &#38; 4] [b-3 b-1 d-1]"),
        ("/acme/shop/web", "[b-3 b-1 d-1] [again] [b-2]"),
        ("/acme/shop?state=claimed&service=web", "[b-3 b-1 d-1] [b-2]"),
        ("/acme/shop?state=failed", ""),
        ("/acme/shop?ref=feature/x", "[b-2]"),
        ("/acme/shop?ref=refs/heads/feature/x", "[b-2]"),
        ("/acme/shop?service=%22%3E", ""),
    ] {
        let page = service.page(&session, query).await;
        assert_eq!(told(&page), expected, "{query}");
    }
    for absent in ["/acme/shop/none", "/acme/none/web", "/globex/shop/web"] {
        let answer =
            service.nobody(Method::GET, absent).header(header::COOKIE, &session).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{absent}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_build_stands_on_one_page_and_a_deploy_beside_the_newest_of_its_builds() {
    let service = Service::start().await;
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    // More than two pages; one deploy has builds on all of them, and deploys without builds lie between.
    for number in 0..90 {
        let deploy =
            if number % 40 == 3 { Some("wide".to_owned()) } else { Some(format!("d-{}", number / 2)) };
        let deploy = deploy.filter(|_| number % 5 != 0);
        service.built(&format!("b-{number}"), deploy.as_deref(), &["web"], "refs/heads/main").await;
        if number % 10 == 7 {
            let report = json!({"namespace": "acme", "app": "shop", "state": "failed"});
            service.deployed(&format!("alone-{number}"), report).await;
        }
    }
    let (mut path, mut found, mut pages) = (Some("/acme/shop".to_owned()), Vec::new(), 0);
    while let Some(next_page) = path {
        let page = service.page(&session, &next_page).await;
        found.push(told(&page));
        path = next(&page);
        pages += 1;
        assert!(pages < 10);
    }
    let all = found.join(" ");
    let named = |name: &str| all.split(['[', ']', ' ']).filter(|word| *word == name).count();
    for number in 0..90 {
        assert_eq!(named(&format!("b-{number}")), 1, "b-{number}: {all}");
    }
    for number in (7..90).step_by(10) {
        assert_eq!(named(&format!("alone-{number}")), 1, "alone-{number}: {all}");
    }
    assert!(pages >= 3 && all.contains("[b-83 b-43 b-3 wide]") && named("wide") == 1, "{pages} pages: {all}");
    assert!(all.contains("[b-2 d-1]") && all.contains("[b-0]"), "{all}");
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_shows_its_image_and_how_it_is_pulled() {
    let service = Service::start().await;
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    service.claimed().await;
    let page = service.page(&session, "/acme/shop").await;
    assert!(page.contains("No image yet") && !page.contains("docker pull"), "{page}");
    let commit = "9fceb02d0ae598e95dc970b74767f19372d61af8";
    let image = format!("registry.example.com/acme/shop.fake:{commit}");
    service.published("b-2", commit, &image, &format!("sha256:{}", "a".repeat(64)), 98_700_000).await;
    service
        .deployed(
            "shop-418",
            json!({"namespace": "acme", "app": "shop", "state": "done",
        "services": ["web"], "finished_at": "2026-11-23T10:17:20.000Z"}),
        )
        .await;

    let page = service.page(&session, "/acme/shop/web").await;
    assert!(page.contains(&format!("data-copy=\"{image}\"")), "{page}");
    assert!(page.contains(&format!("data-copy=\"docker pull {image}\"")), "{page}");
    assert!(page.contains("98.7 MB") && page.contains("/api/v1/services/acme/shop/web |"), "{page}");
    assert!(page.contains("by <a href=\"/deploys/shop-418?namespace=acme\">shop-418</a>"), "{page}");
    // What the page shows is what the script is told.
    assert_eq!(service.get("/services/acme/shop/web").await["image"], image);
    let other = service.page(&session, "/acme/shop/worker").await;
    assert!(other.contains(&format!("data-copy=\"{image}\"")) && !other.contains("deployed "), "{other}");
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_serves_a_service_is_known_however_long_ago_it_was_deployed() {
    let service = Service::start().await;
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    let report = |state: &str, services: &[&str]| json!({"namespace": "acme", "app": "shop", "state": state, "services": services});
    service.built("b-1", Some("d-web"), &["web", "worker"], "refs/heads/main").await;
    service.deployed("d-web", report("done", &["web"])).await;
    for number in 0..60 {
        service.deployed(&format!("d-{number}"), report("done", &["worker"])).await;
    }
    service.deployed("d-cron", report("running", &["cron"])).await;
    let page = service.page(&session, "/acme/shop?service=web").await;
    let serving = |page: &str, id: &str| {
        let entries = page.split("<li class=\"entry\"").skip(1);
        let shown: Vec<_> = entries.filter(|entry| entry.contains(&format!(">{id}<"))).collect();
        assert_eq!(shown.len(), 1, "{id}: {page}");
        shown[0].contains(">serving<")
    };
    assert!(serving(&page, "d-web"), "{page}");
    let page = service.page(&session, "/acme/shop/worker").await;
    assert!(serving(&page, "d-59") && !serving(&page, "d-58"), "{page}");
    // One that names no services is for all of them; one that fails after all serves nothing.
    service.deployed("d-all", report("done", &[])).await;
    let page = service.page(&session, "/acme/shop").await;
    assert!(serving(&page, "d-all") && !serving(&page, "d-59"), "{page}");
    service.deployed("d-all", report("failed", &[])).await;
    let page = service.page(&session, "/acme/shop/worker").await;
    assert!(serving(&page, "d-59") && !serving(&page, "d-all"), "{page}");

    // The services of an app are those of its last builds and deploys, whichever is the last of all.
    service.built("b-2", None, &["api"], "refs/heads/main").await;
    assert_eq!(service.get("/apps/acme/shop").await["services"], json!(["api", "cron", "web", "worker"]));
    assert!(service.page(&session, "/acme/shop").await.contains("href=\"/acme/shop/cron\""));
    let cron = service.page(&session, "/acme/shop/cron").await;
    assert!(told(&cron).contains("d-cron") && cron.contains("No image yet"), "{cron}");
    let worker = service.page(&session, "/acme/shop/worker").await;
    assert!(
        worker.contains("No build has made an image for it.") && !worker.contains("No image yet"),
        "{worker}"
    );
    for number in 0..50 {
        service.built(&format!("c-{number}"), None, &["api"], "refs/heads/main").await;
    }
    assert_eq!(
        service.get("/apps/acme/shop").await["services"],
        json!(["api"]),
        "the others are of the past"
    );
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_is_empty_while_there_is_more() {
    let service = Service::start().await;
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    // More builds of one deploy than a page has rows: all but the newest stand on the first page.
    service.built("oldest", None, &["web"], "refs/heads/main").await;
    for number in 0..100 {
        service.built(&format!("b-{number}"), Some("wide"), &["web"], "refs/heads/main").await;
    }
    let page = service.page(&session, "/acme/shop?service=web").await;
    assert!(told(&page).starts_with("[b-99 b-98 "), "{}", told(&page));
    let page = service.page(&session, &next(&page).unwrap()).await;
    assert_eq!((told(&page).as_str(), next(&page)), ("[oldest]", None));
    service.timeline.finish().await;
}
