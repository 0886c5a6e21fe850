//! Pages as a browser gets them.

use buildgrid::web::access::{Namespaces, Role};
use reqwest::{Method, StatusCode, header};

use super::{Service, claim, event, line};

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_what_is_there_and_nothing_runs_in_them() {
    let service = Service::start().await;
    service.claimed().await;
    service.append(line(0, None, "<script>alert(1)</script>")).await;
    service.append(line(1, Some("web"), "of web alone")).await;
    let deploy = serde_json::json!({"namespace": "acme", "app": "shop", "state": "failed", "reason": "no node is free"});
    let put = service.maestro(Method::PUT, "/deploys/shop-418").json(&deploy).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    let session = service.signed_in("mara", Role::Member, Namespaces::All).await;
    let get = |path: &'static str| service.nobody(Method::GET, path).header(header::COOKIE, &session).send();
    for (path, words) in [
        ("/", "acme"),
        ("/?namespace=acme&app=sh", "shop"),
        ("/acme/shop", "9fceb02"),
        ("/acme/shop?state=claimed", "9fceb02"),
        ("/builds/b-1", "&#60;script&#62;alert(1)"),
        ("/builds/b-1?from=1", "worker-1"),
        ("/builds/b-1?from=99", "Cancel"),
        ("/builds/b-1?service=db", "1 of 2 lines"),
        ("/builds/b-1?q=ALERT&stream=stdout", "&#60;script&#62;alert(1)"),
        ("/builds/b-1?server=&q=", "of web alone"),
        ("/deploys/shop-418", "no node is free"),
        ("/deploys/shop-418?namespace=acme&pod=web-1", "/builds/b-1"),
        ("/sign-in", "Password"),
    ] {
        let answer = get(path).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (header("x-content-type-options"), header("cache-control")),
            ("nosniff".into(), "no-store".into())
        );
        let page = answer.text().await.unwrap();
        assert!(page.contains(words), "{path} does not show {words:?}: {page}");
        assert!(!page.contains("<script>alert"), "{path}");
    }
    for (path, status) in [
        ("/builds/none", 404),
        ("/builds/b-1?attempt=x", 400),
        ("/builds/b-1?stream=x", 400),
        ("/deploys/none", 404),
        ("/deploys/shop-418?namespace=other", 404),
        ("/builds/b-1?attempt=0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c12", 404),
        ("/acme/other", 404),
        ("/acme/shop/extra/much", 404),
        ("/?cursor=x", 400),
        // Empty fields of a form.
        ("/?namespace=&app=&cursor=", 200),
        ("/acme/shop?state=&cursor=", 200),
        ("/builds/%ff", 400),
        ("/%ff/shop", 400),
    ] {
        let answer = get(path).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8", "{path}");
    }
    // Whoever is not signed in gets the form, at the address that was asked for.
    let form = service.nobody(Method::GET, "/builds/b-1?from=1").send().await.unwrap();
    assert_eq!(form.status(), StatusCode::UNAUTHORIZED);
    assert!(form.text().await.unwrap().contains("/builds/b-1?from=1"));
    // Style, script and icon are there, for as long as one likes.
    let page = get("/").await.unwrap().text().await.unwrap();
    let assets = page.split('"').filter(|part| part.starts_with("/assets/")).map(str::to_owned);
    for asset in assets.collect::<Vec<_>>() {
        let answer = service.nobody(Method::GET, &asset).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{asset}");
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"), "{asset}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_do_what_they_say_for_those_who_may() {
    let service = Service::start().await;
    service.claimed().await;
    let viewer = service.signed_in("vera", Role::Viewer, Namespaces::All).await;
    let member = service.signed_in("mara", Role::Member, Namespaces::All).await;
    let post = |cookie: &str| {
        service.nobody(Method::POST, "/builds/b-1/cancel").header(header::COOKIE, cookie.to_owned()).send()
    };
    let page =
        service.nobody(Method::GET, "/builds/b-1").header(header::COOKIE, &viewer).send().await.unwrap();
    assert!(!page.text().await.unwrap().contains("/cancel"), "no button that does nothing");
    assert_eq!(post(&viewer).await.unwrap().status(), StatusCode::FORBIDDEN);
    let done = post(&member).await.unwrap();
    assert_eq!(
        (done.status(), &done.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/builds/b-1".parse().unwrap())
    );
    assert_ne!(service.get("/builds/b-1").await["cancel_requested_at"], serde_json::Value::Null);
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_called_like_a_page_has_its_apps_all_the_same() {
    let service = Service::start().await;
    let session = service.signed_in("mara", Role::Member, Namespaces::All).await;
    for (number, namespace) in ["images", "settings", "builds", "apps"].into_iter().enumerate() {
        let (id, attempt) =
            (format!("b-{number}"), buildgrid::timeline::protocol::AttemptId::generate().to_string());
        let body = claim(&event(&id, namespace, "buildgrid"), &attempt);
        let claimed = service.worker(Method::PUT, &format!("/builds/{id}")).json(&body).send().await.unwrap();
        assert_eq!(claimed.status(), StatusCode::OK);
    }
    let get = async |path: &str| {
        let page = service.nobody(Method::GET, path).header(header::COOKIE, &session).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        page.text().await.unwrap()
    };
    let all = get("/").await;
    for namespace in ["images", "settings", "builds", "apps"] {
        let path = format!("/apps/{namespace}/buildgrid");
        assert!(all.contains(&format!("href=\"{path}\"")), "{path}: {all}");
        let page = get(&path).await;
        assert!(page.contains(&format!("href=\"{path}/web\"")) && page.contains("9fceb02"), "{page}");
        assert!(get(&format!("{path}/web")).await.contains("a service of"));
    }
    assert!(get("/settings/buildgrid").await.contains("BuildGrid Settings"));
    service.timeline.finish().await;
}
