//! Servers that are away, slow, elsewhere, or none at all: each has its error, and its fault.

use std::time::{Duration, Instant};

use buildgrid::source::{Fault, SourceError, Sources};
use buildgrid::telemetry::pulse::Pulse;
use tokio_util::sync::CancellationToken;

use super::limits::noise;
use super::{Fetcher, git_server, loopback};
use crate::support::disk::SmallDisk;
use crate::support::git_proxy::{GitProxy, Reaction};
use crate::support::patience::until;

const COMMIT: &str = "1111111111111111111111111111111111111111";

#[tokio::test]
async fn a_server_that_is_down_is_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.git", listener.local_addr().unwrap());
    drop(listener);
    let error = Fetcher::new().fetch(&url, COMMIT).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Unreachable { reason, .. } if reason.contains("refused")),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Infrastructure);

    let error = Fetcher::new().fetch("http://no-such-host.invalid/x.git", COMMIT).await.unwrap_err();
    // A machine without a name server may wait for it until the time is over.
    assert!(matches!(error, SourceError::Unreachable { .. } | SourceError::TimedOut { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Infrastructure);
}

#[tokio::test]
async fn https_never_falls_back_to_http() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commit = repository.commit("One");
    let url = repository.url.replace("http://", "https://");
    let error = Fetcher::new().fetch(&url, &commit).await.unwrap_err();
    assert!(matches!(&error, SourceError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn each_status_has_its_error() {
    let server = git_server().await;
    let error = Fetcher::new().fetch(&format!("{}/nope.git", server.url), COMMIT).await.unwrap_err();
    assert!(matches!(error, SourceError::RepositoryNotFound { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Build);
    for (status, fault) in [
        (401, Fault::Build),
        (403, Fault::Build),
        (404, Fault::Build),
        (429, Fault::Infrastructure),
        (500, Fault::Infrastructure),
        (503, Fault::Infrastructure),
    ] {
        let proxy = GitProxy::start(&server.url, move |_| Reaction::status(status)).await;
        let error = Fetcher::new().fetch(&format!("{}/x.git", proxy.url), COMMIT).await.unwrap_err();
        assert_eq!(error.fault(), fault, "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(proxy.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_web_page_is_not_a_repository() {
    let answer = || Reaction::Answer(axum::response::IntoResponse::into_response(axum::response::Html("hi")));
    let proxy = GitProxy::start("", move |_| answer()).await;
    let error = Fetcher::new().fetch(&format!("{}/x", proxy.url), COMMIT).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::NotARepository { reason, .. } if reason.contains("text/html")),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Build);
}

#[tokio::test]
async fn a_redirect_elsewhere_is_refused() {
    let server = git_server().await;
    let port = server.url.rsplit_once(':').unwrap().1.to_owned();
    let refs = "x.git/info/refs?service=git-upload-pack";
    for (location, reason) in [
        (format!("http://localhost:{port}/{refs}"), "another host"),
        (format!("{}/{refs}", server.url), "another port"),
        (format!("https://127.0.0.1:SELF/{refs}"), "another scheme"),
        (format!("http://me:secret@127.0.0.1:SELF/{refs}"), "credentials"),
        ("/login?next=x".to_owned(), "not where a repository's refs are"),
    ] {
        let sent = std::sync::Arc::new(std::sync::Mutex::new(location.clone()));
        let answered = std::sync::Arc::clone(&sent);
        let proxy =
            GitProxy::start(&server.url, move |_| Reaction::redirect(answered.lock().unwrap().clone())).await;
        let own = proxy.url.rsplit_once(':').unwrap().1;
        *sent.lock().unwrap() = location.replace("SELF", own);
        let error = Fetcher::new().fetch(&format!("{}/x.git", proxy.url), COMMIT).await.unwrap_err();
        assert!(
            matches!(&error, SourceError::RefusedRedirect { reason: r, .. } if r.contains(reason)),
            "{error}"
        );
        assert_eq!(error.fault(), Fault::Build);
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(proxy.seen().len(), 1);
    }
    let proxy = GitProxy::start(&server.url, |request| {
        Reaction::redirect(format!("{}?service=git-upload-pack", &request.line[4..]))
    })
    .await;
    let error = Fetcher::new().fetch(&format!("{}/x.git", proxy.url), COMMIT).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
}

#[tokio::test]
async fn a_redirect_on_the_same_server_is_followed() {
    let server = git_server().await;
    let repository = server.empty("new");
    repository.write("Dockerfile", "FROM scratch\n");
    let commit = repository.commit("Move");
    let proxy = GitProxy::start(&server.url, |request| match request.line.as_str() {
        "GET /old.git/info/refs" => Reaction::redirect("/new.git/info/refs?service=git-upload-pack"),
        _ => Reaction::Pass,
    })
    .await;
    let fetched = Fetcher::new().fetch(&format!("{}/old.git", proxy.url), &commit).await.unwrap();
    assert_eq!(fetched.subject, "Move");
    let seen = proxy.seen();
    assert_eq!(seen[..2], ["GET /old.git/info/refs", "GET /new.git/info/refs"]);
    assert!(seen[2..].iter().all(|line| line == "POST /new.git/git-upload-pack"), "{seen:?}");

    let proxy = GitProxy::start(&server.url, |request| match request.is_for_objects() {
        true => Reaction::redirect("/new.git/git-upload-pack"),
        false => Reaction::Pass,
    })
    .await;
    let error = Fetcher::new().fetch(&format!("{}/new.git", proxy.url), &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::RefusedRedirect { .. }), "{error}");
}

#[tokio::test]
async fn private_addresses_are_refused_unless_allowed() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commit = repository.commit("One");
    let port = server.url.rsplit_once(':').unwrap().1;
    for host in ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let strict = Fetcher::with(|config| config.allow_private_addresses.clear());
        let error = strict.fetch(&format!("http://{host}:{port}/x.git"), &commit).await.unwrap_err();
        assert!(matches!(error, SourceError::RefusedAddress { .. }), "{host}: {error}");
        assert_eq!(error.fault(), Fault::Build);
    }
    let by_name = Fetcher::with(|config| config.allow_private_addresses = vec!["localhost".to_owned()]);
    by_name.fetch(&format!("http://localhost:{port}/x.git"), &commit).await.unwrap();
    let error = by_name.fetch(&repository.url, &commit).await.unwrap_err();
    assert!(error.to_string().contains("source.allow_private_addresses"), "{error}");
}

#[tokio::test]
async fn a_dripping_or_silent_server_times_out() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commit = repository.commit("One");
    let drip = GitProxy::start(&server.url, |_| Reaction::Drip(Duration::from_millis(50))).await;
    let fetcher = Fetcher::with(|config| config.fetch_timeout = Duration::from_millis(700));
    let error = fetcher.fetch(&format!("{}/x.git", drip.url), &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::TimedOut { key: "fetch_timeout", .. }), "{error}");
    assert_eq!(error.fault(), Fault::Infrastructure);
    assert!(
        error.to_string().ends_with("the fetch took longer than 700ms (source.fetch_timeout)"),
        "{error}"
    );

    for objects in [false, true] {
        let hang = GitProxy::start(&server.url, move |request| match request.is_for_objects() == objects {
            true => Reaction::Hang,
            false => Reaction::Pass,
        })
        .await;
        let fetcher = Fetcher::with(|config| config.stall_timeout = Duration::from_millis(300));
        let error = fetcher.fetch(&format!("{}/x.git", hang.url), &commit).await.unwrap_err();
        assert!(matches!(error, SourceError::TimedOut { key: "stall_timeout", .. }), "{error}");
    }

    // It accepts the connection and says nothing at all.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fetcher = Fetcher::with(|config| config.stall_timeout = Duration::from_millis(300));
    let error = fetcher.fetch(&format!("http://{}/x.git", silent.local_addr().unwrap()), &commit).await;
    assert!(matches!(error, Err(SourceError::TimedOut { key: "stall_timeout", .. })));
}

#[tokio::test]
async fn a_broken_connection_is_tried_again_and_leaves_the_mirror_whole() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    let first = repository.commit("One");
    let second = repository.commit("Two");
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let breaks = std::sync::Arc::clone(&broken);
    let proxy = GitProxy::start(&server.url, move |request| {
        match request.is_for_objects() && breaks.load(std::sync::atomic::Ordering::SeqCst) {
            true => Reaction::Cut,
            false => Reaction::Pass,
        }
    })
    .await;
    let url = format!("{}/x.git", proxy.url);
    let fetcher = Fetcher::new();
    fetcher.fetch(&url, &first).await.unwrap();
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = fetcher.fetch(&url, &second).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Infrastructure);
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    fetcher.fetch(&url, &second).await.unwrap();
    assert_eq!(fetcher.mirror_names(), ["shallow-0"]);
}

#[tokio::test]
async fn a_full_disk_is_not_the_mirrors_fault_nor_the_servers() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    let small = repository.commit("Small");
    repository.write("large", noise(3, 4 << 20));
    let large = repository.commit("Large");
    let disk = SmallDisk::mount("1m");
    let mut fetcher = Fetcher::new();
    fetcher.sources = Sources::new(loopback(), disk.path().join("mirrors")).unwrap().into();
    fetcher.fetch(&repository.url, &small).await.unwrap();
    let error = fetcher.fetch(&repository.url, &large).await.unwrap_err();
    let SourceError::Mirror { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("No space left on device"), "{reason}");
    assert_eq!(error.fault(), Fault::Infrastructure);
    // The mirror is as good as before, and nothing else was tried.
    fetcher.fetch(&repository.url, &small).await.unwrap();
    let log = fetcher.log_up_to("already here").await.join("\n");
    assert!(!log.contains("anew") && !log.contains("history"), "{log}");
}

#[tokio::test]
async fn a_server_that_refuses_everything_leaves_the_mirror_alone() {
    let server = git_server().await;
    let repository = server.empty("x");
    let first = repository.commit("One");
    let second = repository.commit("Two");
    let refuses = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = std::sync::Arc::clone(&refuses);
    let proxy = GitProxy::start(&server.url, move |request| {
        match request.is_for_objects() && asked.load(std::sync::atomic::Ordering::SeqCst) {
            true => Reaction::refusal("access is closed for today"),
            false => Reaction::Pass,
        }
    })
    .await;
    let url = format!("{}/x.git", proxy.url);
    let fetcher = Fetcher::new();
    fetcher.fetch(&url, &first).await.unwrap();
    refuses.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..2 {
        let error = fetcher.fetch(&url, &second).await.unwrap_err();
        assert_eq!(error.to_string(), format!("fetching {url} failed: access is closed for today"));
        assert_eq!(error.fault(), Fault::Infrastructure);
        assert_eq!(fetcher.mirror_names(), ["full-1", "shallow-0"]);
    }
}

#[tokio::test]
async fn nonsense_in_the_place_of_a_pack_does_not_cost_the_history() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commit = repository.commit("One");
    let proxy = GitProxy::start(&server.url, |request| match request.is_for_objects() {
        true => Reaction::Edit(Box::new(|_| b"nonsense".to_vec())),
        false => Reaction::Pass,
    })
    .await;
    let error = Fetcher::new().fetch(&format!("{}/x.git", proxy.url), &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::Git { .. }), "{error}");
    assert_eq!(proxy.seen().iter().filter(|line| line.starts_with("POST")).count(), 1, "{:?}", proxy.seen());
}

#[tokio::test]
async fn a_fetch_can_be_cancelled_at_any_moment() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commit = repository.commit("One");
    let pulse = Pulse::default();
    for objects in [false, true] {
        let proxy = GitProxy::start(&server.url, move |request| match request.is_for_objects() == objects {
            true => Reaction::Hang,
            false => Reaction::Pass,
        })
        .await;
        let fetcher = Fetcher::new();
        let (url, id) = (format!("{}/x.git", proxy.url).parse().unwrap(), commit.parse().unwrap());
        let cancel = CancellationToken::new();
        let (result, ()) =
            tokio::join!(fetcher.sources.fetch(fetcher.errand(&cancel, &pulse), &url, &id, None), async {
                until("the request is there", || proxy.seen().len() > usize::from(objects)).await;
                // Into the middle of the answer.
                tokio::time::sleep(Duration::from_millis(50)).await;
                cancel.cancel();
            });
        assert_eq!(result.unwrap_err(), SourceError::Cancelled);

        // Another one that waits for its turn can be cancelled too; a dropped one makes room.
        let first = Box::pin(fetcher.fetch(url.as_url().as_str(), &commit));
        let cancel = CancellationToken::new();
        let waiting = async {
            fetcher.log_up_to("fetching").await;
            let result = fetcher.sources.fetch(fetcher.errand(&cancel, &pulse), &url, &id, None);
            let (result, ()) = tokio::join!(result, async {
                fetcher.log_up_to("waiting for another fetch").await;
                cancel.cancel();
            });
            result
        };
        tokio::select! {
            _ = first => panic!("the server hangs"),
            result = waiting => assert_eq!(result.unwrap_err(), SourceError::Cancelled),
        }
        let cancel = CancellationToken::new();
        cancel.cancel();
        let result = fetcher.sources.fetch(fetcher.errand(&cancel, &pulse), &url, &id, None).await;
        assert_eq!(result.unwrap_err(), SourceError::Cancelled);
    }
}

#[tokio::test]
async fn who_stands_in_line_for_a_repository_shows_that_the_line_moves() {
    // It accepts connections and says nothing at all: whose turn it is ends by the time limit.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let limit = Duration::from_secs(1);
    let fetcher = Fetcher::with(|config| config.fetch_timeout = limit);
    assert_eq!(fetcher.sources.longest(), limit);
    let url = format!("http://{}/x.git", silent.local_addr().unwrap()).parse().unwrap();
    let (commit, cancel, began) = (COMMIT.parse().unwrap(), CancellationToken::new(), Instant::now());
    let pulses = [0; 4].map(|_| Pulse::default());
    let fetches = pulses.iter().map(|pulse| {
        // Silent for longer than the limit is only what hangs; some time goes by from one's end to the next one's turn.
        let watch = async {
            loop {
                let silent = pulse.silent(Instant::now());
                assert!(silent < limit + limit / 2, "{silent:?}");
                tokio::time::sleep(limit / 20).await;
            }
        };
        let fetch = fetcher.sources.fetch(fetcher.errand(&cancel, pulse), &url, &commit, None);
        async {
            tokio::select! {
                fetched = fetch => fetched.unwrap_err(),
                () = watch => unreachable!("it watches without end"),
            }
        }
    });
    for error in futures::future::join_all(fetches).await {
        assert!(matches!(error, SourceError::TimedOut { key: "fetch_timeout", .. }), "{error}");
    }
    assert!(began.elapsed() >= limit * 4, "one after the other: {:?}", began.elapsed());
}
