//! The service by TLS: sessions of browsers, tokens of programs, a log that is followed.

use buildgrid::timeline::client::CallError;
use buildgrid::timeline::protocol::BuildDetail;
use buildgrid::web::access::Role;
use reqwest::{Method, StatusCode, header};

use super::access::cookie;
use super::{Service, line, nowhere};
use crate::support::patience::in_time;
use crate::support::timeline::TestTimeline;
use crate::support::tls::Authority;

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_api_are_served_by_tls() {
    let authority = Authority::new();
    let timeline = TestTimeline::by_tls(&authority, &nowhere()).await;
    let pem = std::fs::read(authority.certificate()).unwrap();
    let service = Service::trusting(timeline, Some(reqwest::Certificate::from_pem(&pem).unwrap()));
    service.claimed().await;
    service.append(line(0, None, "hello")).await;

    // A session that a browser sends by TLS alone.
    let password = service.timeline.add_user("anna", Role::Viewer, "acme".parse().unwrap()).await;
    let answer = service.sign_in("anna", &password, "/").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let set = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(set.starts_with("__Host-buildgrid=") && set.contains("; Secure"), "{set}");
    let page =
        |cookie: String| service.nobody(Method::GET, "/builds/b-1").header(header::COOKIE, cookie).send();
    let session = cookie(&answer);
    let seen = page(session.clone()).await.unwrap();
    assert_eq!(seen.status(), StatusCode::OK);
    assert!(seen.text().await.unwrap().contains("hello"));
    let plain = session.replace("__Host-", "");
    assert_ne!(
        page(plain).await.unwrap().status(),
        StatusCode::OK,
        "a neighbour of the host may have set it"
    );

    // The client of workers and commands, by the file of authorities; and one that trusts no such.
    let build: BuildDetail = service.timeline.client("maestro").get_json("builds/b-1", &[]).await.unwrap();
    assert_eq!(build.attempts[0].entries, 1);
    let mut config = service.timeline.config_at(&service.timeline.address.to_string(), "maestro");
    config.network.ca_file = None;
    let stranger = buildgrid::timeline::client::TimelineClient::new(&config).unwrap().unwrap();
    let refused = stranger.get_json::<BuildDetail>("builds/b-1", &[]).await.unwrap_err();
    assert!(!matches!(refused, CallError::Refused(_)), "{refused}");

    // Live, over one connection.
    let follow = service.maestro(Method::GET, "/builds/b-1/log").header(header::ACCEPT, "text/event-stream");
    let mut live = follow.send().await.unwrap();
    let mut heard = String::new();
    for (seq, word) in [(1, "hello"), (2, "world")] {
        in_time(word, async {
            while !heard.contains(word) {
                heard += std::str::from_utf8(&live.chunk().await.unwrap().unwrap()).unwrap();
            }
        })
        .await;
        service.append(line(seq, None, "world")).await;
    }
    drop(live);

    // Without TLS, it says by what it is to be reached.
    let url = service.timeline.url().replace("https://", "http://");
    let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("https://"));
    service.timeline.finish().await;
}
