//! What the builds of a namespace are handed out of the worker's credentials directory, and that no other
//! namespace's are: the whole way, from the event to the image.

use std::os::unix::fs::PermissionsExt as _;

use buildgrid::config::Config;
use buildgrid::event::result::{Kind, State};
use tempfile::TempDir;

use crate::support::docker::{self, BASE, base_image, unique};
use crate::support::git::GitServer;
use crate::support::grid::TestGrid;

/// A credentials directory with these files.
fn credentials(files: &[(&str, &str)]) -> TempDir {
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

    let id = format!("unnamed-{word}");
    grid.publish(event(&id, "acme", &repository.url, &commit, r#"{"variant":"unnamed"}"#)).await;
    let failed = grid.result(&id, State::Failed).await;
    assert!(failed.reason.unwrap().contains("the secret \"token\", which build.secrets"));
    grid.finish().await;
}
