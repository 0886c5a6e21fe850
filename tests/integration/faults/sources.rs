//! A git server that breaks, as far as the end of the event: what the fetch makes of it is shown in `source`.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use buildgrid::event::result::{Kind, State};

use super::{commit_event, commit_lasting};
use crate::support::docker::{base_image, host, unique};
use crate::support::git::{GitServer, Repository};
use crate::support::git_proxy::{GitProxy, Reaction};
use crate::support::grid::{TestGrid, files};
use crate::support::proxy::{Mode, Proxy};

async fn grid() -> TestGrid {
    base_image();
    TestGrid::with(|config| {
        config.engine.host = host();
        config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
        config.source.fetch_timeout = Duration::from_secs(2);
    })
    .await
}

/// A repository behind a proxy, with more in it than a slow connection brings within the limit.
async fn behind_a_proxy(server: &GitServer) -> (Proxy, Repository) {
    let mut repository = commit_lasting(server, &unique(), 1);
    let noise: Vec<u8> = std::iter::repeat_with(rand::random::<u8>).take(100_000).collect();
    repository.write("noise", noise);
    repository.commit("Add noise");
    let proxy = Proxy::start(server.url.trim_start_matches("http://").to_owned()).await;
    repository.url = repository.url.replace(&server.url, &format!("http://{}", proxy.address()));
    (proxy, repository)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_server_that_is_down_or_drips_is_tried_again() {
    let server = GitServer::start();
    let grid = grid().await;
    let mut waiting = Vec::new();
    for (mode, word) in [(Mode::Cut, "cannot be reached"), (Mode::Throttled(2000), "source.fetch_timeout")] {
        let (id, (proxy, repository)) = (unique(), behind_a_proxy(&server).await);
        proxy.set(mode);
        grid.publish(commit_event(&id, &repository)).await;
        let retrying = grid.result(&id, State::Retrying).await;
        assert_eq!((retrying.attempt, retrying.kind), (1, Some(Kind::Infrastructure)));
        let reason = retrying.reason.unwrap();
        assert!(reason.contains(word), "{mode:?}: {reason}");
        proxy.set(Mode::Pass);
        waiting.push((id, proxy));
    }
    for (id, _) in &waiting {
        let published = grid.result(id, State::Published).await;
        assert_eq!(published.attempt, 2);
    }
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_server_that_redirects_elsewhere_or_lacks_the_commit_fails_the_build_for_good() {
    let server = GitServer::start();
    let grid = grid().await;
    let repository = commit_lasting(&server, &unique(), 1);
    let elsewhere = server.url.clone();
    let redirecting = GitProxy::start(&server.url, move |request| {
        Reaction::redirect(format!("{elsewhere}{}?service=git-upload-pack", &request.line[4..]))
    })
    .await;
    let event = commit_event("redirected", &repository);
    grid.publish(event.replace(&server.url, &redirecting.url)).await;
    let failed = grid.result("redirected", State::Failed).await;
    assert_eq!((failed.attempt, failed.kind), (1, Some(Kind::Build)));
    assert!(failed.reason.as_deref().unwrap().contains("redirect"), "{failed:?}");

    let missing = "9fceb02d0ae598e95dc970b74767f19372d61af8";
    grid.publish(commit_event("missing", &repository).replace(&repository.head(), missing)).await;
    let failed = grid.result("missing", State::Failed).await;
    assert_eq!((failed.attempt, failed.kind), (1, Some(Kind::Build)));
    assert!(failed.reason.as_deref().unwrap().contains(missing), "{failed:?}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_refused_are_tried_again_and_leave_no_trace() {
    const TOKEN: &str = "glpat-of-a-private-repository";
    let server = GitServer::with(&["--authorization", "Bearer glpat-of-a-private-repository"]);
    let credentials = tempfile::tempdir().unwrap();
    std::fs::set_permissions(credentials.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let write = |token: &str| {
        let text = format!("url = \"{}\"\ntoken = \"{token}\"\n", server.url);
        std::fs::write(credentials.path().join("git.smoke.forge"), text).unwrap();
    };
    write("glpat-of-last-year");
    base_image();
    let directory = credentials.path().to_owned();
    let grid = TestGrid::with(|config| {
        config.engine.host = host();
        config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
        config.worker.credentials_dir = Some(directory);
    })
    .await;
    let (id, repository) = (unique(), commit_lasting(&server, &unique(), 1));
    grid.publish(commit_event(&id, &repository)).await;
    let retrying = grid.result(&id, State::Retrying).await;
    assert_eq!(retrying.kind, Some(Kind::Infrastructure));
    assert!(retrying.reason.as_deref().unwrap().contains("git.smoke.forge"), "{retrying:?}");
    write(TOKEN);
    grid.result(&id, State::Published).await;

    let told = format!("{:?}", grid.results(&id));
    let folders = [&grid.config.worker.data_dir, &grid.config.store.path];
    for file in folders.into_iter().flat_map(|folder| files(folder)) {
        let content = std::fs::read(&file).unwrap();
        let holds = content.windows(9).any(|part| part == b"glpat-of-");
        assert!(!holds, "{} holds a token", file.display());
    }
    assert!(!told.contains("glpat-of-"), "{told}");
    grid.finish().await;
}
