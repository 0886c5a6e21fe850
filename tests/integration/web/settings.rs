//! BuildGrid Settings: who manages which credentials, and that what the page says is what docker obeys.

use std::process::Command;

use buildgrid::store::{Store, StoreConfig};
use buildgrid::web::access::{Namespaces, Role};
use reqwest::{Method, Response, StatusCode, header};
use secrecy::ExposeSecret as _;

use super::Service;
use crate::support::disk::SmallDisk;
use crate::support::process::{Ran, run};
use crate::support::registry::{TestRegistry, logins_are_read_again};

const PAGE: &str = "/settings/buildgrid";

impl Service {
    async fn settings(&self, session: &str) -> String {
        let page = self.nobody(Method::GET, PAGE).header(header::COOKIE, session).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        page.text().await.unwrap()
    }

    async fn change(&self, session: &str, form: &str) -> Response {
        let request = self.nobody(Method::POST, PAGE).header(header::COOKIE, session).body(form.to_owned());
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.send().await.unwrap()
    }
}

/// The password that a page shows: the only text of its length that is copied.
fn shown_password(page: &str) -> &str {
    let copied = page.split("data-copy=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let is_password = |text: &&str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    copied.into_iter().find(is_password).unwrap_or_else(|| panic!("no password: {page}"))
}

async fn docker_login(registry: &TestRegistry, user: &str, password: &str) -> Ran {
    let config = tempfile::tempdir().unwrap();
    let mut docker = Command::new("docker");
    docker.args(["login", "-u", user, "--password-stdin", &registry.host]);
    docker.env("DOCKER_CONFIG", config.path());
    run(docker, password).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_rotated_on_the_page_is_the_one_that_docker_logs_in_with() {
    let registry = TestRegistry::start().await;
    let service = Service::beside(&registry).await;
    let admin = service.signed_in("ada", Role::Admin, Namespaces::All).await;
    let (user, old) = (registry.user().to_owned(), registry.password().to_owned());
    docker_login(&registry, &user, &old).await.succeeded();
    let page = service.settings(&admin).await;
    assert!(page.contains(&user) && !page.contains(&old), "{page}");
    assert!(page.contains(&format!("docker login {} --username {user}", registry.host)), "{page}");

    let rotated = service.change(&admin, &format!("do=rotate&user={user}")).await;
    assert_eq!(
        (rotated.status(), &rotated.headers()[header::CACHE_CONTROL]),
        (StatusCode::OK, &"no-store".parse().unwrap())
    );
    let rotated = rotated.text().await.unwrap();
    let new = shown_password(&rotated);
    logins_are_read_again().await;
    docker_login(&registry, &user, &old).await.failed();
    docker_login(&registry, &user, new).await.succeeded();
    assert!(!service.settings(&admin).await.contains(new), "it is shown once");

    let added = service.change(&admin, "do=add&namespace=acme+smoke").await.text().await.unwrap();
    let all = registry.store.credentials().await.unwrap().usable;
    let made = all.iter().find(|credential| credential.user.as_str() != user).unwrap();
    assert_eq!(made.namespaces.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["acme", "smoke"]);
    docker_login(&registry, made.user.as_str(), shown_password(&added)).await.succeeded();
    let removed = service.change(&admin, &format!("do=remove&user={}", made.user)).await;
    assert_eq!(
        (removed.status(), &removed.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &PAGE.parse().unwrap())
    );
    logins_are_read_again().await;
    docker_login(&registry, made.user.as_str(), shown_password(&added)).await.failed();
    service.timeline.finish().await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_credential_hides_no_other_and_is_shown_with_what_helps() {
    let registry = TestRegistry::start().await;
    let service = Service::beside(&registry).await;
    let all = service.signed_in("ada", Role::Admin, Namespaces::All).await;
    let acme = service.signed_in("mia", Role::Admin, "acme".parse().unwrap()).await;
    let own = registry.user();
    let damaged = registry.store.add_credential(["globex".parse().unwrap()].into()).await.unwrap();
    let damaged = damaged.credential.user;
    let remedy = format!("buildgrid credential remove {damaged}");
    let page = service.settings(&all).await;
    assert!(page.contains(own) && !page.contains(&remedy), "{page}");
    let file = format!("buildgrid/credentials/{damaged}.json");
    std::fs::write(registry.root().join(file), "{").unwrap();
    let page = service.settings(&all).await;
    assert!(page.contains(own) && page.contains(&remedy), "{page}");
    let page = service.settings(&acme).await;
    assert!(page.contains(own) && !page.contains(damaged.as_str()), "whose it is nobody knows: {page}");
    // One that cannot be read now may be good, and nobody is told to remove it.
    let file = registry.root().join(format!("buildgrid/credentials/{damaged}.json"));
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let page = service.settings(&all).await;
    assert!(page.contains(own) && !page.contains(&remedy), "{page}");
    assert!(page.contains(&format!("<code>{damaged}</code> is left out now")), "{page}");
    assert!(!service.settings(&acme).await.contains(damaged.as_str()), "whose it is nobody knows");
    assert!(registry.store.remove_credential(&damaged).await.unwrap());
    assert!(!service.settings(&all).await.contains(damaged.as_str()));
    service.timeline.finish().await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_those_of_admins_and_of_their_namespaces() {
    let registry = TestRegistry::start().await;
    let service = Service::beside(&registry).await;
    let both = registry.store.add_credential(["acme", "globex"].map(|name| name.parse().unwrap()).into());
    let both = both.await.unwrap().credential.user;
    let lent = registry.store.lend_credential("acme".parse().unwrap(), std::time::Duration::from_secs(600));
    let lent = lent.await.unwrap().credential.user;
    let own = registry.user();
    let of_acme = || "acme".parse::<Namespaces>().unwrap();
    let admin = service.signed_in("ada", Role::Admin, of_acme()).await;
    let member = service.signed_in("mara", Role::Member, Namespaces::All).await;
    let viewer = service.signed_in("vera", Role::Viewer, Namespaces::All).await;

    let page = service.settings(&admin).await;
    assert!(page.contains(own) && !page.contains(both.as_str()) && !page.contains(lent.as_str()), "{page}");
    for (form, status) in [
        (format!("do=rotate&user={both}"), 404),
        (format!("do=remove&user={both}"), 404),
        (format!("do=rotate&user={lent}"), 404),
        ("do=rotate&user=acme-none".to_owned(), 404),
        ("do=add&namespace=acme&namespace=globex".to_owned(), 404),
        ("do=add".to_owned(), 400),
        ("do=rotate&user=..%2Fversion".to_owned(), 400),
        (String::new(), 400),
        ("x".repeat(20_000), 413),
    ] {
        let refused = service.change(&admin, &form).await;
        assert_eq!(refused.status().as_u16(), status, "{form:.80}");
        assert_eq!(refused.headers()["content-type"], "text/html; charset=utf-8", "{form:.80}");
    }
    // What is another's and what is not there are answered alike, but for the name.
    let absent = service.change(&admin, "do=rotate&user=acme-none").await.text().await.unwrap();
    let others = service.change(&admin, &format!("do=rotate&user={both}")).await.text().await.unwrap();
    assert_eq!(absent.replace("acme-none", "X"), others.replace(both.as_str(), "X"));

    for session in [&member, &viewer] {
        let page = service.settings(session).await;
        assert!(page.contains(&registry.host) && !page.contains(own), "{page}");
        for form in [format!("do=rotate&user={own}"), "do=add&namespace=acme".to_owned()] {
            assert_eq!(service.change(session, &form).await.status(), StatusCode::FORBIDDEN);
        }
    }
    let nobody =
        service.nobody(Method::POST, PAGE).body(format!("do=rotate&user={own}")).send().await.unwrap();
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    let elsewhere = service.nobody(Method::POST, PAGE).header(header::COOKIE, &admin);
    let elsewhere = elsewhere.header("sec-fetch-site", "cross-site").body(format!("do=rotate&user={own}"));
    assert_eq!(elsewhere.send().await.unwrap().status(), StatusCode::FORBIDDEN);

    let verified = registry.store.verify_credential(own, registry.acme.password.expose_secret()).await;
    assert!(verified.unwrap().is_some(), "nothing of it has changed anything");
    assert_eq!(registry.store.credentials().await.unwrap().usable.len(), 3);
    service.timeline.finish().await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_the_store_says_what_to_do() {
    let service = Service::start().await;
    let admin = service.signed_in("ada", Role::Admin, Namespaces::All).await;
    let page = service.settings(&admin).await;
    assert!(page.contains("buildgrid credential rotate") && !page.contains("value=\"rotate\""), "{page}");
    for form in ["do=add&namespace=acme", "do=rotate&user=acme-k3v9"] {
        assert_eq!(service.change(&admin, form).await.status(), StatusCode::SERVICE_UNAVAILABLE, "{form}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_a_store_that_is_read_only_are_shown_without_buttons() {
    let disk = SmallDisk::mount("1m");
    let path = disk.path().join("store");
    let store = Store::open(&StoreConfig::at(path.clone())).unwrap();
    let user = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap().credential.user;
    disk.remount("ro");
    let mut service = Service::start().await;
    service.timeline.stop().await;
    service.timeline.start_seeing(&path).await;
    let admin = service.signed_in("ada", Role::Admin, Namespaces::All).await;
    let page = service.settings(&admin).await;
    assert!(page.contains(user.as_str()) && !page.contains("value=\"rotate\""), "{page}");
    assert!(page.contains("may not write to the store"), "{page}");
    let refused = service.change(&admin, &format!("do=rotate&user={user}")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    service.timeline.finish().await;
}
