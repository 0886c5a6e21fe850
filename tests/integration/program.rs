//! The program itself: exit codes, signals, crashes, the journal.

mod cancel;
mod conduct;
mod timeline;
mod up;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use buildgrid::event::result::State;
use buildgrid::store::{Store, StoreConfig};

use crate::support::docker::{BASE, base_image, host, unique};
use crate::support::git::GitServer;
use crate::support::grid::{TestGrid, fake_event, read_log};
use crate::support::patience::until;
use crate::support::process::{as_root, buildgrid, output};

/// The exit code and what was written to standard error.
fn ended(output: Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The grid's configuration as a file, for a program of its own.
pub fn written(grid: &TestGrid, adjust: impl FnOnce(&mut toml::Table)) -> PathBuf {
    let config = &grid.config;
    let mut table: toml::Table = format!(
        r#"
        [worker]
        name = "worker-1"
        data_dir = "{}"
        status_listen = "127.0.0.1:0"
        [queue]
        url = "{}"
        [engine]
        host = "none"
        [disk]
        high = "{}"
        low = "{}"
        [source]
        allow_private_addresses = ["127.0.0.1"]
        [store]
        path = "{}"
        [registry]
        host = "{}"
        [logging]
        format = "text"
        "#,
        config.worker.data_dir.display(),
        config.queue.url.expose(),
        config.disk.high,
        config.disk.low,
        config.store.path.display(),
        config.registry.host
    )
    .parse()
    .unwrap();
    adjust(&mut table);
    let path = config.worker.data_dir.with_file_name("worker-config.toml");
    std::fs::write(&path, table.to_string()).unwrap();
    path
}

/// A worker process; killed when the test ends.
pub struct Worker(Child);

impl Worker {
    pub fn start(config: &Path) -> Self {
        Self(buildgrid(config).arg("worker").stderr(Stdio::inherit()).spawn().unwrap())
    }

    /// One whose log goes to a file.
    pub fn saying(config: &Path, log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        Self(buildgrid(config).arg("worker").stderr(log).spawn().unwrap())
    }

    /// One that is killed just before it makes one of these system calls with this path. strace watches over
    /// it as its grandchild, so that the child is the worker itself.
    pub fn killed_at(config: &Path, calls: &str, path: &Path) -> Self {
        let worker = buildgrid(config);
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"]).arg(path);
        strace.args(["-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:error=EIO:signal=SIGKILL:when=1")]);
        strace.arg("--").arg(worker.get_program()).args(worker.get_args()).arg("worker");
        for (name, value) in worker.get_envs() {
            match value {
                Some(value) => strace.env(name, value),
                None => strace.env_remove(name),
            };
        }
        strace.stdin(Stdio::null()).stderr(Stdio::inherit());
        Self(strace.spawn().expect("strace can be run (Debian's package strace)"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        until("the worker ends", || self.0.try_wait().unwrap().is_some()).await;
        self.0.wait().unwrap().code()
    }

    /// Lets it drain: what it has told, it still has to acknowledge.
    pub async fn ends(mut self) {
        self.signal("-TERM");
        assert_eq!(self.exit_code().await, Some(0));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn configuration_faults_are_told_at_once_with_exit_code_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker-config.toml");
    std::fs::write(&path, "[worker]\nslots = 0\n[sotre]\npath = \"/x\"\n[publish]\ngzip_level = \"high\"\n")
        .unwrap();
    for command in ["worker", "registry", "check"] {
        let (code, errors) = ended(buildgrid(&path).arg(command).output().unwrap());
        assert_eq!(code, 78, "{errors}");
        for part in [
            "worker-config.toml:2: worker.slots",
            "worker-config.toml:3: section [sotre]",
            "worker-config.toml:6: publish.gzip_level",
        ] {
            assert!(errors.contains(part), "{part} is not in {errors}");
        }
    }
    let (code, errors) = ended(buildgrid(Path::new("/nowhere.toml")).arg("worker").output().unwrap());
    assert_eq!(code, 78);
    assert!(errors.contains("/nowhere.toml"), "{errors}");
    let (code, _) = ended(buildgrid(&path).arg("no-such-command").output().unwrap());
    assert_eq!(code, 2);
}

#[test]
fn secrets_that_cannot_be_read_are_a_fault_of_the_configuration_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker-config.toml");
    let (secrets, data) = (folder.path().join("secrets"), folder.path().join("data"));
    let text = format!(
        "[queue]\nurl = \"amqp://127.0.0.1:1/x\"\n[engine]\nhost = \"none\"\n[up]\ndata_dir = \"{0}/up\"\n[worker]\ndata_dir = \"{0}\"\ncredentials_dir = \"{1}\"\n[store]\npath = \"{0}/store\"\n",
        data.display(),
        secrets.display()
    );
    std::fs::write(&path, text).unwrap();
    let event = folder.path().join("event.json");
    std::fs::write(&event, fake_event("b-1", "{}")).unwrap();
    let event = event.to_str().unwrap();
    let commands: [&[&str]; 4] = [&["worker"], &["up"], &["build", event], &["check"]];
    let refused = |remedy: &str| {
        for command in commands {
            let output = buildgrid(&path).args(command).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(output.status.code(), Some(78), "{command:?}: {said}");
            assert_eq!(said.matches("worker.credentials_dir").count(), 1, "{command:?}: {said}");
            assert!(said.contains(remedy), "{command:?}: {said}");
        }
    };
    refused("make it, with mode 0700");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o755)).unwrap();
    refused("chmod 0700");
    assert!(!data.exists(), "nothing has begun");
}

#[test]
fn services_that_are_away_are_named_with_exit_code_69() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker-config.toml");
    let text = format!(
        "[queue]\nurl = \"amqp://me:hunter2@127.0.0.1:1/x\"\n[engine]\nhost = \"unix:///nowhere/docker.sock\"\n[worker]\ndata_dir = \"{0}/data\"\n[store]\npath = \"{0}/store\"\n",
        folder.path().display()
    );
    std::fs::write(&path, text).unwrap();
    let output = buildgrid(&path).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("/nowhere/docker.sock") && said.contains("127.0.0.1:1"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let (code, errors) = ended(buildgrid(&path).args(["enqueue", "--fake"]).output().unwrap());
    assert_eq!(code, 69, "{errors}");
    assert!(errors.contains("127.0.0.1:1") && !errors.contains("hunter2"), "{errors}");
}

#[test]
fn check_says_what_is_kept_and_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker-config.toml");
    let check = |more: &str| {
        let text = format!(
            "[queue]\nurl = \"amqp://127.0.0.1:1/x\"\n[engine]\nhost = \"none\"\n[worker]\ndata_dir = \"{0}/data\"\n\
             [store]\npath = \"{0}/store\"\n{more}",
            folder.path().display()
        );
        std::fs::write(&path, text).unwrap();
        String::from_utf8_lossy(&buildgrid(&path).arg("check").output().unwrap().stdout).into_owned()
    };
    let kept = "[retention]\n\"*\" = { keep_last = 100, keep_for = \"90days\" }\n\"acme/shop\" = {}\n";
    let quota = "[namespaces]\nacme = { max_store = \"50 GiB\" }\n\"*\" = { max_store = \"1 GiB\" }\n";
    let said = check(&format!("{kept}{quota}[keeping]\ngc_every = \"0s\"\n"));
    for part in [
        "note  retention: [retention] is set, and no image goes by it: timeline.url is empty",
        "ok    quota: each other namespace: 1.0 GiB, acme: 50.0 GiB\n",
        "note  keeping: keeping.gc_every is 0s: garbage is collected by `buildgrid store gc` alone",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let said = check(&format!("{kept}[timeline]\nurl = \"http://127.0.0.1:1\"\n"));
    let rules = "ok    retention: \"*\" keeps the last 100 and those of the last 90 days, \
                 \"acme/shop\" keeps all\n";
    assert!(said.contains(rules), "{said}");
    assert!(!said.contains("quota") && !said.contains("keeping:"), "{said}");

    // A round in which it lets nothing go is no success, for whoever has only the exit code.
    Store::open(&StoreConfig::at(folder.path().join("store"))).unwrap();
    let collect = || {
        let output = buildgrid(&path).args(["store", "gc"]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = collect();
    assert!(code == Some(75) && said.contains("all images are kept for now: "), "{code:?} {said}");
    check("");
    let (code, said) = collect();
    assert!(code == Some(0) && !said.contains("kept for now"), "{code:?} {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_the_parts_are() {
    let grid = TestGrid::idle(|_| ()).await;
    let path = written(&grid, |table| {
        table["engine"].as_table_mut().unwrap().insert("host".into(), host().into());
        let public = vec!["acme", "smoke"];
        table["registry"].as_table_mut().unwrap().insert("public_namespaces".into(), public.into());
    });
    let output = buildgrid(&path).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "note  PUBLIC: acme, smoke: anybody may pull their images",
        "ok    engine: Docker ",
        "ok    broker: ",
        "ok    store: ",
        "note  retention: none: every image is kept",
        "BUILDKIT_STEP_LOG_MAX_SIZE=-1",
        "consumer-timeout",
        "ok    disk: worker.data_dir: ",
        "ok    disk: store.path: ",
        "ok    disk: the Docker engine's data: /",
        "(high mark 100 %; intake resumes below 99 %)",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_marks_that_the_disk_cannot_have_free_and_a_wrong_virtual_host() {
    let grid = TestGrid::idle(|_| ()).await;
    let path = written(&grid, |table| {
        let marks = "high = \"800 TiB\"\nlow = \"900 TiB\"".parse::<toml::Table>().unwrap();
        table.insert("disk".into(), marks.into());
        let url = grid.config.queue.url.expose().replace(grid.rabbit.vhost(), "no-such-vhost");
        table["queue"].as_table_mut().unwrap().insert("url".into(), url.into());
    });
    let output = buildgrid(&path).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    for part in [
        "disk.low, 900.0 TiB free, is not less than the whole file system, ",
        "(high mark 90 %; intake resumes below 85 %)",
        "does not open the virtual host no-such-vhost: ",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("refuses the login"), "{said}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn build_makes_one_image_without_a_queue() {
    base_image();
    let server = GitServer::start();
    let (hello, broken) = (server.fixture("hello"), server.fixture("build-fails"));
    let grid = TestGrid::idle(|_| ()).await;
    let path = written(&grid, |table| {
        table["engine"].as_table_mut().unwrap().insert("host".into(), host().into());
        table["queue"].as_table_mut().unwrap().insert("url".into(), "amqp://127.0.0.1:1/away".into());
    });
    // An argument of this test's own, so that no step comes out of the engine's cache.
    let greeting = format!("GREETING={}", unique());
    let build = |url: &str, commit: &str| {
        let base = format!("BASE={BASE}");
        let mut command = buildgrid(&path);
        command.args([
            "build",
            "--namespace",
            "acme",
            "--app",
            "shop",
            "--repository",
            url,
            "--commit",
            commit,
        ]);
        command.args(["--arg", &base, "--arg", &greeting]).output().unwrap()
    };
    let output = build(&hello.url, &hello.head());
    let (code, log) = ended(output.clone());
    assert_eq!(code, 0, "{log}");
    let image = format!("{}/acme/shop.hello:{}\n", grid.config.registry.host, hello.head());
    assert_eq!(String::from_utf8_lossy(&output.stdout), image, "standard output has the image alone");
    assert!(log.contains("\n    laying mortar\n"), "{log}");

    let (code, log) = ended(build(&broken.url, &broken.head()));
    assert_eq!(code, 10, "{log}");
    let end = log.rsplit("\n\n").next().unwrap();
    assert!(end.contains("util.c:7: error") && end.contains("exit code 3"), "the end tells it again: {log}");

    let (code, log) = ended(build(&hello.url, "main"));
    assert_eq!(code, 11, "{log}");
    assert!(log.contains("not a full commit id"), "{log}");
    let (code, log) = ended(build("http://127.0.0.1:1/x.git", &hello.head()));
    assert_eq!(code, 13, "{log}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enqueue_waits_and_ends_with_the_outcome() {
    let grid = TestGrid::start().await;
    let path = written(&grid, |_| ());
    for (outcome, expected) in [("published", 0), ("build_failed", 10)] {
        let arguments = [
            "enqueue",
            "--fake",
            "--log-lines",
            "3",
            "--outcome",
            outcome,
            "--wait",
            "--wait-timeout",
            "30s",
        ];
        let output = buildgrid(&path).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{said}");
        assert!(outcome != "published" || said.contains(&grid.config.registry.host), "{said}");
    }
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_nothing() {
    let grid = TestGrid::idle(|_| ()).await;
    let path = written(&grid, |_| ());
    let mut worker = Worker::start(&path);
    grid.publish(fake_event("b-1", r#"{"log_lines":60,"line_interval_ms":100}"#)).await;
    grid.log_line("b-1", "fake line 3").await;
    worker.signal("-KILL");
    worker.exit_code().await;
    assert!(!grid.build_directory("b-1").join("outcome.json").exists());
    let worker = Worker::start(&path);
    grid.result("b-1", State::Published).await;
    let first = read_log(&grid.build_directory("b-1").join("log.1.ndjson"));
    assert!(first.len() >= 3 && first.len() < 60, "the first attempt's log is kept as far as it came");
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_a_second_one_gives_back() {
    let grid = TestGrid::idle(|_| ()).await;
    let path = written(&grid, |_| ());
    let mut worker = Worker::start(&path);
    grid.publish(fake_event("b-1", r#"{"log_lines":20,"line_interval_ms":100}"#)).await;
    grid.log_line("b-1", "fake line 1").await;
    worker.signal("-TERM");
    assert_eq!(worker.exit_code().await, Some(0));
    grid.result("b-1", State::Published).await;

    let mut worker = Worker::start(&path);
    let other =
        fake_event("b-2", r#"{"log_lines":40,"line_interval_ms":100}"#).replace("9fceb02d", "00000000");
    grid.publish(other.clone()).await;
    grid.log_line("b-2", "attempt 1").await;
    worker.signal("-TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(worker.0.try_wait().unwrap().is_none(), "it drains");
    worker.signal("-TERM");
    assert_eq!(worker.exit_code().await, Some(0));
    assert!(!grid.build_directory("b-2").join("outcome.json").exists());
    // Given back, not lost: the next worker has it again.
    let mut worker = Worker::start(&path);
    grid.result("b-2", State::Published).await;
    worker.signal("-TERM");
    assert_eq!(worker.exit_code().await, Some(0));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_do_not_share_a_data_directory() {
    let grid = TestGrid::start().await;
    let path = written(&grid, |_| ());
    let (code, errors) = ended(buildgrid(&path).arg("worker").output().unwrap());
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("in use") && errors.contains("data_dir"), "{errors}");
    // The other worker is in this process.
    assert!(errors.contains(&format!("(pid {})", std::process::id())), "{errors}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_can_be_read_back_from_the_journal() {
    let _journal = Journal::start().await;
    let grid = TestGrid::idle(|_| ()).await;
    let path = written(&grid, |table| {
        table["logging"].as_table_mut().unwrap().insert("format".into(), "journald".into());
    });
    let worker = Worker::start(&path);
    let id = unique();
    grid.publish(fake_event(&id, r#"{"log_lines":5,"layers":1,"layer_bytes":10}"#)).await;
    grid.result(&id, State::Published).await;
    let mut entries = Vec::new();
    until("the journal has the build's end", || {
        let journal = output(as_root("journalctl").args([&format!("BUILD_ID={id}"), "-o", "json"]));
        entries =
            journal.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        entries.iter().any(|entry| entry["MESSAGE"] == "image published")
    })
    .await;
    let lines: Vec<_> = entries.iter().filter(|entry| entry["STREAM"] == "stdout").collect();
    assert_eq!(lines.len(), 5, "{entries:#?}");
    assert!(lines.iter().all(|line| line["STEP"].as_str().is_some_and(|step| step.contains("RUN"))));
    let published = entries.iter().find(|entry| entry["MESSAGE"] == "image published").unwrap();
    for (field, value) in
        [("NAMESPACE", "smoke"), ("APP", "web"), ("REPO", "fake"), ("SYSLOG_IDENTIFIER", "buildgrid")]
    {
        assert_eq!(published[field], value, "{published:#?}");
    }
    assert!(published["COMMIT"].is_string() && published["IMAGE"].is_string(), "{published:#?}");
    assert!(entries.iter().any(|entry| entry["STAGE"] == "publishing"), "{entries:#?}");
    worker.ends().await;
    grid.finish().await;
}

/// journald: the machine's own, or one started for this test where systemd does not run.
struct Journal(Option<Child>);

/// Ends with its standard input, and so with the test, however that ends: another user's process could not
/// be signalled. A journald that was killed leaves its socket behind.
const JOURNALD: &str = "
    mkdir -p /run/systemd/journal
    rm -f /run/systemd/journal/socket
    /lib/systemd/systemd-journald </dev/null >/dev/null &
    cat >/dev/null
    kill $!
    wait $!
    rm -f /run/systemd/journal/socket
";

impl Journal {
    async fn start() -> Self {
        let socket = Path::new("/run/systemd/journal/socket");
        if socket.exists() && Path::new("/run/systemd/system").exists() {
            return Self(None);
        }
        output(as_root("test").args(["-x", "/lib/systemd/systemd-journald"]));
        let mut shell = as_root("sh");
        let child = shell.args(["-c", JOURNALD]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let journal = Self(Some(child.unwrap()));
        until("journald listens", || {
            std::os::unix::net::UnixDatagram::unbound().unwrap().connect(socket).is_ok()
        })
        .await;
        journal
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}
