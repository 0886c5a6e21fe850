//! The clients that people use: skopeo, and docker in each version that is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use buildgrid::event::result::State;
use buildgrid::publish::config::Compression;
use buildgrid::store::digest::Digest;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::docker::unique;
use crate::support::grid::{TestGrid, fake_event, files};
use crate::support::image::{TestImage, image_name};
use crate::support::process::{Ran, run};
use crate::support::registry::{TestRegistry, logins_are_read_again};

#[tokio::test]
async fn skopeo_inspects_lists_and_copies() {
    let registry = TestRegistry::start().await;
    let image = TestImage::saying("hello");
    image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
    let login = format!("{}:{}", registry.user(), registry.password());
    let url = format!("docker://{}/acme/shop.storefront", registry.host);
    let skopeo = |arguments: &[&str]| {
        let mut command = Command::new("skopeo");
        command.args(arguments);
        run(command, "")
    };
    let inspect = ["inspect", "--tls-verify=false", "--creds", &login];
    let inspected = skopeo(&[&inspect[..], &[&format!("{url}:v1")]].concat()).await.succeeded();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Digest"], image.digest().to_string());
    assert_eq!(inspected["RepoTags"], serde_json::json!(["v1"]));

    let raw = skopeo(&[&inspect[..], &["--raw", &format!("{url}@{}", image.digest())]].concat()).await;
    assert_eq!(raw.succeeded().as_bytes(), image.manifest);

    let copied = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", copied.path().display());
    let copy = ["copy", "--src-tls-verify=false", "--src-creds", &login, &format!("{url}:v1"), &target];
    skopeo(&copy).await.succeeded();
    assert_eq!(std::fs::read(copied.path().join("manifest.json")).unwrap(), image.manifest);
    let layer = Digest::of(&image.layer).hex();
    assert_eq!(std::fs::read(copied.path().join(layer)).unwrap(), image.layer);

    let anonymous = ["inspect", "--tls-verify=false", "--no-creds", &format!("{url}:v1")];
    let refused = skopeo(&anonymous).await.failed();
    assert!(refused.contains("unauthorized") || refused.contains("authentication required"), "{refused}");
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_were_compressed_piece_by_piece_are_one_to_clients() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let grid = TestGrid::with(|config| config.publish.compression = compression).await;
        grid.publish(fake_event("pieces", r#"{"layers": 4, "layer_bytes": 3000000}"#)).await;
        let image = grid.result("pieces", State::Published).await.image.unwrap();
        let name = image.split_once('/').unwrap().1;
        let (user, password) = grid.credential("smoke").await;
        let folder = tempfile::tempdir().unwrap();
        let login = format!("{user}:{password}");
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--src-tls-verify=false", "--src-creds", &login, "--dest-decompress"]);
        copy.arg(format!("docker://{}/{name}", grid.registry.host));
        copy.arg(format!("dir:{}", folder.path().display()));
        run(copy, "").await.succeeded();
        let mut layers = 0;
        for path in files(folder.path()) {
            let content = std::fs::read(&path).unwrap();
            if content.len() > 3_000_000 {
                // Unpacked, it is called by its diff id.
                assert_eq!(path.file_name().unwrap().to_str().unwrap(), Digest::of(&content).hex());
                layers += 1;
            }
        }
        assert_eq!(layers, 4, "{compression:?}");
        grid.finish().await;
    }
}

// The engine keeps one image of one content, whatever its names: each test has content of its own.

/// A docker client with a configuration of its own.
pub(super) struct Docker {
    program: PathBuf,
    config: TempDir,
}

impl Docker {
    /// The one that PATH finds first, and Debian's where that is another.
    pub(super) fn all() -> Vec<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|directory| directory.join("docker"));
        let debian = PathBuf::from("/usr/bin/docker");
        let mut programs: Vec<_> = found.filter(|program| program.is_file()).take(1).collect();
        assert!(!programs.is_empty(), "this test needs docker");
        if programs[0] != debian && debian.is_file() {
            programs.push(debian);
        }
        let docker = |program| Self { program, config: tempfile::tempdir().unwrap() };
        programs.into_iter().map(docker).collect()
    }

    pub(super) async fn run(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("DOCKER_CONFIG", self.config.path());
        run(command, input).await
    }

    pub(super) async fn login(&self, registry: &TestRegistry, password: &str) -> Ran {
        self.run(&["login", "-u", registry.user(), "--password-stdin", &registry.host], password).await
    }
}

#[tokio::test]
async fn docker_logs_in_and_pulls() {
    for docker in Docker::all() {
        let registry = TestRegistry::start().await;
        let greeting = unique();
        let image = TestImage::saying(&greeting);
        image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
        TestImage::saying("secret").publish(&registry.store, &image_name("other/a.b", "v1")).await;
        let url = format!("{}/acme/shop.storefront:v1", registry.host);

        let refused = docker.run(&["pull", &url], "").await.failed();
        assert!(refused.contains("no basic auth credentials"), "{refused}");
        let refused = docker.login(&registry, "wrong").await.failed();
        assert!(refused.to_lowercase().contains("unauthorized"), "{refused}");
        let welcome = docker.login(&registry, registry.password()).await.succeeded();
        assert!(welcome.contains("Login Succeeded"), "{welcome}");

        let pulled = docker.run(&["pull", &url], "").await.succeeded();
        assert!(pulled.contains(&image.digest().to_string()), "{pulled}");
        let content = extract(&docker, &url, Path::new("/greeting")).await;
        docker.run(&["image", "rm", &url], "").await.succeeded();
        assert_eq!(content, greeting.as_bytes());

        // A digest is pulled as a tag is; a foreign namespace is as absent as nothing at all.
        let digest = format!("{}/acme/shop.storefront@{}", registry.host, image.digest());
        docker.run(&["pull", &digest], "").await.succeeded();
        docker.run(&["image", "rm", &digest], "").await.succeeded();
        for absent in ["other/a.b:v1", "other/absent.b:v1", "acme/shop.storefront:v2"] {
            let url = format!("{}/{absent}", registry.host);
            let refused = docker.run(&["pull", &url], "").await.failed();
            assert!(refused.contains("there is no such image"), "{refused}");
        }
        registry.stop().await;
    }
}

/// Docker asks `/v2/` first, whatever it is to pull: how it is told to log in there decides whether it goes on without
/// a login, and whether a wrong password is noticed.
#[tokio::test]
async fn docker_and_skopeo_pull_what_is_public_without_a_login() {
    for docker in Docker::all() {
        let registry = TestRegistry::public().await;
        let (greeting, secret) = (unique(), unique());
        let image = TestImage::saying(&greeting);
        image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
        TestImage::saying(&secret).publish(&registry.store, &image_name("other/a.b", "v1")).await;
        let other = registry.store.add_credential(["other".parse().unwrap()].into()).await.unwrap();
        let url = format!("{}/acme/shop.storefront:v1", registry.host);
        let private = format!("{}/other/a.b:v1", registry.host);

        let pulled = docker.run(&["pull", &url], "").await.succeeded();
        assert!(pulled.contains(&image.digest().to_string()), "{pulled}");
        docker.run(&["image", "rm", &url], "").await.succeeded();
        let refused = docker.run(&["pull", &private], "").await.failed();
        assert!(refused.contains("log in with docker login"), "{refused}");
        let absent = format!("{}/acme/absent.x:v1", registry.host);
        let refused = docker.run(&["pull", &absent], "").await.failed();
        assert!(refused.contains("there is no such image"), "{refused}");

        let refused = docker.login(&registry, "wrong").await.failed();
        assert!(refused.to_lowercase().contains("unauthorized"), "{refused}");
        let user = other.credential.user.as_str();
        let login = ["login", "-u", user, "--password-stdin", &registry.host];
        let welcome = docker.run(&login, other.password.expose_secret()).await.succeeded();
        assert!(welcome.contains("Login Succeeded"), "{welcome}");
        for url in [&url, &private] {
            docker.run(&["pull", url], "").await.succeeded();
            docker.run(&["image", "rm", url], "").await.succeeded();
        }
        // A login that was removed is refused also for what nobody needs one for.
        registry.store.remove_credential(&other.credential.user).await.unwrap();
        logins_are_read_again().await;
        let refused = docker.run(&["pull", &url], "").await.failed();
        assert!(refused.contains("unauthorized"), "{refused}");

        let skopeo = async |credentials: &[&str], image: &str| {
            let mut command = Command::new("skopeo");
            command
                .args(["inspect", "--tls-verify=false"])
                .args(credentials)
                .arg(format!("docker://{image}"));
            run(command, "").await
        };
        let inspected = skopeo(&["--no-creds"], &url).await.succeeded();
        assert!(inspected.contains(&image.digest().to_string()), "{inspected}");
        let refused = skopeo(&["--no-creds"], &private).await.failed();
        assert!(refused.contains("unauthorized"), "{refused}");
        let login = format!("{}:{}", registry.user(), registry.password());
        skopeo(&["--creds", &login], &url).await.succeeded();
        let refused = skopeo(&["--creds", "acme-x:y"], &url).await.failed();
        assert!(refused.contains("unauthorized"), "{refused}");
        registry.stop().await;
    }
}

/// A file of an image, read without running it.
pub(super) async fn extract(docker: &Docker, image: &str, path: &Path) -> Vec<u8> {
    let container = docker.run(&["create", image], "").await.succeeded();
    let target = tempfile::tempdir().unwrap();
    let source = format!("{}:{}", container.trim(), path.display());
    let file = target.path().join("file");
    let copied = docker.run(&["cp", &source, file.to_str().unwrap()], "").await;
    docker.run(&["rm", container.trim()], "").await.succeeded();
    copied.succeeded();
    std::fs::read(file).unwrap()
}

/// What a user reads who pushes: that it is by design, and what to do instead.
#[tokio::test]
async fn docker_push_says_why_not() {
    for (docker, is_public) in Docker::all().iter().flat_map(|docker| [(docker, false), (docker, true)]) {
        let registry = if is_public { TestRegistry::public().await } else { TestRegistry::start().await };
        let image = TestImage::saying(&unique());
        let published = format!("{}/acme/shop.storefront:v1", registry.host);
        image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
        // Where pulling needs no login, pushing is refused for the same reason, and not for want of one.
        if !is_public {
            docker.login(&registry, registry.password()).await.succeeded();
        }
        docker.run(&["pull", &published], "").await.succeeded();
        // Over a tag of a repository that has the layers, beside it, and into a foreign namespace.
        for target in ["acme/shop.storefront:v1", "acme/new.one:v1", "other/a.b:v1"] {
            let target = format!("{}/{target}", registry.host);
            docker.run(&["tag", &published, &target], "").await.succeeded();
            let pushed = docker.run(&["push", &target], "").await;
            if target != published {
                docker.run(&["image", "rm", &target], "").await.succeeded();
            }
            let output = pushed.failed();
            assert!(
                output.contains("unsupported: this registry is read-only: commit your change and deploy it"),
                "{target}: {output}"
            );
        }
        docker.run(&["image", "rm", &published], "").await.succeeded();
        registry.stop().await;
    }
}
