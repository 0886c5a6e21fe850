//! The commands that look at builds and steer them, against the real timeline service.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use buildgrid::cli::exit::{Exit, Failure};
use buildgrid::cli::progress::{Progress, Style};
use buildgrid::cli::{builds, cancel, enqueue, logs, rebuild};
use buildgrid::event::result::State;
use buildgrid::queue::QueueConfig;
use buildgrid::timeline::TimelineConfig;
use buildgrid::timeline::client::TimelineClient;
use buildgrid::timeline::entry::Stream;
use buildgrid::timeline::protocol::AttemptState;
use clap::Parser;
use serde_json::Value;

use crate::support::address::free_address;
use crate::support::broker::{TestBroker, next};
use crate::support::patience::{in_time, until};
use crate::support::played::PlayedAttempt;
use crate::support::proxy::{Mode, Proxy};
use crate::support::timeline::TestTimeline;

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";
const MAKE: Option<&str> = Some("[2/2] RUN make");

#[derive(Parser)]
enum Program {
    Builds(builds::Args),
    Logs(Box<logs::Args>),
    Cancel(cancel::Args),
    Rebuild(rebuild::Args),
    Enqueue(Box<enqueue::Args>),
}

/// A place to write to that a test can look at meanwhile.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How a command ended, what it gave to scripts, and what it showed to people.
struct Ran {
    ended: Result<Exit, Failure>,
    out: String,
    shown: String,
}

impl Ran {
    fn code(&self) -> Exit {
        self.ended.as_ref().map_or_else(|failure| failure.exit, |exit| *exit)
    }

    fn sentence(&self) -> String {
        format!("{:#}", self.ended.as_ref().unwrap_err().error)
    }
}

async fn run(client: &TimelineClient, words: &str) -> Ran {
    // Boxed: commands are large futures, and a test joins them with others.
    Box::pin(run_showing(client, words, Written::default())).await
}

async fn run_showing(client: &TimelineClient, words: &str, shown: Written) -> Ran {
    let mut out = Vec::new();
    let mut progress = Progress::new(Style::default(), Box::new(shown.clone()));
    let program = Program::parse_from(std::iter::once("buildgrid").chain(words.split_whitespace()));
    let ended = match program {
        Program::Builds(args) => builds::execute(args, client, &mut out).await,
        Program::Logs(args) => logs::execute(*args, client, &mut out, &mut progress).await,
        Program::Cancel(args) => cancel::execute(args, client, &mut out).await,
        Program::Rebuild(args) => rebuild::execute(args, client, &mut out, &mut progress).await,
        Program::Enqueue(args) => {
            enqueue::over_service::execute(*args, client, &mut out, &mut progress).await
        }
    };
    Ran { ended, out: String::from_utf8(out).unwrap(), shown: shown.text() }
}

fn event(id: &str, app: &str) -> String {
    format!(
        r#"{{"version": 1, "id": "{id}", "namespace": "acme", "app": "{app}", "services": ["web"],
        "repository": {{"url": "https://git.example.com/acme/storefront.git"}}, "commit": "{COMMIT}",
        "ref": "refs/heads/main", "deploy_id": "d-{id}"}}"#
    )
}

#[tokio::test]
async fn builds_are_listed_filtered_and_paged() {
    let timeline = TestTimeline::start(&QueueConfig::default()).await;
    let (worker, client) = (timeline.client("worker"), timeline.client("viewer"));
    assert_eq!(run(&client, "builds").await.out, "no builds\n");
    PlayedAttempt::claim(&worker, &event("b-1", "shop")).await.ends(State::Published, None).await;
    PlayedAttempt::claim(&worker, &event("b-2", "shop")).await.ends(State::Failed, Some("exit 2")).await;
    PlayedAttempt::claim(&worker, &event("b-3", "blog")).await;

    let table = run(&client, "builds").await.out;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID") && lines.len() == 4, "{table}");
    assert!(lines[1].starts_with("b-3  acme/blog  claimed"), "{table}");
    assert!(lines[2].starts_with("b-2  acme/shop  failed     9fceb02d0a  main"), "{table}");
    assert!(lines[2].ends_with("exit 2"), "{table}");
    assert!(lines[3].ends_with(&format!("registry.example.com/acme/shop.storefront:{COMMIT}")), "{table}");

    for (filter, ids) in [
        ("--app acme/shop", vec!["b-2", "b-1"]),
        ("--namespace acme --app blog", vec!["b-3"]),
        ("--app acme/shop --service web --limit 2", vec!["b-2", "b-1"]),
        ("--state failed", vec!["b-2"]),
        ("--deploy d-b-1", vec!["b-1"]),
        ("--commit 9fce --ref main --limit 1000", vec!["b-3", "b-2", "b-1"]),
        ("--commit 0000", vec![]),
    ] {
        let json = run(&client, &format!("builds --json {filter}")).await.out;
        let listed: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let listed: Vec<&str> = listed.iter().map(|build| build["id"].as_str().unwrap()).collect();
        assert_eq!(listed, ids, "{filter}");
    }
    let wrong = run(&client, "builds --commit main").await;
    assert!(wrong.code() == Exit::Usage && wrong.sentence().contains("4 to 40 of 0-9"));
    timeline.finish().await;
}

#[tokio::test]
async fn a_log_is_read_filtered_and_its_outcome_is_only_who_follows_it() {
    let timeline = TestTimeline::start(&QueueConfig::default()).await;
    let (worker, client) = (timeline.client("worker"), timeline.client("viewer"));
    let mut build = PlayedAttempt::claim(&worker, &event("b-1", "shop")).await;
    build.says(Stream::Status, None, "fetching").await;
    build.says(Stream::Status, MAKE, "started").await;
    build.says(Stream::Stdout, MAKE, "cc -o shop").await;
    build.says(Stream::Stderr, MAKE, "Error \u{1b}[2J").await;
    build.says(Stream::Status, MAKE, "failed after 0.1 s: exit code 2").await;
    build.ends(State::Failed, Some("exit code 2")).await;

    let whole = "==> fetching\n[2/2] RUN make\n    cc -o shop\n    Error \\u{1b}[2J\n    failed after 0.1 s: exit code 2\n";
    let read = run(&client, "logs b-1").await;
    assert_eq!((read.code(), read.shown.as_str(), read.out.as_str()), (Exit::Done, whole, ""));
    let followed = run(&client, "logs b-1 -f").await;
    assert_eq!((followed.code(), followed.shown.as_str()), (Exit::BuildFailed, whole));
    for (filter, seqs) in [
        ("-q ERROR", vec![3]),
        ("--stream stderr", vec![3]),
        ("--stream status --after 0", vec![1, 4]),
        ("--server worker-1 --service web --follow", vec![0, 1, 2, 3, 4]),
        ("--pod web-7f", vec![]),
    ] {
        let json = run(&client, &format!("logs b-1 --json {filter}")).await.out;
        let entries: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let read: Vec<u64> = entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
        assert_eq!(read, seqs, "{filter}");
    }
    let unknown = run(&client, "logs b-2").await;
    assert!(unknown.code() == Exit::Usage && unknown.sentence().contains("there is no build b-2"));
    assert_eq!(run(&client, "logs b-2 -f").await.code(), Exit::Usage);
    timeline.finish().await;
}

#[tokio::test]
async fn a_live_log_is_followed_over_lost_connections_without_a_gap() {
    let timeline = TestTimeline::start(&QueueConfig::default()).await;
    let worker = timeline.client("worker");
    let proxy = Proxy::start(timeline.address.to_string()).await;
    let config = timeline.config_at(&proxy.address().to_string(), "viewer");
    let client = TimelineClient::new(&config).unwrap().unwrap();
    let mut build = PlayedAttempt::claim(&worker, &event("b-1", "shop")).await;
    build.enters(AttemptState::Building).await;
    build.says(Stream::Stdout, MAKE, "line 0").await;

    let shown = Written::default();
    let follower = tokio::spawn({
        let (client, shown) = (client.clone(), shown.clone());
        async move { run_showing(&client, "logs b-1 --follow", shown).await }
    });
    for round in 1..=3 {
        let last = format!("line {}\n", round - 1);
        until("the last line is shown", || shown.text().contains(&last)).await;
        proxy.set(Mode::Cut);
        build.says(Stream::Stdout, MAKE, &format!("line {round}")).await;
        if round == 2 {
            until("the loss is told", || shown.text().contains("trying again")).await;
        }
        proxy.set(Mode::Pass);
    }
    build.ends(State::Published, None).await;
    let ran = in_time("the log ends", follower).await.unwrap();
    assert_eq!(ran.code(), Exit::Done);
    let lines: Vec<&str> = ran.shown.lines().filter(|line| line.starts_with("    line ")).collect();
    assert_eq!(lines, ["    line 0", "    line 1", "    line 2", "    line 3"], "{}", ran.shown);
    assert_eq!(ran.shown.matches("is there again").count(), 1, "{}", ran.shown);
    timeline.finish().await;
}

#[tokio::test]
async fn a_build_is_cancelled_in_the_queue_and_while_it_runs() {
    let timeline = TestTimeline::start(&QueueConfig::default()).await;
    let (worker, client) = (timeline.client("worker"), timeline.client("member"));
    let mut build = PlayedAttempt::claim(&worker, &event("b-1", "shop")).await;
    let asked = run(&client, "cancel b-1").await;
    assert_eq!((asked.code(), asked.out.as_str()), (Exit::Done, "b-1  claimed, to be cancelled\n"));
    assert!(build.says(Stream::Stdout, MAKE, "x").await, "the worker is told");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { run(&client, "cancel b-1 --wait").await }
    });
    build.ends(State::Cancelled, None).await;
    let waited = in_time("the build is cancelled", waiting).await.unwrap();
    assert_eq!(waited.code(), Exit::Done);
    assert!(waited.out.ends_with("b-1  cancelled\n"), "{}", waited.out);

    PlayedAttempt::claim(&worker, &event("b-2", "shop")).await.ends(State::Published, None).await;
    let late = run(&client, "cancel b-2").await;
    assert_eq!(late.code(), Exit::Usage);
    assert!(late.sentence().contains("it is published"), "{}", late.sentence());
    // Neither an unknown id nor a shortened one.
    for words in ["cancel b-3", "cancel b", "rebuild b", "logs b", "logs b -f"] {
        let unknown = run(&client, words).await;
        assert_eq!(unknown.code(), Exit::Usage, "{words}");
        assert!(unknown.sentence().contains("named by its whole id"), "{words}: {}", unknown.sentence());
    }

    let viewer = run(&timeline.client("viewer"), "cancel b-2").await;
    assert_eq!(viewer.code(), Exit::Configuration);
    assert!(viewer.sentence().contains("this login may not"), "{}", viewer.sentence());
    timeline.finish().await;
}

#[tokio::test]
async fn an_event_is_enqueued_followed_waited_for_and_built_again() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let timeline = TestTimeline::start(&rabbit.config()).await;
    let (worker, client) = (timeline.client("worker"), timeline.client("member"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), event("b-1", "shop")).unwrap();
    let path = file.path().to_str().unwrap();
    let image = format!("registry.example.com/acme/shop.storefront:{COMMIT}");
    let mut subscription = broker.subscribe().await.unwrap();
    let mut delivered = async || {
        let delivery = next(&mut subscription).await;
        let body = String::from_utf8(delivery.body.to_vec()).unwrap();
        delivery.ack().await;
        body
    };

    let follow = format!("enqueue {path} --follow");
    let publish = async {
        let mut build = PlayedAttempt::claim(&worker, &delivered().await).await;
        build.says(Stream::Stdout, MAKE, "cc").await;
        build.ends(State::Published, None).await;
    };
    let (ran, ()) = in_time("it is published", futures::future::join(run(&client, &follow), publish)).await;
    assert_eq!((ran.code(), ran.out), (Exit::Done, format!("{image}\n")));
    assert!(ran.shown.starts_with("==> build b-1 of acme/shop.storefront:"), "{}", ran.shown);
    assert!(ran.shown.ends_with("[2/2] RUN make\n    cc\n"), "{}", ran.shown);

    let fail = async {
        PlayedAttempt::claim(&worker, &delivered().await).await.ends(State::Failed, Some("exit 2")).await;
    };
    let (ran, ()) =
        in_time("it fails", futures::future::join(run(&client, "rebuild b-1 --follow"), fail)).await;
    assert_eq!((ran.code(), ran.out.as_str()), (Exit::BuildFailed, ""));
    let end = "\n\n[2/2] RUN make\n    cc: no input files\nerror: exit 2\n";
    assert!(ran.shown.ends_with(end) && ran.shown.contains("the whole log: http://"), "{}", ran.shown);

    let fakes = "enqueue --fake --id f --count 2 --wait --wait-timeout 40s";
    let both = async {
        for _ in 0..2 {
            let body = delivered().await;
            let build = PlayedAttempt::claim(&worker, &body).await;
            match build.id().as_str() {
                "f-0" => build.ends(State::Cancelled, None).await,
                _ => build.ends(State::Published, None).await,
            }
        }
    };
    let (ran, ()) = in_time("both end", futures::future::join(run(&client, fakes), both)).await;
    assert_eq!(ran.code(), Exit::Cancelled, "{}", ran.out);
    assert!(ran.out.contains("f-0  cancelled\n"), "{}", ran.out);
    assert!(ran.out.contains("f-1  published  registry.example.com/smoke/smoke.fake:"), "{}", ran.out);

    std::fs::write(file.path(), event("b-1", "other")).unwrap();
    let conflict = run(&client, &format!("enqueue {path}")).await;
    assert_eq!(conflict.code(), Exit::Rejected);
    assert!(conflict.sentence().contains("b-1 belongs to another event"), "{}", conflict.sentence());
    let many = run(&client, "enqueue --fake --count 2 --follow").await;
    assert!(many.code() == Exit::Usage && many.sentence().contains("--wait"));
    timeline.finish().await;
    broker.close().await;
}

#[tokio::test]
async fn a_service_that_is_away_or_knows_no_token_is_told_apart() {
    let free = free_address();
    let away = TimelineConfig { url: format!("http://{free}"), ..TimelineConfig::default() };
    let away = TimelineClient::new(&away).unwrap().unwrap();
    for words in ["builds", "logs b-1", "logs b-1 -f", "cancel b-1", "enqueue --fake", "rebuild b-1"] {
        let ran = run(&away, words).await;
        assert_eq!(ran.code(), Exit::Unavailable, "{words}");
        assert!(ran.sentence().contains(&free.to_string()), "{words}: {}", ran.sentence());
    }
    let timeline = TestTimeline::start(&QueueConfig::default()).await;
    let config = timeline.config_at(&timeline.address.to_string(), "viewer");
    std::fs::write(config.token_file.as_ref().unwrap(), "bgt_wrong").unwrap();
    let ran = run(&TimelineClient::new(&config).unwrap().unwrap(), "builds").await;
    assert_eq!(ran.code(), Exit::Configuration);
    assert!(ran.sentence().contains("buildgrid token add"), "{}", ran.sentence());
    timeline.finish().await;
}

/// The program itself: where it finds the service, and what goes to which output.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_finds_the_service_and_makes_logins_beside_it() {
    let timeline = TestTimeline::start(&QueueConfig::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let (path, token) = (folder.path().join("worker-config.toml"), folder.path().join("token"));
    let text = format!(
        "[timeline]\nurl = \"http://{}\"\ntoken_file = \"{}\"\ndata_dir = \"{}\"\n[up]\ndata_dir = \"{}\"\n",
        timeline.address,
        token.display(),
        timeline.data().display(),
        folder.path().display()
    );
    std::fs::write(&path, text).unwrap();
    let program = |words: &str, input: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_buildgrid"));
        command.arg("--config").arg(&path).args(words.split_whitespace());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| {
            name.as_encoded_bytes().starts_with(b"BUILDGRID_") || name.as_encoded_bytes().ends_with(b"_COLOR")
        }) {
            command.env_remove(name);
        }
        let input = input.to_owned();
        let run = move || {
            let mut child = command.spawn().unwrap();
            // One that asks for nothing may have ended.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            let done = child.wait_with_output().unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
        };
        async { in_time("the program ends", tokio::task::spawn_blocking(run)).await.unwrap() }
    };

    let (code, _, error) = program("builds", "").await;
    assert!(code == 78 && error.contains("timeline.token_file"), "{error}");
    let (code, made, error) = program("token add me --role member --all-namespaces --quiet", "").await;
    assert_eq!(code, 0, "{error}");
    std::fs::write(&token, made).unwrap();
    assert_eq!(program("builds", "").await, (0, "no builds\n".to_owned(), String::new()));

    let (code, _, error) = program("user add anna --namespace acme", "short\n").await;
    assert!(code == 2 && error.contains("at least 10"), "{error}");
    let (code, _, error) = program("user add anna --namespace acme", "correct horse\n").await;
    assert_eq!(code, 0, "{error}");
    let (_, listed, _) = program("user list --json", "").await;
    assert!(listed.contains("\"anna\"") && !listed.contains("argon2"), "{listed}");

    let worker = timeline.client("worker");
    let mut build = PlayedAttempt::claim(&worker, &event("b-1", "shop")).await;
    build.says(Stream::Stdout, MAKE, "\u{1b}[31mred").await;
    build.ends(State::Failed, Some("exit 2")).await;
    let log = "[2/2] RUN make\n    \\u{1b}[31mred\n".to_owned();
    assert_eq!(program("logs b-1 -f", "").await, (10, log, String::new()));

    assert_eq!(program("token remove me", "").await.0, 0);
    let (code, _, error) = program("builds", "").await;
    assert!(code == 78 && error.contains("buildgrid token add"), "{error}");
    std::fs::write(&path, format!("[up]\ndata_dir = \"{}\"\n", folder.path().display())).unwrap();
    let (code, _, error) = program("logs b-1", "").await;
    assert!(code == 69 && error.contains("timeline.url") && error.contains("buildgrid up"), "{error}");
    timeline.finish().await;
}
