//! What the builds of a namespace are handed out of the worker's credentials directory, and that no other
//! namespace's are: the whole way, from the event to the image.

use std::os::unix::fs::PermissionsExt as _;

use buildgrid::config::Config;
use buildgrid::event::result::{Kind, State};
use buildgrid::registry::RegistryConfig;
use tempfile::TempDir;

use crate::support::docker::{self, BASE, base_image, unique};
use crate::support::git::GitServer;
use crate::support::grid::TestGrid;
use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;

/// A credentials directory with these files.
pub fn credentials(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// Builds on the real engine, out of a git server on loopback.
async fn grid(folder: &TempDir) -> TestGrid {
    base_image();
    let directory = folder.path().to_owned();
    TestGrid::with(move |config: &mut Config| {
        config.engine.host = docker::host();
        config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
        config.worker.credentials_dir = Some(directory);
    })
    .await
}

fn event(id: &str, namespace: &str, url: &str, commit: &str, build: &str) -> String {
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"{namespace}","app":"web","repository":{{"url":"{url}"}},
            "commit":"{commit}","ref":"refs/heads/main","build":{build}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_has_its_namespaces_secrets_and_no_step_of_another_namespaces_is_its() {
    let word = unique();
    let (of_acme, of_rival) = (format!("hunter2-of-acme-{word}"), format!("hunter2-of-rival-{word}"));
    let folder = credentials(&[
        ("secret.acme.token", &of_acme),
        ("secret.rival.token", &of_rival),
        ("secret.rival.other", "only-rival-has-it"),
    ]);
    let grid = grid(&folder).await;
    let server = GitServer::start();
    let repository = server.empty("secretive");
    let dockerfile = format!(
        "FROM {BASE}\nRUN --mount=type=secret,id=token echo {word}; cat /run/secrets/token; \
         sha256sum /run/secrets/token | cut -c -64\n"
    );
    repository.write("Dockerfile", dockerfile);
    let commit = repository.commit("Use a secret");
    let build = r#"{"secrets":["token"]}"#;
    for (namespace, value) in [("acme", &of_acme), ("rival", &of_rival)] {
        let id = format!("{namespace}-{word}");
        grid.publish(event(&id, namespace, &repository.url, &commit, build)).await;
        grid.result(&id, State::Published).await;
        let text: String = grid.log(&id).iter().map(|entry| format!("{}\n", entry.text)).collect();
        let digest = buildgrid::store::digest::Digest::of(value.as_bytes()).to_string();
        assert!(
            text.contains(digest.strip_prefix("sha256:").unwrap()),
            "another value, or a step of another's: {text}"
        );
        assert!(text.contains("***") && !text.contains(value.as_str()), "{text}");
        for file in crate::support::grid::files(&grid.build_directory(&id)) {
            let content = std::fs::read(&file).unwrap();
            let shows = content.windows(value.len()).any(|part| part == value.as_bytes());
            assert!(!shows, "it is on disk: {}", file.display());
        }
    }
    let id = format!("missing-{word}");
    grid.publish(event(&id, "acme", &repository.url, &commit, r#"{"secrets":["other"],"variant":"other"}"#))
        .await;
    let failed = grid.result(&id, State::Failed).await;
    assert_eq!(failed.kind, Some(Kind::Build));
    let reason = failed.reason.unwrap();
    assert!(reason.contains("names other") && reason.contains("secret.acme.other"), "{reason}");

    let id = format!("agentless-{word}");
    let build = r#"{"ssh":["default"],"variant":"agentless"}"#;
    grid.publish(event(&id, "acme", &repository.url, &commit, build)).await;
    let reason = grid.result(&id, State::Failed).await.reason.unwrap();
    assert!(reason.contains("names default") && reason.contains("ssh.acme.default"), "{reason}");

    let id = format!("unnamed-{word}");
    grid.publish(event(&id, "acme", &repository.url, &commit, r#"{"variant":"unnamed"}"#)).await;
    let failed = grid.result(&id, State::Failed).await;
    assert!(failed.reason.unwrap().contains("the secret \"token\", which build.secrets"));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_of_its_namespace_is_pulled_by_a_login_that_ends_with_the_build() {
    let word = unique();
    let folder = credentials(&[]);
    let grid = grid(&folder).await;
    let server = GitServer::start();
    let repository = server.empty("base");
    repository.write("Dockerfile", format!("FROM {BASE}\nRUN echo {word} > /base\n"));
    let base = repository.commit("Add the base");
    let first = format!("base-{word}");
    grid.publish(event(&first, "acme", &repository.url, &base, "{}")).await;
    let image = grid.result(&first, State::Published).await.image.unwrap();

    repository.write("Dockerfile", format!("FROM {image}\nRUN cat /base\n"));
    let commit = repository.commit("Build on it");
    let logins = async || {
        let logins = grid.registry.store.credentials().await.unwrap().usable;
        logins.into_iter().map(|login| login.user).collect::<Vec<_>>()
    };
    let before = logins().await;
    let second = format!("child-{word}");
    grid.publish(event(&second, "acme", &repository.url, &commit, "{}")).await;
    grid.result(&second, State::Published).await;
    assert!(grid.log(&second).iter().any(|entry| entry.text == word), "{:?}", grid.log(&second));
    assert_eq!(logins().await, before, "a login is left in the store");

    // The engine has the image by now, and whether it may be had is asked of the registry all the same.
    let third = format!("rival-{word}");
    grid.publish(event(&third, "rival", &repository.url, &commit, "{}")).await;
    let failed = grid.result(&third, State::Failed).await;
    let reason = failed.reason.unwrap();
    assert!(
        failed.kind == Some(Kind::Build) && reason.contains(&format!("base image {image} does not exist")),
        "{reason}"
    );
    grid.finish().await;
}

/// Also from one that asks for a token, as ours does where a namespace is public.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_registry_is_pulled_from_with_the_namespaces_login() {
    let word = unique();
    let public_namespaces = ["open".parse().unwrap()].into();
    let asks_for_tokens = RegistryConfig { public_namespaces, ..RegistryConfig::default() };
    let registries = [TestRegistry::start().await, TestRegistry::start_with(asks_for_tokens).await];
    let mut auths = Vec::new();
    for private in &registries {
        TestImage::saying(&word).publish(&private.store, &image_name("acme/base.image", &word)).await;
        auths.push(format!(
            r#""{}":{{"username":"{}","password":"{}"}}"#,
            private.host,
            private.user(),
            private.password()
        ));
    }
    let folder = credentials(&[("registry.acme", &format!("{{\"auths\":{{{}}}}}", auths.join(",")))]);
    let grid = grid(&folder).await;
    let server = GitServer::start();
    let repository = server.empty("private");
    for (number, private) in registries.into_iter().enumerate() {
        let base = format!("{}/acme/base.image:{word}", private.host);
        repository.write("Dockerfile", format!("FROM {base}\nLABEL built=on-it\n"));
        let commit = repository.commit("Build on a private image");
        let id = format!("acme-{word}-{number}");
        grid.publish(event(&id, "acme", &repository.url, &commit, "{}")).await;
        grid.result(&id, State::Published).await;
        let id = format!("rival-{word}-{number}");
        grid.publish(event(&id, "rival", &repository.url, &commit, "{}")).await;
        let failed = grid.result(&id, State::Failed).await;
        let reason = failed.reason.unwrap();
        assert!(reason.contains("does not exist, or the engine may not pull it"), "{reason}");
        private.stop().await;
    }
    grid.finish().await;
}
