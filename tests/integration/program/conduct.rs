//! How the daemons behave under an operator's hand and under systemd: watchdog, pause, reload.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use buildgrid::event::result::State;

use super::{Worker, ended, written};
use crate::support::address::free_address;
use crate::support::clock::Clock;
use crate::support::grid::{TestGrid, fake_event};
use crate::support::patience::{in_time, until};
use crate::support::process::buildgrid;
use crate::support::process::{as_root, output};
use crate::support::proxy::{Mode, Proxy};
use crate::support::systemd::Systemd;

const SLOW: &str = r#"{"log_lines":40,"line_interval_ms":100}"#;
const QUICK: &str = r#"{"log_lines":3,"layers":1,"layer_bytes":100}"#;
const WATCHDOG: Duration = Duration::from_secs(2);

/// A daemon with its configuration, its log in a file, and a systemd that it talks to.
struct Daemon {
    process: Worker,
    systemd: Systemd,
    config: PathBuf,
    log: PathBuf,
}

impl Daemon {
    async fn start(config: PathBuf, name: &str) -> Self {
        Self::start_with(config, name, |_| ()).await
    }

    async fn start_with(config: PathBuf, name: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let systemd = Systemd::listen();
        let log = config.with_file_name(format!("{name}.log"));
        let mut command = buildgrid(&config);
        systemd.starts(&mut command, WATCHDOG);
        prepare(&mut command);
        let child = command.arg(name).stderr(File::options().create(true).append(true).open(&log).unwrap());
        let process = Worker(child.spawn().unwrap());
        let daemon = Self { process, systemd, config, log };
        daemon.systemd.has_heard("READY=1").await;
        daemon
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    async fn says(&self, words: &str) {
        until(&format!("the log says {words:?}"), || self.log().contains(words)).await;
    }

    /// Changes the configuration, and has it reloaded.
    async fn reload(&self, change: impl FnOnce(&mut toml::Table)) {
        let mut table: toml::Table = std::fs::read_to_string(&self.config).unwrap().parse().unwrap();
        change(&mut table);
        self.reload_text(&table.to_string()).await;
    }

    async fn reload_text(&self, text: &str) {
        std::fs::write(&self.config, text).unwrap();
        let before = self.systemd.count("READY=1");
        self.process.signal("-HUP");
        until("it is ready again", || self.systemd.count("READY=1") > before).await;
    }

    async fn ends(self) {
        self.process.ends().await;
    }
}

fn set(table: &mut toml::Table, section: &str, key: &str, value: impl Into<toml::Value>) {
    let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
    section.as_table_mut().unwrap().insert(key.into(), value.into());
}

/// The fake event of another namespace.
fn of(namespace: &str, event: &str) -> String {
    event.replace("smoke", namespace)
}

async fn ready_page(address: &str) -> (u16, String) {
    let answer = in_time("the status page", reqwest::get(format!("http://{address}/readyz"))).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_a_worker_while_it_moves() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut worker = Daemon::start(written(&grid, |_| ()), "worker").await;
    let systemd = &worker.systemd;
    systemd.hears("WATCHDOG=1", 3).await;
    systemd.has_heard("STATUS=0 of 2 slots building; ready").await;

    worker.process.signal("-STOP");
    // What it said just before may still be on its way.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = systemd.heard().len();
    tokio::time::sleep(WATCHDOG * 2).await;
    assert_eq!(systemd.heard().len(), before, "a process that stands still says nothing");
    worker.process.signal("-CONT");
    systemd.hears("WATCHDOG=1", 3).await;
    assert!(!worker.log().contains("does not move"), "it is not to blame: {}", worker.log());

    grid.publish(fake_event("b-1", SLOW)).await;
    systemd.has_heard("STATUS=1 of 2 slots building; ready").await;
    worker.process.signal("-TERM");
    systemd.has_heard("STOPPING=1").await;
    systemd.has_heard("EXTEND_TIMEOUT_USEC=60000000").await;
    systemd.has_heard("STATUS=1 of 2 slots building; slots: draining").await;
    systemd.hears("WATCHDOG=1", 2).await;
    assert_eq!(worker.process.exit_code().await, Some(0));
    grid.result("b-1", State::Published).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_does_not_starve_the_watchdog() {
    let grid = TestGrid::idle(|_| ()).await;
    let url = grid.config.queue.url.expose().to_owned();
    let proxy = Proxy::start(grid.config.queue.url.address().to_owned()).await;
    let through = url.replace(grid.config.queue.url.address(), &proxy.address().to_string());
    let config = written(&grid, |table| {
        set(table, "queue", "url", through);
        set(table, "queue", "heartbeat", "1s");
    });
    let worker = Daemon::start(config, "worker").await;
    worker.systemd.has_heard("building; ready").await;
    grid.publish(fake_event("b-1", SLOW)).await;
    grid.log_line("b-1", "attempt 1").await;
    for mode in [Mode::Frozen, Mode::Cut] {
        proxy.set(mode);
        worker.systemd.has_heard("STATUS=1 of 2 slots building; queue: ").await;
        worker.systemd.hears("WATCHDOG=1", 4).await;
    }
    proxy.set(Mode::Pass);
    grid.result("b-1", State::Published).await;
    worker.systemd.hears("building; ready", 1).await;
    assert!(!worker.log().contains("does not move"), "{}", worker.log());
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_worker_takes_nothing_until_it_is_resumed() {
    let grid = TestGrid::idle(|_| ()).await;
    let status = free_address().to_string();
    let config = written(&grid, |table| set(table, "worker", "status_listen", status.clone()));
    let command = |arguments: &[&str]| {
        let mut command = buildgrid(&config);
        command.arg("worker").args(arguments).env("SUDO_USER", "anna");
        command
    };
    let (code, errors) = ended(command(&["pause"]).output().unwrap());
    assert_eq!(code, 78, "{errors}");
    assert!(errors.contains("is no worker's data directory"), "{errors}");

    let worker = Daemon::start(config.clone(), "worker").await;
    grid.publish(fake_event("b-1", SLOW)).await;
    grid.log_line("b-1", "attempt 1").await;
    let said = output(&mut command(&["pause", "--reason", "disk swap"]));
    assert!(said.contains(&format!("worker (pid {}) is paused", worker.process.0.id())), "{said}");
    assert!(!said.contains("replaces"), "{said}");
    let reason = "paused by anna since 20";
    worker.systemd.has_heard(&format!("STATUS=1 of 2 slots building; pause: {reason}")).await;
    let (code, page) = ready_page(&status).await;
    assert_eq!(code, 503);
    assert!(page.contains(&format!("\npause: {reason}")), "{page}");
    assert!(page.contains(": disk swap; `buildgrid worker resume` ends it\n"), "{page}");
    let other = fake_event("b-2", QUICK).replace("9fceb02d", "00000000");
    grid.publish(other).await;
    grid.result("b-1", State::Published).await;
    until("no slot is subscribed", || {
        worker.systemd.heard().iter().rev().any(|heard| heard.starts_with("STATUS=0 of 2 slots"))
    })
    .await;
    let (_, page) = ready_page(&status).await;
    assert!(page.contains("\nslots: no slot is subscribed, because of: pause\n"), "{page}");
    assert!(!page.contains("intake"), "{page}");

    // Another's is not lost without a word, and the log has the newer one.
    let said = output(command(&["pause", "--reason", "kernel update"]).env("SUDO_USER", "berta"));
    assert!(said.contains("replaces an earlier pause: it was paused by anna since 20"), "{said}");
    assert!(said.ends_with(": disk swap"), "{said}");
    worker.says("takes no events still: paused by berta since 20").await;
    worker.says(": kernel update; `buildgrid worker resume` ends it").await;
    let checked = buildgrid(&config).arg("check").output().unwrap();
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("note  worker: paused by berta since 20"), "{checked}");
    let said = output(&mut command(&["pause", "--reason", "disk swap"]));
    assert!(said.contains("it was paused by berta since"), "{said}");
    worker.ends().await;

    // Through a restart.
    let worker = Daemon::start(config.clone(), "worker").await;
    worker.says("the worker takes no events: paused by anna").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!grid.build_directory("b-2").exists(), "nothing was taken");
    let said = output(&mut command(&["resume"]));
    assert!(said.contains("it was paused by anna since") && said.contains("disk swap"), "{said}");
    grid.result("b-2", State::Published).await;
    assert_eq!(ready_page(&status).await.0, 200);
    assert!(output(&mut command(&["resume"])).contains(") was not paused"));
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_beside_a_killed_worker_says_that_none_runs() {
    let grid = TestGrid::idle(|_| ()).await;
    let config = written(&grid, |_| ());
    let command = |action: &str| {
        let mut command = buildgrid(&config);
        command.args(["worker", action]).env("SUDO_USER", "anna");
        command
    };
    let mut worker = Daemon::start(config.clone(), "worker").await.process;
    worker.signal("-KILL");
    worker.exit_code().await;
    let data_dir = &grid.config.worker.data_dir;
    // As if its number had been given out again: to this process.
    std::fs::write(data_dir.join("lock"), std::process::id().to_string()).unwrap();
    let none = format!("no worker runs here ({})", data_dir.display());
    let said = output(&mut command("pause"));
    assert!(said.contains(&none) && said.contains("the next to start takes no events"), "{said}");
    let said = output(&mut command("resume"));
    assert!(said.contains(&none) && said.contains("the next to start takes events"), "{said}");
    let said = output(&mut command("resume"));
    assert!(said.contains(&none) && said.contains("was not paused"), "{said}");

    std::fs::create_dir(data_dir.join("paused")).unwrap();
    for action in ["pause", "resume"] {
        let (code, errors) = ended(command(action).output().unwrap());
        assert_ne!(code, 0);
        let sentence = format!("{}/paused is a directory, and ought to be the file", data_dir.display());
        assert!(errors.contains(&sentence), "{errors}");
    }
    std::fs::remove_dir(data_dir.join("paused")).unwrap();
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_look_into_the_directory_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = up_config(folder.path());
    let up = Daemon::start(config.clone(), "up").await;
    // The folder is closed to others, and what is named in the configuration is to be what they cannot enter.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&config, Permissions::from_mode(0o644)).unwrap();
    let data = folder.path().join("data");
    let ours = output(Command::new("id").arg("-un"));
    let us = output(Command::new("id").arg("-u"));
    let denied = format!("permission denied: {} belongs to {ours} ({us}), and this runs as ", data.display());
    let as_another = |arguments: &[&str], place: &[(&str, &str)]| {
        let mut command = as_root("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "env"]);
        command.args(place.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(env!("CARGO_BIN_EXE_buildgrid")).arg("--config").arg(&config).args(arguments);
        ended(command.output().unwrap())
    };
    let worker = data.join("worker");
    let worker = [("BUILDGRID_UP__DATA_DIR", ""), ("BUILDGRID_WORKER__DATA_DIR", worker.to_str().unwrap())];
    for (arguments, place) in [
        (&["worker", "pause"][..], &[][..]),
        (&["worker", "resume"], &[]),
        (&["worker", "pause"], &worker),
        (&["builds"], &[]),
        (&["enqueue", "--fake"], &[]),
    ] {
        let (code, errors) = as_another(arguments, place);
        assert_eq!(code, 78, "{arguments:?} {place:?}: {errors}");
        assert!(errors.contains(&denied) && errors.contains("(65534)"), "{arguments:?} {place:?}: {errors}");
    }
    up.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_what_can_change_while_it_runs() {
    let grid = TestGrid::idle(|_| ()).await;
    let worker = Daemon::start(written(&grid, |_| ()), "worker").await;
    // Not allowed yet.
    grid.publish(of("trial", &fake_event("early", QUICK))).await;
    grid.result("early", State::Rejected).await;
    assert!(grid.dead_letter().await.reason.contains("fake.namespaces"));

    // In the middle of a build, which keeps what it began with.
    grid.publish(fake_event("b-1", SLOW)).await;
    grid.log_line("b-1", "attempt 1").await;
    worker
        .reload(|table| {
            set(table, "fake", "namespaces", toml::Value::Array(vec!["trial".into()]));
            set(table, "worker", "slots", 3);
            set(table, "worker", "name", "another");
            set(table, "registry", "host", "images.example.com");
            set(table, "logging", "level", "debug");
        })
        .await;
    assert_eq!(worker.systemd.count("RELOADING=1"), 1);
    assert_eq!(worker.systemd.count("MONOTONIC_USEC="), 1);
    worker.says("logging.level from info to debug, registry.host from ").await;
    worker.says(" to images.example.com, worker.slots from 2 to 3").await;
    worker.says("worker.name from worker-1 to another").await;
    worker.systemd.has_heard("of 3 slots building; ready").await;
    grid.publish(of("trial", &fake_event("late", QUICK))).await;
    let late = grid.result("late", State::Published).await;
    assert!(late.image.unwrap().starts_with("images.example.com/trial/web"));
    assert_eq!(late.worker, "worker-1", "the name needs a restart");
    let first = grid.result("b-1", State::Published).await;
    assert!(first.image.unwrap().starts_with(&grid.config.registry.host), "it began before");
    grid.publish(fake_event("smoke", QUICK)).await;
    grid.result("smoke", State::Rejected).await;
    grid.dead_letter().await;

    // Down to one slot: the surplus ends, and the one works.
    worker.reload(|table| set(table, "worker", "slots", 1)).await;
    worker.systemd.has_heard("STATUS=0 of 1 slots building; ready").await;
    for id in ["one", "two", "three"] {
        grid.publish(of("trial", &fake_event(id, QUICK))).await;
        assert!(grid.result(id, State::Published).await.reused);
    }
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_named_by_its_lines_and_the_old_one_stays() {
    let grid = TestGrid::idle(|_| ()).await;
    let config = written(&grid, |_| ());
    let good = std::fs::read_to_string(&config).unwrap();
    let worker = Daemon::start(config, "worker").await;
    let bad = format!("[fake]\nnamespaces = []\n[publish]\ngzip_level = 99\n[sotre]\n{good}");
    worker.reload_text(&bad).await;
    for fault in [
        "worker-config.toml:4: publish.gzip_level: 99 is not a level",
        "worker-config.toml:5: section [sotre]",
    ] {
        worker.says(fault).await;
    }
    worker.says("the configuration was not reloaded; the old one stays in use").await;
    // Emptied, as by an editor that has no space left, and by an operator who has commented out everything.
    for (times, text) in ["", "# slots = 3\n[worker]\n"].into_iter().enumerate() {
        worker.reload_text(text).await;
        let refused = "was not reloaded: its file is empty or gone; the old one stays in use";
        until("the empty file is refused", || worker.log().matches(refused).count() == times + 1).await;
    }
    assert!(!worker.log().contains("changed="), "{}", worker.log());
    worker.reload_text("[fake\n").await;
    worker.says("worker-config.toml:1: ").await;
    grid.publish(fake_event("b-1", QUICK)).await;
    grid.result("b-1", State::Published).await;
    std::fs::remove_file(&worker.config).unwrap();
    worker.process.signal("-HUP");
    worker.says("cannot be read").await;
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_takes_as_long_as_the_newest_configuration_says() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut worker = Daemon::start(written(&grid, |_| ()), "worker").await;
    grid.publish(fake_event("b-1", r#"{"log_lines":1,"outcome":"hang"}"#)).await;
    grid.log_line("b-1", "attempt 1").await;
    worker.process.signal("-TERM");
    worker.systemd.has_heard("STOPPING=1").await;
    worker.reload(|table| set(table, "worker", "drain_timeout", "1s")).await;
    assert_eq!(worker.process.exit_code().await, Some(0));
    worker.says("after worker.drain_timeout").await;
    assert!(!grid.build_directory("b-1").join("outcome.json").exists());
    // Given back: another worker, which may not build it, ends it.
    let mut config: toml::Table = std::fs::read_to_string(&worker.config).unwrap().parse().unwrap();
    set(&mut config, "fake", "namespaces", toml::Value::Array(vec![]));
    std::fs::write(&worker.config, config.to_string()).unwrap();
    let worker = Daemon::start(worker.config.clone(), "worker").await;
    grid.result("b-1", State::Rejected).await;
    grid.dead_letter().await;
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_touches_no_build() {
    let grid = TestGrid::idle(|_| ()).await;
    let clock = Clock::right();
    let config = written(&grid, |table| set(table, "queue", "heartbeat", "1s"));
    let worker = Daemon::start_with(config, "worker", |command| clock.rules(command)).await;
    let event = fake_event("b-1", SLOW).replace("\"fake\"", "\"build\":{\"timeout_s\":600},\"fake\"");
    grid.publish(event).await;
    grid.log_line("b-1", "fake line 2 ").await;
    clock.set("+1h");
    grid.log_line("b-1", "fake line 12 ").await;
    clock.set("-1h");
    let published = grid.result("b-1", State::Published).await;
    assert!(published.finished_at < published.started_at, "its clock was set: {published:?}");
    assert_eq!(grid.results("b-1").len(), 2, "there was one attempt");
    // The connection has outlived it, and so has the watchdog.
    assert!(!worker.log().contains("not connected"), "{}", worker.log());
    worker.systemd.hears("WATCHDOG=1", 2).await;
    assert!(!worker.log().contains("does not move"), "{}", worker.log());
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_and_timeline_move_and_reload_as_well() {
    let grid = TestGrid::idle(|_| ()).await;
    let listen = free_address().to_string();
    let config = written(&grid, |table| {
        set(table, "registry", "listen", free_address().to_string());
        set(table, "registry", "status_listen", free_address().to_string());
        set(table, "timeline", "listen", listen);
        set(table, "timeline", "status_listen", free_address().to_string());
        let data = grid.config.worker.data_dir.with_file_name("timeline");
        set(table, "timeline", "data_dir", data.to_str().unwrap());
    });
    for name in ["registry", "timeline"] {
        let daemon = Daemon::start(config.clone(), name).await;
        daemon.systemd.hears("WATCHDOG=1", 2).await;
        daemon.systemd.has_heard("STATUS=ready").await;
        let level = format!("buildgrid=debug,{name}=info");
        daemon
            .reload(|table| {
                set(table, "logging", "level", level.as_str());
                set(table, name, "max_connections", 7 + name.len() as i64);
                set(table, "worker", "slots", 9 + name.len() as i64);
            })
            .await;
        daemon.says("logging.level").await;
        daemon.says(&format!("{name}.max_connections")).await;
        assert!(!daemon.log().contains("worker.slots"), "it is none of its own: {}", daemon.log());
        daemon.systemd.hears("WATCHDOG=1", 2).await;
        daemon.ends().await;
    }
    grid.finish().await;
}

/// A `buildgrid up` of the folder's configuration, which has ports and directories of its own.
fn up_config(folder: &Path) -> PathBuf {
    let config = folder.join("worker-config.toml");
    let text = format!(
        "[up]\ndata_dir = \"{}\"\n[engine]\nhost = \"none\"\n[registry]\nlisten = \"{}\"\n\
         [timeline]\nlisten = \"{}\"\n[worker]\nname = \"one\"\nstatus_listen = \"{}\"\n[disk]\nhigh = \"100%\"\nlow = \"99%\"\n[logging]\nformat = \"text\"\n",
        folder.join("data").display(),
        free_address(),
        free_address(),
        free_address()
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// Builds a fake by `buildgrid up`, which commands find by themselves; the exit code.
async fn built(config: &Path, namespace: &str) -> (i32, String) {
    let mut command = buildgrid(config);
    command.args(["enqueue", "--fake", "--namespace", namespace, "--log-lines", "1", "--wait"]);
    ended(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_is_paused_and_reloaded_like_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let config = up_config(folder.path());
    let up = Daemon::start(config.clone(), "up").await;
    let (code, errors) = built(&config, "trial").await;
    assert_eq!(code, 11, "{errors}");
    up.reload(|table| {
        set(table, "fake", "namespaces", toml::Value::Array(vec!["trial".into()]));
        set(table, "timeline", "max_connections", 17);
    })
    .await;
    up.says("fake.namespaces").await;
    up.says("timeline.max_connections").await;
    let (code, errors) = built(&config, "trial").await;
    assert_eq!(code, 0, "{errors}");

    // The registry's name changes with its address, and so not before the next start.
    up.reload(|table| {
        set(table, "registry", "host", "images.example.com");
        set(table, "registry", "listen", free_address().to_string());
    })
    .await;
    up.says("a restart").await;
    assert!(!up.log().contains("changed=\"registry.host"), "{}", up.log());

    output(buildgrid(&config).args(["worker", "pause"]));
    assert!(folder.path().join("data/worker/paused").exists());
    up.systemd.has_heard("pause: paused by").await;
    // Its worker is the only one: who enqueues there can be told.
    let (_, errors) =
        ended(buildgrid(&config).args(["enqueue", "--fake", "--namespace", "trial"]).output().unwrap());
    assert!(errors.contains("note: the worker is paused by "), "{errors}");
    output(buildgrid(&config).args(["worker", "resume"]));
    up.systemd.hears("building; ready", 1).await;
    let (_, errors) = built(&config, "trial").await;
    assert!(!errors.contains("note:"), "{errors}");
    up.ends().await;

    let checked = buildgrid(&config).arg("check").output().unwrap();
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.contains("note  timeline: it is part of `buildgrid up`, which does not run now"),
        "{checked}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn up_ends_with_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let config = up_config(folder.path());
    let program = format!("exec {} --config {} up", env!("CARGO_BIN_EXE_buildgrid"), config.display());
    // Its terminal is a pty that `script` holds, and that goes with it.
    let mut terminal = Command::new("script")
        .args(["--quiet", "--command", &program, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let announced = folder.path().join("data/up.json");
    until("it is up", || announced.exists()).await;
    let up: serde_json::Value = serde_json::from_slice(&std::fs::read(&announced).unwrap()).unwrap();
    let running = PathBuf::from(format!("/proc/{}", up["pid"]));
    // Reloaded, while the terminal is there.
    output(Command::new("kill").args(["-HUP", &up["pid"].to_string()]));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(announced.exists() && running.exists());
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    until("it has ended well", || !announced.exists() && !running.exists()).await;
}
