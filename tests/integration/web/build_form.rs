//! The form that builds a commit: who may, what comes of it, and that nothing typed is lost.

use buildgrid::queue::Queue;
use buildgrid::web::access::{Namespaces, Role};
use reqwest::{Method, Response, StatusCode, header};

use super::Service;
use crate::support::broker::TestBroker;
use crate::support::patience::in_time;

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

impl Service {
    async fn form(&self, session: &str, query: &str) -> Response {
        let get = self.nobody(Method::GET, &format!("/build{query}")).header(header::COOKIE, session);
        get.send().await.unwrap()
    }

    async fn order(&self, session: &str, fields: &[(&str, &str)]) -> Response {
        let request = self.nobody(Method::POST, "/build").header(header::COOKIE, session);
        request.body(encoded(fields)).send().await.unwrap()
    }
}

fn encoded(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn location(answer: &Response) -> String {
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_becomes_one_build_of_whoever_sent_it() {
    let rabbit = TestBroker::start().await;
    let queue = Queue::amqp(&rabbit.config(), "test");
    queue.ready().await.unwrap();
    queue.declare().await.unwrap();
    let service = Service::enqueueing(rabbit.config()).await;
    service.claimed().await;
    let member = service.signed_in("mara", Role::Member, Namespaces::All).await;
    let page = service.form(&member, "?namespace=acme&app=shop&commit=abc").await.text().await.unwrap();
    for value in ["acme", "shop", "web worker", "main", "abc"] {
        assert!(page.contains(&format!("value=\"{value}\"")), "{value}: {page}");
    }
    assert!(page.contains("log_lines") || page.contains("{}"), "it is a fake: {page}");

    let url = "https://git.example.com/acme/storefront.git";
    let fields = |commit| {
        [
            ("id", "b-7"),
            ("namespace", "acme"),
            ("app", "shop"),
            ("repository", url),
            ("commit", commit),
            ("root", "sub"),
        ]
    };
    let first = service.order(&member, &fields(COMMIT)).await;
    assert_eq!(location(&first), "/builds/b-7");
    assert_eq!(location(&service.order(&member, &fields(COMMIT)).await), "/builds/b-7", "pressed twice");
    let other = location(&service.order(&member, &fields(&"1".repeat(40))).await);
    assert_ne!(other, "/builds/b-7", "gone back to, and changed");
    let build = service.get("/builds/b-7").await;
    assert_eq!(
        (&build["requested_by"], &build["state"], &build["services"][0]),
        (&"mara".into(), &"queued".into(), &"shop".into())
    );
    let again = service.form(&member, "?namespace=acme&app=shop").await.text().await.unwrap();
    assert!(again.contains(url) && again.contains("value=\"sub\""), "as it was ordered last: {again}");
    let mut subscription = queue.subscribe().await.unwrap();
    let mut commits = Vec::new();
    while commits.len() < 3 {
        let delivery = in_time("the event", subscription.next()).await.unwrap();
        let sent: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap();
        commits.push(sent["commit"].as_str().unwrap().to_owned());
        delivery.ack().await;
    }
    // One that is still queued may have been lost on its way: the second press has put it there once more.
    assert_eq!(commits, [COMMIT.to_owned(), COMMIT.to_owned(), "1".repeat(40)]);
    drop(subscription);
    queue.close().await;
    service.timeline.finish().await;
    rabbit.assert_drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_comes_back_as_it_was_typed() {
    let service = Service::start().await;
    service.claimed().await;
    let member = service.signed_in("mara", Role::Member, "acme".parse().unwrap()).await;
    let hostile = "\"><script>alert(1)</script>";
    let fields = [
        ("namespace", "globex"),
        ("app", "shop"),
        ("commit", "main"),
        ("repository", "https://h/x"),
        ("args", hostile),
    ];
    let refused = service.order(&member, &fields).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = refused.text().await.unwrap();
    for words in [
        "it may in: acme",
        "40 hex digits",
        "has no",
        "value=\"globex\"",
        "value=\"https://h/x\"",
        "3 fields need",
        "<title>Not built: Namespace, Commit, Build arguments",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(page.contains("&#60;script&#62;alert(1)") && !page.contains("<script>alert"), "{page}");
    // A queue that does not take it is nobody's fault, and no field's.
    let fields = [("namespace", "acme"), ("app", "shop"), ("commit", COMMIT), ("repository", "https://h/x")];
    let refused = service.order(&member, &fields).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let page = refused.text().await.unwrap();
    assert!(page.contains("The queue does not take the event") && page.contains(COMMIT), "{page}");
    let unknown = service.order(&member, &[("no-such-field", "x")]).await.text().await.unwrap();
    assert!(unknown.contains("There is no field") && unknown.contains("no-such-field"), "{unknown}");
    assert_eq!(service.order(&member, &[("args", &"x".repeat(1 << 20))]).await.status(), 413);
    let many = service.order(&member, &vec![("a", ""); 300_000]).await.text().await.unwrap();
    assert!(many.contains("and others") && many.len() < 40_000, "{}", many.len());
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_may_build_are_shown_how() {
    let service = Service::start().await;
    service.claimed().await;
    let viewer = service.signed_in("vera", Role::Viewer, Namespaces::All).await;
    let member = service.signed_in("mara", Role::Member, Namespaces::All).await;
    let of_smoke = service.signed_in("sam", Role::Member, "smoke".parse().unwrap()).await;
    let page = async |session: &str, path: &str| {
        let get = service.nobody(Method::GET, path).header(header::COOKIE, session).send().await.unwrap();
        get.text().await.unwrap()
    };
    // One that is not built yet can be; and what an address says leads to no other place.
    let new = page(&member, "/build?namespace=smoke&app=newone").await;
    assert!(new.contains("value=\"smoke\"") && new.contains("value=\"newone\""), "{new}");
    assert!(!new.contains("href=\"/smoke/newone\""), "{new}");
    for query in
        ["namespace=acme&app=shop&namespace=/evil.example", "namespace=&namespace=/evil.example&app=x"]
    {
        let page = page(&member, &format!("/build?{query}&repository=https://evil.example/x")).await;
        assert!(!page.contains("href=\"//") && !page.contains("https://evil.example"), "{query}: {page}");
    }
    for path in ["/", "/acme/shop", "/acme/shop/web"] {
        assert!(page(&member, path).await.contains("Build a commit"), "{path}");
        assert!(!page(&viewer, path).await.contains("Build a commit"), "{path}");
    }
    for (path, what) in [("/builds/b-1", "/builds/b-1/cancel"), ("/", "/build\""), ("/acme/shop", "/build?")]
    {
        assert!(page(&member, path).await.contains(&format!("\"{what}")), "{what}");
        assert!(!page(&viewer, path).await.contains(&format!("\"{what}")), "{what}");
    }
    assert_eq!(service.form(&viewer, "").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(service.order(&viewer, &[("app", "shop")]).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(service.form(&of_smoke, "?namespace=acme&app=shop").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(service.form("", "").await.status(), StatusCode::UNAUTHORIZED);
    let ended = service.order("", &[("app", "shop")]).await;
    assert_eq!(ended.status(), StatusCode::UNAUTHORIZED);
    let ended = ended.text().await.unwrap();
    assert!(
        ended.contains("nothing was sent") && ended.contains("name=\"next\" value=\"/build\""),
        "{ended}"
    );
    let elsewhere = service.nobody(Method::POST, "/build").header(header::COOKIE, &member);
    let elsewhere = elsewhere.header("sec-fetch-site", "cross-site").body(encoded(&[("app", "shop")]));
    assert_eq!(elsewhere.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    service.timeline.finish().await;
}
