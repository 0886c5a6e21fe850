//! What build steps may reach and use: the network by configuration, memory and processes by a control group of the
//! engine's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use buildgrid::build::docker::{BuildRequest, DockerEngine, EngineConfig, Network};
use buildgrid::timeline::entry::Stream;

use crate::support::docker::*;
use crate::support::engine::TestEngine;
use crate::support::process::{as_root, output};

fn connect(config: EngineConfig) -> DockerEngine {
    DockerEngine::connect(&config, Duration::from_secs(3600)).unwrap()
}

#[tokio::test]
async fn a_step_has_no_network_where_the_request_says_so() {
    base_image();
    let dockerfile = format!("FROM {BASE}\nRUN echo {} >&2; ls /sys/class/net\n", unique());
    for (network, has_more) in [(Network::None, false), (Network::Default, true)] {
        let built = build(&engine(), BuildRequest { network, ..request(&dockerfile) }).await;
        let found = built.lines(Stream::Stdout, "[2/2] RUN");
        assert!(found.contains(&"lo") && (found.len() > 1) == has_more, "{network:?}: {found:?}");
    }
}

/// What README says of `ADD`: it is the engine that fetches, with the network of the engine's machine. Steps do not
/// reach that machine's loopback.
#[tokio::test]
async fn what_add_names_is_fetched_by_the_engine_and_no_step_reaches_its_loopback() {
    base_image();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    let app = axum::Router::new().fallback(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { "of the engine's machine" }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/{}", listener.local_addr().unwrap(), unique());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let step = request(&format!("FROM {BASE}\nRUN wget -T 5 -O - {url}\n"));
    let reason = build(&engine(), step).await.failure().reason;
    assert!(reason.contains("exit code 1"), "{reason}");
    for flag in ["--network=host", "--security=insecure"] {
        let step = request(&format!("FROM {BASE}\nRUN {flag} wget -T 5 -O - {url}\n"));
        let reason = build(&engine(), step).await.failure().reason;
        assert!(reason.to_ascii_lowercase().contains(flag.split(['-', '=']).nth(2).unwrap()), "{reason}");
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 0, "a step reached the engine's machine");
    let added =
        BuildRequest { network: Network::None, ..request(&format!("FROM {BASE}\nADD {url} /added\n")) };
    let image = build(&engine(), added).await.image();
    assert_eq!(files(&image)["added"], b"of the engine's machine");
    server.abort();
}

#[tokio::test]
async fn an_argument_that_looks_like_a_secret_is_warned_of() {
    let mut request = request(&format!("FROM {BASE}\n"));
    request.args.insert("NPM_TOKEN".into(), "hunter2-of-it".into());
    let built = build(&engine(), request).await;
    let warned = built.log.iter().find(|line| line.text.contains("NPM_TOKEN looks like a secret"));
    assert!(warned.is_some_and(|line| line.stream == Stream::Status && !line.text.contains("hunter2")));
}

/// A control group with limits, for all that an engine runs.
struct LimitedGroup(String);

impl LimitedGroup {
    /// Where its files are, whether there is one hierarchy of groups or one for each controller.
    fn folder(&self, controller: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        let root = if root.join(controller).is_dir() { root.join(controller) } else { root.to_owned() };
        root.join(&self.0)
    }

    fn make() -> Self {
        let group = Self(format!("buildgrid-test-{}", unique()));
        for (controller, limits) in [
            ("memory", [("memory.limit_in_bytes", "memory.max", 96 << 20)]),
            ("pids", [("pids.max", "pids.max", 40)]),
        ] {
            let folder = group.folder(controller);
            output(as_root("mkdir").arg("-p").arg(&folder));
            for (old, new, limit) in limits {
                let file =
                    [old, new].map(|file| folder.join(file)).into_iter().find(|file| file.exists()).unwrap();
                let write = format!("echo {limit} > {}", file.display());
                output(as_root("sh").args(["-c", &write]));
            }
        }
        group
    }
}

impl Drop for LimitedGroup {
    fn drop(&mut self) {
        for controller in [
            "memory", "pids", "cpu", "cpuset", "blkio", "devices", "freezer", "systemd", "unified", "cpuacct",
        ] {
            let folder = self.folder(controller);
            // The engine's own groups below it go first; those that are in use when a test fails stay.
            let remove = format!("find {} -depth -type d -exec rmdir {{}} +", folder.display());
            let _ = as_root("sh").args(["-c", &remove]).output();
        }
    }
}

/// Each of them would do no harm if the limit did not hold: two hundred processes that sleep for two seconds, and a
/// quarter of a gigabyte.
const FORK_BOMB: &str = "i=0; while [ $i -lt 200 ]; do sleep 2 & i=$((i+1)); done; wait; echo all of them";
const MEMORY_HOG: &str = "dd if=/dev/zero of=/dev/null bs=256M count=1 && echo all of it";

#[tokio::test]
async fn a_fork_bomb_and_a_memory_hog_are_the_builds_fault_where_the_engine_has_limits() {
    let group = LimitedGroup::make();
    let limited = TestEngine::start_with(&[&format!("--cgroup-parent=/{}", group.0)]).await;
    let engine = connect(EngineConfig { host: limited.host(), ..EngineConfig::default() });
    for (step, said) in [(FORK_BOMB, "fork"), (MEMORY_HOG, "")] {
        let built = build(&engine, request(&format!("FROM {BASE}\nRUN {step}\n"))).await;
        let whole: Vec<_> = built.log.iter().map(|line| line.text.clone()).collect();
        assert!(!whole.iter().any(|line| line.starts_with("all of")), "the limit did not hold: {whole:#?}");
        let failure = built.failure();
        assert!(failure.reason.contains("exit code"), "{}", failure.reason);
        assert!(whole.iter().any(|line| line.contains(said)), "{whole:#?}");
    }
    let after = build(&engine, request(&format!("FROM {BASE}\nRUN true\n"))).await;
    assert!(after.result.is_ok(), "the engine builds on: {:?}", after.log);
    // Its groups are empty when it is gone.
    drop(limited);
}
