//! `buildgrid enqueue` and `buildgrid dead-letters`, as a person runs them.

use buildgrid::cli::exit::{Exit, Failure};
use buildgrid::cli::{dead_letters, enqueue};
use buildgrid::event::deploy::DeployEvent;
use buildgrid::event::result::{Kind, ResultEvent, State};
use buildgrid::queue::{Queue, QueueConfig};
use clap::Parser;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::address::free_address;
use crate::support::broker::{TestBroker, next};

#[derive(Parser)]
enum Program {
    Enqueue(Box<enqueue::Args>),
    DeadLetters(dead_letters::Args),
}

/// Runs a command line; answers what it ended with and what it printed.
async fn run(config: &QueueConfig, words: &[&str]) -> (Result<Exit, Failure>, String) {
    let mut out = Vec::new();
    let program = Program::try_parse_from(std::iter::once(&"buildgrid").chain(words)).unwrap();
    let ended = match program {
        Program::Enqueue(args) => enqueue::over_broker(*args, config, &mut out).await,
        Program::DeadLetters(args) => {
            dead_letters::execute(args, &Queue::amqp(config, "dead-letters"), &mut out).await
        }
    };
    (ended, String::from_utf8(out).unwrap())
}

/// Runs `dead-letters` on a queue; answers how it ended and what it printed.
pub async fn letters(queue: &Queue, words: &[&str]) -> (Exit, String) {
    let mut out = Vec::new();
    let words = ["buildgrid", "dead-letters"].iter().chain(words);
    let Program::DeadLetters(args) = Program::try_parse_from(words).unwrap() else { unreachable!() };
    let ended = dead_letters::execute(args, queue, &mut out).await;
    (code(&ended), String::from_utf8(out).unwrap())
}

fn code(ended: &Result<Exit, Failure>) -> Exit {
    match ended {
        Ok(exit) => *exit,
        Err(failure) => failure.exit,
    }
}

fn sentence(ended: Result<Exit, Failure>) -> String {
    format!("{:#}", ended.unwrap_err().error)
}

/// Answers every event with the results of `answer`.
async fn work(broker: Queue, events: usize, answer: impl Fn(&DeployEvent) -> Vec<ResultEvent>) {
    let mut subscription = broker.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    for _ in 0..events {
        let delivery = next(&mut subscription).await;
        let (event, _) = DeployEvent::parse(&delivery.body).unwrap();
        for result in answer(&event) {
            broker.publish_result(&result, &cancel).await.unwrap();
        }
        delivery.ack().await;
    }
}

#[tokio::test]
async fn a_file_is_sent_as_it_is_and_its_image_is_told() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let commit = "9fceb02d0ae598e95dc970b74767f19372d61af8";
    let body = format!(
        r#"{{"version": 1, "id": "e-1", "namespace": "acme", "app": "shop",  "repository": {{"url": "https://git.example.com/acme/storefront.git"}}, "commit": "{commit}"}}"#
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &body).unwrap();
    let path = file.path().to_str().unwrap();
    let (ended, printed) = run(&rabbit.config(), &["enqueue", path]).await;
    assert_eq!(code(&ended), Exit::Done);
    assert_eq!(printed, format!("e-1  acme/shop.storefront:{commit}\n"));
    let mut subscription = broker.subscribe().await.unwrap();
    assert_eq!(next(&mut subscription).await.body, body.as_bytes());
    let (_, json) = run(&rabbit.config(), &["enqueue", path, "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["id"], &json["image"]),
        (&"e-1".into(), &format!("acme/shop.storefront:{commit}").into())
    );
}

#[tokio::test]
async fn a_wrong_event_is_not_sent() {
    let words = [
        "enqueue",
        "--namespace",
        "acme",
        "--app",
        "shop",
        "--repository",
        "https://h/x",
        "--commit",
        "main",
    ];
    let (ended, printed) = run(&QueueConfig::default(), &words).await;
    assert_eq!((code(&ended), printed.as_str()), (Exit::Rejected, ""));
    let sentence = sentence(ended);
    assert!(sentence.contains("commit") && sentence.contains("40 hex digits"), "{sentence}");
}

#[tokio::test]
async fn waiting_ends_with_the_outcome_and_says_why() {
    let rabbit = TestBroker::start().await;
    let worker = tokio::spawn(work(rabbit.connect().await, 2, |event| {
        let started = ResultEvent::of(event, 1, State::Started, "worker-1");
        let failed = ResultEvent {
            kind: Some(Kind::Build),
            reason: Some("RUN make: exit code 2".to_owned()),
            step: Some("[2/4] RUN make".to_owned()),
            excerpt: vec!["cc: no input files".to_owned()],
            ..ResultEvent::of(event, 1, State::Failed, "worker-1")
        };
        let published = ResultEvent {
            image: Some(event.image().url("registry.example.com")),
            ..ResultEvent::of(event, 1, State::Published, "worker-1")
        };
        match event.id.as_str().ends_with('0') {
            true => vec![started.clone(), started, failed],
            false => vec![started, published],
        }
    }));
    let words = ["enqueue", "--fake", "--id", "e", "--count", "2", "--wait", "--wait-timeout", "40s"];
    let (ended, printed) = run(&rabbit.config(), &words).await;
    worker.await.unwrap();
    assert_eq!(code(&ended), Exit::BuildFailed, "{printed}");
    for line in [
        "e-0  started on worker-1, attempt 1\n",
        "e-0  failed: RUN make: exit code 2\n  in step [2/4] RUN make\n  | cc: no input files\n",
        "e-1  published  registry.example.com/smoke/smoke.fake:",
    ] {
        assert_eq!(printed.matches(line).count(), 1, "{line:?} in {printed}");
    }
}

#[tokio::test]
async fn without_a_worker_or_a_broker_it_says_so() {
    let rabbit = TestBroker::start().await;
    for wait in [&["enqueue", "--fake"][..], &["enqueue", "--fake", "--wait"]] {
        let (ended, printed) = run(&rabbit.config(), wait).await;
        assert_eq!((code(&ended), printed.as_str()), (Exit::Unavailable, ""));
        assert!(sentence(ended).contains("no worker has declared"));
    }
    let (ended, _) = run(&rabbit.config(), &["dead-letters", "list"]).await;
    assert_eq!(code(&ended), Exit::Unavailable);

    rabbit.connect().await;
    let words = ["enqueue", "--fake", "--wait", "--wait-timeout", "300ms"];
    let (ended, _) = run(&rabbit.config(), &words).await;
    assert_eq!(code(&ended), Exit::Unavailable);
    assert!(sentence(ended).contains("no outcome within 300ms"));

    let free = free_address();
    let url = format!("amqp://grid:hunter2@{free}/%2f").parse().unwrap();
    let away = QueueConfig { url, ..QueueConfig::default() };
    for words in [&["enqueue", "--fake"][..], &["dead-letters", "list"]] {
        let (ended, _) = run(&away, words).await;
        assert_eq!(code(&ended), Exit::Unavailable);
        let sentence = sentence(ended);
        assert!(sentence.contains(&free.to_string()) && !sentence.contains("hunter2"), "{sentence}");
    }
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_settled() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let config = rabbit.config();
    assert_eq!(run(&config, &["dead-letters", "list"]).await.1, "no dead letters\n");

    let mut subscription = broker.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    let body = "{\"id\": \"e-1\", \"namespace\": \"acme\", \"app\": \"shop\", \"x\": \"\u{202e}\"}";
    for (body, reason) in [(body, "missing field `commit`"), ("x", "not JSON")] {
        super::deploy(&broker, body).await;
        let delivery = next(&mut subscription).await;
        broker.dead_letter(&delivery, reason, &cancel).await.unwrap();
        delivery.ack().await;
    }
    let (_, listed) = run(&config, &["dead-letters", "list"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].starts_with("LETTER") && lines.len() == 3, "{listed}");
    assert!(lines[1].contains("acme/shop") && lines[1].ends_with("1  missing field `commit`"), "{listed}");
    let (_, json) = run(&config, &["dead-letters", "list", "--json"]).await;
    let letters: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&letters[0]["id"], &letters[1]["reason"]), (&"e-1".into(), &"not JSON".into()));

    let (_, shown) = run(&config, &["dead-letters", "show", "e-1"]).await;
    assert!(shown.contains("reason   missing field `commit`") && shown.contains("\\u{202e}"), "{shown}");
    assert_eq!(run(&config, &["dead-letters", "show", "e-1", "--body"]).await.1, body);
    let (ended, _) = run(&config, &["dead-letters", "show", "nobody"]).await;
    assert_eq!(code(&ended), Exit::Usage);

    let (ended, done) = run(&config, &["dead-letters", "requeue", "e-1"]).await;
    assert_eq!(code(&ended), Exit::Done);
    assert!(done.starts_with("requeued ") && done.ends_with("event e-1\n"), "{done}");
    assert_eq!(next(&mut subscription).await.body, body.as_bytes());
    let name = letters[1]["name"].as_str().unwrap();
    let (_, done) = run(&config, &["dead-letters", "drop", "--all", "--yes"]).await;
    assert_eq!(done, format!("dropped {name}  event -\n"));
    assert_eq!(run(&config, &["dead-letters", "list"]).await.1, "no dead letters\n");
    assert!(Program::try_parse_from(["buildgrid", "dead-letters", "drop", "--all"]).is_err());
}
