//! Who may what: every route, walked by nobody, by the wrong role, and by logins of another namespace.

use buildgrid::web::access::{Namespaces, PasswordHash, Principal, Role, Secret};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{ATTEMPT, Service, claim, event, refused};

/// Every route of the service that concerns something of acme, with a body that would be good.
fn routes() -> Vec<(Method, String, Option<Value>)> {
    let api = |path: &str| format!("/api/v1{path}");
    let report = json!({"state": "building", "at": "2026-11-23T10:15:41.907Z"});
    let deploy = json!({"namespace": "acme", "app": "shop", "state": "done"});
    vec![
        (Method::GET, api("/builds/b-1"), None),
        (Method::PUT, api("/builds/b-1"), Some(claim(&event("b-1", "acme", "shop"), ATTEMPT))),
        (Method::GET, api("/builds/b-1/log"), None),
        (Method::GET, api("/builds/b-1/log/outline"), None),
        (Method::GET, api("/builds/b-1/log/hits?q=x"), None),
        (Method::POST, api("/builds/b-1/cancel"), None),
        (Method::POST, api("/builds/b-1/rebuild"), None),
        (Method::POST, api(&format!("/builds/b-1/attempts/{ATTEMPT}/state")), Some(report)),
        (Method::POST, api(&format!("/builds/b-1/attempts/{ATTEMPT}/log")), None),
        (Method::POST, api("/builds"), Some(serde_json::from_str(&event("b-7", "acme", "shop")).unwrap())),
        (Method::GET, api("/apps/acme/shop"), None),
        (Method::GET, api("/services/acme/shop/web"), None),
        (Method::GET, api("/deploys/shop-418"), None),
        (Method::GET, api("/deploys/shop-418?namespace=acme"), None),
        (Method::PUT, api("/deploys/shop-419"), Some(deploy)),
        (Method::GET, api("/deploys/shop-418/log"), None),
        (Method::GET, api("/deploys/shop-418/log/outline"), None),
        (Method::GET, api("/deploys/shop-418/log/hits?q=x"), None),
        (Method::POST, api("/deploys/shop-418/log"), None),
        (Method::GET, "/acme/shop".to_owned(), None),
        (Method::GET, "/acme/shop/web".to_owned(), None),
        (Method::GET, "/images/acme/shop.fake:9fceb02d0ae598e95dc970b74767f19372d61af8".to_owned(), None),
        (Method::GET, "/builds/b-1".to_owned(), None),
        (Method::GET, "/deploys/shop-418".to_owned(), None),
        (Method::POST, "/builds/b-1/cancel".to_owned(), None),
        (Method::POST, "/builds/b-1/rebuild".to_owned(), None),
    ]
}

/// The routes that list: they answer everybody, with what is theirs.
const LISTS: [&str; 4] = ["/api/v1/builds", "/api/v1/apps", "/api/v1/images/in-use", "/"];

impl Service {
    pub(super) async fn token(&self, role: Role, namespaces: &str) -> String {
        let secret = Secret::token();
        let name = secret.digest();
        let principal = Principal { name, role, namespaces: namespaces.parse().unwrap() };
        let added = self.timeline.database().add_token(principal, &secret, OffsetDateTime::now_utc()).await;
        assert!(added.unwrap());
        secret.expose().to_owned()
    }

    /// Adds a user and signs in; answers the cookie.
    pub(super) async fn signed_in(&self, name: &str, role: Role, namespaces: Namespaces) -> String {
        let password = self.timeline.add_user(name, role, namespaces).await;
        let answer = self.sign_in(name, &password, "/").await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        cookie(&answer)
    }

    pub(super) async fn sign_in(&self, user: &str, password: &str, next: &str) -> Response {
        let form = [("user", user), ("password", password), ("next", next)];
        let body = form
            .map(|(name, value)| format!("{name}={}", value.replace(' ', "+").replace('/', "%2F")))
            .join("&");
        let request = self.nobody(Method::POST, "/sign-in").body(body);
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").send().await.unwrap()
    }
}

/// The cookie that an answer sets, as a browser sends it.
pub(super) fn cookie(answer: &Response) -> String {
    let set = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(set.contains(attribute), "{set}");
    }
    set.split(';').next().unwrap().to_owned()
}

/// A service with a build, its log, and a deploy, all of acme.
async fn furnished() -> Service {
    let service = Service::start().await;
    service.claimed().await;
    service.append(super::line(0, None, "the secret of acme")).await;
    let deploy = json!({"namespace": "acme", "app": "shop", "state": "running"});
    let put = service.maestro(Method::PUT, "/deploys/shop-418").json(&deploy).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_anything() {
    let service = furnished().await;
    for (method, path, body) in routes() {
        for bearer in [None, Some("bgt_wrong"), Some("")] {
            let mut request = service.nobody(method.clone(), &path);
            if let Some(body) = &body {
                request = request.json(body);
            }
            if let Some(token) = bearer {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            assert!(!answer.text().await.unwrap().contains("secret of acme"), "{method} {path}");
        }
    }
    for path in LISTS {
        let answer = service.nobody(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_is_as_good_as_nothing() {
    let service = furnished().await;
    let before = service.get("/builds/b-1").await;
    let mut logins = Vec::new();
    for role in [Role::Viewer, Role::Worker, Role::Maestro] {
        for namespaces in ["globex smoke", ""] {
            let token = service.token(role, namespaces).await;
            logins.push((
                format!("{role} of {namespaces:?}"),
                header::AUTHORIZATION,
                format!("Bearer {token}"),
            ));
        }
    }
    let globex = Namespaces::Some(["globex".parse().unwrap()].into());
    let session = service.signed_in("mara", Role::Member, globex).await;
    logins.push(("a user of globex".to_owned(), header::COOKIE, session));
    for (who, name, value) in &logins {
        for (method, path, body) in routes() {
            let mut request = service.nobody(method.clone(), &path).header(name, value);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let answer = request.send().await.unwrap();
            let status = answer.status();
            let words = answer.text().await.unwrap();
            // What the role may not do anywhere is forbidden; all else is not there.
            let hidden = matches!(status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN);
            assert!(hidden, "{who}: {method} {path} is answered with {status}: {words}");
            assert!(!words.contains("secret of acme"), "{who}: {method} {path}");
            // No word tells whether it exists.
            let mut absent =
                service.nobody(method.clone(), &path.replace("b-1", "b-0").replace("shop", "shap"));
            if let Some(body) = &body {
                let other = body.to_string().replace("b-1", "b-0").replace("shop", "shap");
                absent = absent.header(header::CONTENT_TYPE, "application/json").body(other);
            }
            let absent = absent.header(name, value).send().await.unwrap();
            assert_eq!(absent.status(), status, "{who}: {method} {path}");
            let told = absent.text().await.unwrap().replace("b-0", "b-1").replace("shap", "shop");
            assert_eq!(told, words, "{who}: {method} {path}");
        }
        for path in LISTS {
            let answer = service.nobody(Method::GET, path).header(name, value).send().await.unwrap();
            let words = answer.text().await.unwrap();
            assert!(!words.contains("shop") && !words.contains("b-1"), "{who}: {path}: {words}");
        }
    }
    let after = service.get("/builds/b-1").await;
    assert_eq!(before, after, "nothing was changed");
    assert!(service.get("/builds").await["items"].as_array().unwrap().len() == 1);
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_may_what_it_is_for() {
    let service = furnished().await;
    let worker = service.token(Role::Worker, "*").await;
    let viewer = service.token(Role::Viewer, "*").await;
    let member = service.token(Role::Member, "*").await;
    for (token, path, method, status) in [
        (&worker, "/builds/b-1", Method::GET, 403),
        (&worker, "/images/in-use", Method::GET, 200),
        (&member, "/images/in-use", Method::GET, 403),
        (&worker, "/builds/b-1/cancel", Method::POST, 403),
        (&worker, "/deploys/shop-418", Method::PUT, 403),
        (&viewer, "/builds/b-1", Method::GET, 200),
        (&viewer, "/builds/b-1/cancel", Method::POST, 403),
        (&viewer, "/builds/b-1", Method::PUT, 403),
        (&member, "/deploys/shop-418", Method::PUT, 403),
        (&member, "/builds/b-1/cancel", Method::POST, 202),
    ] {
        let body = match (&method, path) {
            (&Method::PUT, "/builds/b-1") => claim(&event("b-1", "acme", "shop"), ATTEMPT),
            _ => json!({"namespace": "acme", "app": "shop", "state": "done"}),
        };
        let request = service.nobody(method.clone(), &format!("/api/v1{path}")).bearer_auth(token);
        let answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sites_page_can_do_nothing() {
    let service = furnished().await;
    let session = service.signed_in("mara", Role::Member, Namespaces::All).await;
    let cancel = |name: &'static str, value: &'static str| {
        let request = service.nobody(Method::POST, "/builds/b-1/cancel").header(header::COOKIE, &session);
        request.header(name, value).send()
    };
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example.com"),
        ("origin", "null"),
    ] {
        refused(cancel(name, value).await.unwrap(), StatusCode::FORBIDDEN).await;
    }
    assert_eq!(service.get("/builds/b-1").await["cancel_requested_at"], Value::Null);
    assert_eq!(cancel("sec-fetch-site", "same-origin").await.unwrap().status(), StatusCode::SEE_OTHER);
    assert_ne!(service.get("/builds/b-1").await["cancel_requested_at"], Value::Null);
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_the_password_and_ends_with_the_sign_out() {
    let service = furnished().await;
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    let page = |cookie: String| service.nobody(Method::GET, "/").header(header::COOKIE, cookie).send();
    assert_eq!(page(session.clone()).await.unwrap().status(), StatusCode::OK);
    for (user, password) in [
        ("mara", "wrong password"),
        ("mara", ""),
        ("nobody", "correct horse battery"),
        ("mara", &"x".repeat(2000)),
    ] {
        let answer = service.sign_in(user, password, "/").await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{user}");
        assert!(!answer.headers().contains_key(header::SET_COOKIE));
    }
    let long = service.sign_in(&"x".repeat(20_000), "correct horse battery", "/").await;
    assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(long.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    // Nobody is sent elsewhere from here, and a sign-in leaves no session of before.
    let answer = service.sign_in("mara", "correct horse battery", "//evil.example.com").await;
    assert_eq!(answer.headers()[header::LOCATION], "/");
    let fresh = cookie(&answer);
    assert_ne!(fresh, session);
    let out = service.nobody(Method::POST, "/sign-out").header(header::COOKIE, &fresh).send().await.unwrap();
    assert_eq!(out.status(), StatusCode::SEE_OTHER);
    assert_eq!(page(fresh).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    // A changed password ends what was begun with the old one.
    let hash = PasswordHash::make(&"another password".to_owned().into()).unwrap();
    assert!(service.timeline.database().change_password("mara".to_owned(), hash).await.unwrap());
    assert_eq!(page(session).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_passwords_waits_longer_each_time_and_who_has_one_elsewhere_does_not() {
    let service = furnished().await;
    service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    let tries = (0..20).map(|_| service.sign_in("mara", "wrong password", "/"));
    let statuses: Vec<_> =
        futures::future::join_all(tries).await.into_iter().map(|answer| answer.status()).collect();
    let looked_at = statuses.iter().filter(|status| **status == StatusCode::UNAUTHORIZED).count();
    // More than five, where the machine takes longer than a second for them.
    assert!((5..=8).contains(&looked_at), "{statuses:?}");
    let answer = service.sign_in("mara", "correct horse battery", "/builds/b-1").await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "also the right one");
    let wait: u64 = answer.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    let page = answer.text().await.unwrap();
    assert!(page.contains("Try again in") && page.contains("value=\"/builds/b-1\""), "{page}");
    // Nobody's word counts for where a request comes from, unless a proxy is configured.
    let elsewhere = service.nobody(Method::POST, "/sign-in").header("x-forwarded-for", "192.0.2.7");
    let form = "user=mara&password=correct+horse+battery";
    let elsewhere = elsewhere.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
    assert_eq!(elsewhere.send().await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    let answer = service.sign_in("mara", "correct horse battery", "/").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    service.timeline.finish().await;
}
