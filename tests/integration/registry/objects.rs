//! Images in an object store, to the clients that people use: through the registry, and from the object store itself.

use std::path::Path;
use std::process::Command;

use buildgrid::event::result::State;
use buildgrid::registry::RegistryConfig;
use buildgrid::store::digest::Digest;
use buildgrid::store::{Part, Store};
use http::{StatusCode, header};
use reqwest::Method;
use tokio_util::sync::CancellationToken;

use super::clients::{Docker, extract};
use super::observed::Log;
use crate::support::docker::unique;
use crate::support::grid::{TestGrid, fake_event};
use crate::support::image::{TestImage, image_name, put_streamed};
use crate::support::moto::Moto;
use crate::support::patience::{in_time, until};
use crate::support::process::run;
use crate::support::proxy::{Mode, Proxy};
use crate::support::registry::TestRegistry;
use crate::support::s3::S3;

/// More than the kernel's socket buffers hold, from the object store to the client.
const BIG: usize = 64 << 20;

fn redirecting() -> RegistryConfig {
    RegistryConfig { redirect: true, ..RegistryConfig::default() }
}

async fn skopeo_copies(registry: &TestRegistry, login: &str, name: &str, image: &TestImage) {
    let target = tempfile::tempdir().unwrap();
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--src-tls-verify=false", "--src-creds", login]);
    copy.arg(format!("docker://{}/{name}", registry.host)).arg(format!("dir:{}", target.path().display()));
    run(copy, "").await.succeeded();
    assert_eq!(std::fs::read(target.path().join("manifest.json")).unwrap(), image.manifest);
    for blob in [&image.layer, &image.config] {
        assert_eq!(std::fs::read(target.path().join(Digest::of(blob).hex())).unwrap(), *blob);
    }
}

async fn docker_pulls(registry: &TestRegistry, name: &str, greeting: &str) {
    for docker in Docker::all() {
        let url = format!("{}/{name}", registry.host);
        docker.login(registry, registry.password()).await.succeeded();
        docker.run(&["pull", &url], "").await.succeeded();
        let content = extract(&docker, &url, Path::new("/greeting")).await;
        docker.run(&["image", "rm", &url], "").await.succeeded();
        assert_eq!(content, greeting.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_serves_blobs_of_an_object_store() {
    let server = S3::start();
    let registry = TestRegistry::start_at(RegistryConfig::default(), &server.store()).await;
    let greeting = unique();
    let image = TestImage::saying(&greeting);
    image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
    let digest = Digest::of(&image.layer);
    let blob = format!("/v2/acme/shop.storefront/blobs/{digest}");

    let whole = registry.get(&blob).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(whole.headers()["docker-content-digest"], digest.to_string());
    assert_eq!(whole.bytes().await.unwrap(), image.layer);
    let head = registry.head(&blob).await;
    assert_eq!(head.headers()[header::CONTENT_LENGTH], image.layer.len().to_string());
    let length = image.layer.len();
    for (range, bytes) in [("bytes=2-5", &image.layer[2..6]), ("bytes=-3", &image.layer[length - 3..])] {
        let part = registry.send(registry.request(Method::GET, &blob).header(header::RANGE, range)).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.bytes().await.unwrap(), bytes);
    }
    let beyond = registry.request(Method::GET, &blob).header(header::RANGE, format!("bytes={length}-"));
    assert_eq!(registry.send(beyond).await.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let unlinked = registry.get(&blob.replace("shop.storefront", "another.one")).await;
    assert_eq!(unlinked.status(), StatusCode::NOT_FOUND);

    let login = format!("{}:{}", registry.user(), registry.password());
    skopeo_copies(&registry, &login, "acme/shop.storefront:v1", &image).await;
    docker_pulls(&registry, "acme/shop.storefront:v1", &greeting).await;
    registry.stop().await;
}

/// Subscriber and metrics are this thread's, on which the registry runs too.
#[tokio::test(flavor = "current_thread")]
async fn an_object_that_breaks_off_is_logged_and_the_client_cut_off() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (log, _subscriber) = Log::here();
    let server = S3::start();
    // On threads of its own: a store is opened on this one, which waits for it.
    let apart = tokio::runtime::Runtime::new().unwrap();
    let proxy = apart.spawn(Proxy::start(server.address.to_string())).await.unwrap();
    let registry = TestRegistry::start_at(RegistryConfig::default(), &server.store_at(proxy.address())).await;
    let repository = image_name("acme/shop.storefront", "v1").repository;
    let digest = put_streamed(&registry.store, vec![7; BIG]).await;
    registry.store.link_blobs(&repository, vec![digest]).await.unwrap();
    let blob = format!("/v2/{repository}/blobs/{digest}");
    let begin = async || {
        let mut answer = registry.get(&blob).await;
        assert_eq!((answer.status(), answer.content_length()), (StatusCode::OK, Some(BIG as u64)));
        (answer.chunk().await.unwrap().unwrap().len(), answer)
    };
    const SAID: &str = "cannot read an object that is being sent; the client is cut off";

    // A client that goes away is nobody's fault.
    drop(begin().await);
    let none = "buildgrid_connections{service=\"registry\"} 0\n";
    until("its connection has ended", || recorder.handle().render().contains(none)).await;
    assert!(!log.text().contains(SAID), "{}", log.text());

    let (mut received, mut answer) = begin().await;
    proxy.set(Mode::Cut);
    let cut = loop {
        match in_time("the body ends", answer.chunk()).await {
            Ok(Some(chunk)) => received += chunk.len(),
            ended => break ended,
        }
    };
    assert!(cut.is_err() && received < BIG, "{received} bytes, and then {cut:?}");
    let text = log.text();
    let line = text.lines().find(|line| line.contains(SAID)).unwrap_or_else(|| panic!("{text}"));
    let field = |name: &str| {
        let value = line.split_once(name).unwrap().1;
        value.split(' ').next().unwrap().to_owned()
    };
    assert!(field(" object=").ends_with(&format!("/{}/data", digest.hex())), "{line}");
    assert_eq!(field(" length="), BIG.to_string());
    let sent: usize = field(" sent=").parse().unwrap();
    assert!((received..BIG).contains(&sent), "{received} bytes have come: {line}");
    assert!(line.contains(" error=") && line.contains(" ERROR "), "{line}");
    registry.stop().await;
    apart.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_to_the_object_store_where_that_is_wanted() {
    let server = S3::start();
    let registry = TestRegistry::start_at(redirecting(), &server.store()).await;
    let greeting = unique();
    let image = TestImage::saying(&greeting);
    image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
    let blob = format!("/v2/acme/shop.storefront/blobs/{}", Digest::of(&image.layer));

    let client =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let url = format!("http://{}{blob}", registry.host);
    let ask = || client.get(&url).basic_auth(registry.user(), Some(registry.password()));
    let sent = ask().send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(sent.headers()[header::CACHE_CONTROL], "private, no-store");
    let address = sent.headers()[header::LOCATION].to_str().unwrap().to_owned();
    assert!(address.starts_with(&format!("http://{}/images/grid/docker/", server.address)), "{address}");
    assert!(address.contains("X-Amz-Expires=300"), "{address}");
    assert_eq!(client.get(&address).send().await.unwrap().bytes().await.unwrap(), image.layer);
    let part = client.get(&address).header(header::RANGE, "bytes=1-2").send().await.unwrap();
    assert_eq!((part.status(), part.bytes().await.unwrap().len()), (StatusCode::PARTIAL_CONTENT, 2));
    // It is for this blob alone.
    let other = address.replace(&Digest::of(&image.layer).hex(), &Digest::of(&image.config).hex());
    assert_eq!(client.get(other).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    // Who may not read it is sent nowhere, and what asks for no bytes is answered here.
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let head = client.head(&url).basic_auth(registry.user(), Some(registry.password())).send().await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], image.layer.len().to_string());

    server.take_lines();
    let login = format!("{}:{}", registry.user(), registry.password());
    skopeo_copies(&registry, &login, "acme/shop.storefront:v1", &image).await;
    docker_pulls(&registry, "acme/shop.storefront:v1", &greeting).await;
    let signed = server.take_lines().into_iter().filter(|line| line.contains("X-Amz-Signature"));
    // skopeo and each docker fetch the layer there, and all but the manifest.
    assert!(signed.count() >= 3);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_publish_into_an_object_store() {
    let server = Moto::start().await;
    let mut grid = TestGrid::with(|config| config.store = server.store()).await;
    grid.start_other_worker("worker-2").await;
    // Of two commits, each three times.
    for number in 0..6 {
        let fake = format!(r#"{{"layers":3,"layer_bytes":3000000,"seed":{}}}"#, number % 2);
        let event = fake_event(&format!("b-{number}"), &fake);
        grid.publish(if number % 2 == 0 { event } else { event.replace("9fceb02d", "8fceb02d") }).await;
    }
    let mut digests = Vec::new();
    for number in 0..6 {
        let published = grid.result(&format!("b-{number}"), State::Published).await;
        digests.push(published.digest.unwrap());
    }
    assert!((0..6).all(|number| digests[number] == digests[number % 2]));
    let registry = TestRegistry::start_at(redirecting(), &server.store()).await;
    let login = registry.store.add_credential(["smoke".parse().unwrap()].into()).await.unwrap();
    let login = {
        use secrecy::ExposeSecret as _;
        format!("{}:{}", login.credential.user, login.password.expose_secret())
    };
    let target = tempfile::tempdir().unwrap();
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--src-tls-verify=false", "--src-creds", &login]);
    copy.arg(format!("docker://{}/smoke/web.fake@{}", registry.host, digests[0]));
    copy.arg(format!("dir:{}", target.path().display()));
    run(copy, "").await.succeeded();
    let store = Store::open(&server.store()).unwrap();
    let scrubbed = store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
    assert!(scrubbed.images == 2 && !scrubbed.is_damaged(), "{scrubbed:?}");
    registry.stop().await;
    grid.finish().await;
}
