//! `buildgrid up`: everything in one process, from its first start through a crash.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use buildgrid::store::{Store, StoreConfig};
use buildgrid::timeline::protocol::{BuildDetail, BuildState};
use reqwest::Method;
use secrecy::ExposeSecret;

use super::ended;
use crate::support::address::free_address;
use crate::support::disk::{SmallDisk, age};
use crate::support::grid::fake_event;
use crate::support::patience::in_time;
use crate::support::tls::Authority;
use crate::support::up::Machine;

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_what_the_next_ones_use() {
    let machine = Machine::new();
    let mut up = machine.start().await;
    assert!(up.said().contains("A login for the pages was made: admin, password "), "{}", up.said());
    let data = machine.data_dir();
    for folder in ["", "tokens", "queue", "timeline", "worker"] {
        assert_eq!(mode(&data.join(folder)), 0o700, "{folder}");
    }
    for file in ["up.json", "tokens/worker.token", "tokens/local.token", "timeline/timeline.db"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let fake = r#"{"log_lines":10,"layers":1,"layer_bytes":100}"#;
    up.enqueue(fake_event("b-1", fake)).await;
    let build = up.published("b-1").await.build;
    assert_eq!(build.image.unwrap(), format!("{}/smoke/web.fake:{COMMIT}", machine.registry));
    let pull = {
        let store = Store::open(&StoreConfig::at(data.join("store"))).unwrap();
        let login = store.add_credential(["smoke".parse().unwrap()].into()).await.unwrap();
        let url = format!("http://{}/v2/smoke/web.fake/manifests/{COMMIT}", machine.registry);
        let (user, password) = (login.credential.user.to_string(), login.password.expose_secret().to_owned());
        move || reqwest::Client::new().get(&url).basic_auth(&user, Some(&password)).send()
    };
    // The registry reads logins anew every few seconds.
    let manifest = in_time("the login is known", async {
        loop {
            let answer = pull().await.unwrap();
            if answer.status().is_success() {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    })
    .await;
    assert_eq!(manifest.headers()["docker-content-digest"], build.digest.unwrap().to_string());

    // A second one on the same directory, with ports of its own.
    let port = free_address().to_string();
    let (code, errors) = ended(machine.refused(("BUILDGRID_REGISTRY__LISTEN", &port)));
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("in use") && errors.contains("data"), "{errors}");

    assert_eq!(up.end("-TERM").await, Some(0));
    assert!(!data.join("up.json").exists());
    let tokens = std::fs::read(data.join("tokens/worker.token")).unwrap();
    let mut up = machine.start().await;
    let way = format!(
        "for a new password: BUILDGRID_UP__DATA_DIR={} buildgrid user password admin",
        data.canonicalize().unwrap().display()
    );
    assert!(up.said().contains(&way) && !up.said().contains("admin, password"), "{}", up.said());
    assert_eq!(std::fs::read(data.join("tokens/worker.token")).unwrap(), tokens);
    up.published("b-1").await;
    assert!(pull().await.unwrap().status().is_success());
    assert_eq!(up.end("-TERM").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_crash_nor_an_end_loses_a_build() {
    let machine = Machine::new();
    let mut up = machine.start().await;
    let slow = r#"{"log_lines":30,"line_interval_ms":100}"#;
    let heard = |build: &BuildDetail| build.attempts.first().is_some_and(|first| first.entries > 3);
    up.enqueue(fake_event("b-1", slow)).await;
    up.until("b-1", heard).await;
    assert_eq!(up.end("-KILL").await, None);
    let mut up = machine.start().await;
    let build = up.published("b-1").await;
    let [first, second] = build.attempts.as_slice() else { panic!("{build:#?}") };
    assert!(first.entries > 3 && first.fenced && second.complete, "{build:#?}");

    up.enqueue(fake_event("b-2", slow).replace(COMMIT, &COMMIT.replace('9', "8"))).await;
    up.until("b-2", heard).await;
    assert_eq!(up.end("-TERM").await, Some(0));
    let mut up = machine.start().await;
    let build = up.published("b-2").await;
    assert!(build.attempts.len() == 1 && build.attempts[0].complete, "it was drained: {build:#?}");
    assert_eq!(up.end("-TERM").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_a_serial_app_wait_for_each_other_here_too() {
    let machine = Machine::new();
    let config = machine.folder.path().join("worker-config.toml");
    let policy = "\n[policy]\nbuilds = { \"smoke/web\" = \"serial\" }\n";
    std::fs::OpenOptions::new().append(true).open(&config).unwrap().write_all(policy.as_bytes()).unwrap();
    let mut up = machine.start().await;
    up.enqueue(fake_event("b-1", r#"{"log_lines":1,"outcome":"hang"}"#)).await;
    up.until("b-1", |build| build.build.state == BuildState::Building).await;
    up.enqueue(fake_event("b-2", r#"{"log_lines":1,"layers":1,"layer_bytes":10}"#)).await;
    let waits = up.until("b-2", |build| build.build.waiting.is_some()).await.build;
    let reason = "build b-1 of the same app is running (policy serial)";
    assert_eq!((waits.state, waits.waiting.as_deref()), (BuildState::Queued, Some(reason)));
    let listed = machine.command_of("builds").output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(&format!("waiting: {reason}")), "{listed}");
    let cancelled = machine.command_of("cancel").args(["b-1", "--wait"]).output().unwrap();
    assert_eq!(cancelled.status.code(), Some(0), "{cancelled:?}");
    up.published("b-2").await;
    assert_eq!(up.end("-TERM").await, Some(0));
}

#[test]
fn a_port_in_use_changes_nothing() {
    let machine = Machine::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (variable, key) in [
        ("BUILDGRID_TIMELINE__LISTEN", "timeline.listen"),
        ("BUILDGRID_REGISTRY__LISTEN", "registry.listen"),
        ("BUILDGRID_WORKER__STATUS_LISTEN", "worker.status_listen"),
    ] {
        let (code, errors) = ended(machine.refused((variable, &address)));
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains(key) && errors.contains(&address), "{errors}");
        assert!(!machine.data_dir().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_fails_late_has_shown_the_password() {
    let machine = Machine::new();
    // What the worker cannot use, after the timeline was made.
    let in_the_way = machine.data_dir().join("worker");
    std::fs::DirBuilder::new().mode(0o700).create(machine.data_dir()).unwrap();
    std::fs::write(&in_the_way, "").unwrap();
    let refused = machine.refused(("BUILDGRID_LOGGING__LEVEL", "info"));
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    let (code, errors) = ended(refused);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains(in_the_way.to_str().unwrap()), "{errors}");
    let password = said.split("admin, password ").nth(1).unwrap_or_else(|| panic!("{said}"));
    let password = password.split_whitespace().next().unwrap();
    assert!(!errors.contains(password), "the log has it");

    std::fs::remove_file(&in_the_way).unwrap();
    let mut up = machine.start().await;
    assert!(!up.said().contains("A login for the pages was made"), "{}", up.said());
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let sign_in = browser
        .post(format!("{}/sign-in", up.announcement.url))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("user=admin&password={password}&next=/"))
        .send();
    assert_eq!(in_time("the sign-in", sign_in).await.unwrap().status().as_u16(), 303);
    assert_eq!(up.end("-TERM").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_cleared_at_the_start_and_waited_for_later() {
    let machine = Machine::new();
    let disk = SmallDisk::mount("64m");
    std::fs::create_dir(disk.path().join("data")).unwrap();
    std::os::unix::fs::symlink(disk.path().join("data"), machine.data_dir()).unwrap();
    let mut up = machine.start().await;
    up.enqueue(fake_event("b-1", "{}")).await;
    up.published("b-1").await;
    assert_eq!(up.end("-TERM").await, Some(0));

    disk.fill_to(100);
    let (code, errors) = ended(machine.command().output().unwrap());
    assert_eq!(code, 1, "{errors}");
    let sentence = format!("error: the disk of {}/data is full; free space there", disk.path().display());
    assert!(errors.contains(&sentence), "{errors}");

    // What a crash has left is found before anything needs space.
    disk.clear();
    let stale = machine.data_dir().join("store/buildgrid/tmp/stale");
    std::fs::write(&stale, vec![7; 20 << 20]).unwrap();
    age(&stale, std::time::Duration::from_secs(7200));
    disk.fill_to(100);
    let mut up = machine.start().await;
    assert!(!stale.exists());

    disk.fill_to(100);
    let page = format!("http://{}/readyz", up.announcement.status);
    let ready = async || reqwest::get(&page).await.unwrap().text().await.unwrap();
    in_time("readiness says it", async {
        while !ready().await.contains("(worker.data_dir) is 100 % full") {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    in_time("no slot is subscribed, which is the disk's fault", async {
        while !ready().await.contains("\nslots: no slot is subscribed, because of: disk\n") {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(ready().await.contains("; the marks are disk.high and disk.low"), "{}", ready().await);
    assert!(!ready().await.contains("intake: ok"), "{}", ready().await);
    assert_eq!(ready().await.matches(" is 100 % full").count(), 1, "all of it is on one disk");
    let event = fake_event("b-2", "{}").replace(COMMIT, &COMMIT.replace('9', "8"));
    assert!(up.call(Method::POST, "builds", event.clone()).await.status().is_server_error());
    disk.clear();
    up.enqueue(event).await;
    up.published("b-2").await;
    assert_eq!(up.end("-TERM").await, Some(0));
}

/// The worker in it and commands beside it reach the service by its certificate's name, whose authority they are told.
#[tokio::test(flavor = "multi_thread")]
async fn with_certificates_all_of_it_speaks_tls() {
    let (machine, authority) = (Machine::new(), Authority::new());
    let tls = authority.issue(&["localhost"]).written_to(machine.folder.path());
    let (timeline, registry) = (free_address(), machine.registry.replace("127.0.0.1", "localhost"));
    let table = format!("tls = {{ certificate = {:?}, key = {:?} }}", tls.certificate, tls.key);
    let config = machine.folder.path().join("worker-config.toml");
    let mut text = std::fs::read_to_string(&config).unwrap();
    text += &format!(
        "[network]\nca_file = {:?}\n[registry]\n{table}\n[timeline]\nurl = \"https://localhost:{}\"\n{table}\n",
        authority.certificate(),
        timeline.port()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = machine.command();
    command
        .env("BUILDGRID_TIMELINE__LISTEN", timeline.to_string())
        .env("BUILDGRID_REGISTRY__HOST", &registry);
    let mut up = machine.start_as(command).await;
    assert!(up.said().contains("https://localhost:"), "{}", up.said());
    let mut enqueue = machine.command_of("enqueue");
    enqueue.args(["--fake", "--log-lines", "5", "--follow"]);
    let output = tokio::task::spawn_blocking(move || enqueue.output().unwrap()).await.unwrap();
    let (image, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("fake line 5"), "followed to its end: {log}");

    let trusted = reqwest::Certificate::from_pem(&std::fs::read(authority.certificate()).unwrap()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_merge([trusted]).build().unwrap();
    let (name, tag) = image.trim().rsplit_once(':').unwrap();
    let name = name.strip_prefix(&format!("{registry}/")).unwrap();
    let answer = client.get(format!("https://{registry}/v2/{name}/manifests/{tag}")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    let ready = reqwest::get(format!("http://{}/readyz", up.announcement.status)).await.unwrap();
    let ready = ready.text().await.unwrap();
    assert!(ready.contains("registry.tls: ok\n") && ready.contains("timeline.tls: ok\n"), "{ready}");
    assert_eq!(up.end("-TERM").await, Some(0));
}
