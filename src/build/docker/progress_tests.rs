//! Builds recorded from a Docker engine 20.10, and what the log makes of them.

use super::*;
use bollard::models::{BuildInfo, BuildInfoAux};

fn messages(recorded: &str) -> impl Iterator<Item = StatusResponse> {
    recorded.lines().filter_map(|line| match serde_json::from_str::<BuildInfo>(line).unwrap().aux {
        Some(BuildInfoAux::BuildKit(status)) => Some(status),
        _ => None,
    })
}

/// The log as text, and what is known at the end.
fn log(recorded: &str) -> (Vec<String>, Progress) {
    let mut progress = Progress::default();
    let mut entries: Vec<Entry> = messages(recorded).flat_map(|status| progress.update(status)).collect();
    entries.extend(progress.finish());
    (text(entries), progress)
}

fn text(entries: Vec<Entry>) -> Vec<String> {
    let line = |entry: Entry| {
        let stream = match entry.stream {
            Stream::Stdout => "out",
            Stream::Stderr => "err",
            Stream::Status => "***",
        };
        format!("{} {stream} {}", entry.step.as_deref().unwrap_or("-"), entry.text)
    };
    entries.into_iter().map(line).collect()
}

/// A step that has started.
fn vertex(name: &str) -> Vertex {
    let started = Some(Default::default());
    Vertex { digest: name.to_owned(), name: name.to_owned(), started, ..Vertex::default() }
}

fn output(step: &str, stream: i64, msg: &[u8]) -> StatusResponse {
    let log = VertexLog { vertex: step.to_owned(), timestamp: None, stream, msg: msg.to_vec() };
    StatusResponse { logs: vec![log], ..StatusResponse::default() }
}

fn started(names: &[&str]) -> Progress {
    let mut progress = Progress::default();
    let vertexes = names.iter().map(|name| vertex(name)).collect();
    progress.update(StatusResponse { vertexes, ..StatusResponse::default() });
    progress
}

#[test]
fn a_build_reads_like_its_dockerfile() {
    let (lines, progress) = log(include_str!("recorded/built.ndjson"));
    let one = "[2/3] RUN echo hello; echo oops >&2; printf 'partial'";
    let two = "[3/3] RUN for i in 1 2 3; do printf \"$i%%\\r\"; sleep 0.2; done; echo done";
    assert_eq!(lines.len(), 11, "{lines:#?}");
    assert!(lines[0].starts_with("[1/3] FROM docker.io/buildgrid-test/busybox:latest *** "));
    assert_eq!(lines[1], format!("{one} *** started"));
    assert_eq!(lines[2], format!("{one} err oops"));
    assert_eq!(lines[3], format!("{one} out hello"));
    assert_eq!(lines[4], format!("{one} out partial"));
    assert!(lines[5].starts_with(&format!("{one} *** done in 0.")), "{}", lines[5]);
    assert_eq!(lines[6], format!("{two} *** started"));
    assert_eq!(lines[7], format!("{two} out done"));
    assert!(lines[8].starts_with(&format!("{two} *** done in ")));
    assert_eq!(lines[9], "exporting to image *** started");
    assert!(lines[10].starts_with("exporting to image *** done in "));
    assert_eq!(progress.failed("anything"), None);
}

#[test]
fn cached_steps_take_one_line_each() {
    let (lines, _) = log(include_str!("recorded/cached.ndjson"));
    let cached: Vec<_> = lines.iter().filter(|line| line.ends_with(" *** cached")).collect();
    assert_eq!(cached.len(), 2, "{lines:#?}");
    assert!(cached[0].starts_with("[2/3] RUN echo hello"));
}

#[test]
fn parallel_stages_are_told_apart_and_the_failing_one_is_blamed() {
    let (lines, progress) = log(include_str!("recorded/parallel-failure.ndjson"));
    let a = "[a 2/2] RUN sleep 1; echo from a; sleep 1; exit 5";
    assert!(lines.contains(&format!("{a} out from a")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("[b 2/2] RUN") && line.ends_with(" out from b")));
    assert!(lines.iter().any(|line| line.starts_with("[b 2/2] RUN") && line.ends_with(" out half")));
    assert!(lines.iter().any(|line| line.starts_with("[b 2/2] RUN") && line.ends_with(" *** cancelled")));
    let error = "executor failed running [/bin/sh -c sleep 1; echo from a; sleep 1; exit 5]: exit code: 5";
    let expected = FailedStep { name: a.into(), error: error.into(), excerpt: vec!["from a".into()] };
    assert_eq!(progress.failed(error), Some(expected));
}

#[test]
fn an_internal_step_is_shown_when_it_fails() {
    let mut progress = started(&["[internal] load metadata for x"]);
    let mut failed = vertex("[internal] load metadata for x");
    failed.completed = failed.started;
    failed.error = "no such host".into();
    let entries = progress.update(StatusResponse { vertexes: vec![failed], ..StatusResponse::default() });
    assert_eq!(text(entries), ["[internal] load metadata for x *** failed after 0.0 s: no such host"]);
}

#[test]
fn a_missing_source_blames_its_step() {
    let (_, progress) = log(include_str!("recorded/missing-source.ndjson"));
    let failed = progress.failed("failed to compute cache key: \"/nothing\" not found: not found").unwrap();
    assert_eq!(failed.name, "[2/2] COPY nothing /");
    assert_eq!(failed.error, "\"/nothing\" not found: not found");
}

#[test]
fn stdout_and_stderr_and_steps_do_not_mix() {
    let mut progress = started(&["one", "two"]);
    let mut lines = Vec::new();
    for (step, stream, msg) in
        [("one", 1, "a"), ("two", 1, "x"), ("one", 2, "b"), ("one", 1, "A\n"), ("one", 2, "B\n")]
    {
        lines.extend(text(progress.update(output(step, stream, msg.as_bytes()))));
    }
    assert_eq!(lines, ["one out aA", "one err bB"]);
    assert_eq!(text(progress.finish()), ["two out x"]);
}

#[test]
fn clipped_output_is_marked_once_with_the_remedy_and_counted_at_the_end() {
    // As BuildKit says it of the speed, after which output goes on, and of the size.
    for limit in ["200KiB/s", "2MiB"] {
        let mut progress = started(&["one"]);
        let clipped = format!("half a li\n[output clipped, log limit {limit} reached]\n");
        let lines = text(progress.update(output("one", 1, clipped.as_bytes())));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], format!("one out [output clipped, log limit {limit} reached]"));
        assert!(lines[2].starts_with("one *** ") && lines[2].contains("BUILDKIT_STEP_LOG_MAX_SPEED=-1"));
        assert!(lines[2].contains(&format!("{limit} now")), "{}", lines[2]);
        assert_eq!(progress.update(output("one", 2, clipped.as_bytes())).len(), 2, "once");
        let mut ended = vertex("one");
        ended.completed = ended.started;
        let lines =
            text(progress.update(StatusResponse { vertexes: vec![ended], ..StatusResponse::default() }));
        assert!(lines[0].contains("in 2 places"), "{lines:?}");
        assert_eq!(lines[1], "one *** done in 0.0 s");
    }
}

#[test]
fn secrets_are_in_no_line_no_step_and_no_excerpt() {
    let mask = Mask::new([("s", &b"hunter2"[..])]).unwrap().0;
    let mut progress = Progress::new(&mask);
    let name = "[1/1] RUN login hunter2";
    let mut lines =
        progress.update(StatusResponse { vertexes: vec![vertex(name)], ..StatusResponse::default() });
    for piece in ["\x1b[31mhun", "ter2\x1b[0m and aHVudGVy", "Mg==\n", "https://me:other@host hunt"] {
        lines.extend(progress.update(output(name, 1, piece.as_bytes())));
    }
    let warning =
        VertexWarning { vertex: name.to_owned(), short: b"hunter2".to_vec(), ..VertexWarning::default() };
    lines.extend(progress.update(StatusResponse { warnings: vec![warning], ..StatusResponse::default() }));
    let mut failed = vertex(name);
    failed.completed = failed.started;
    failed.error = "login hunter2: exit code: 1".into();
    lines.extend(progress.update(StatusResponse { vertexes: vec![failed], ..StatusResponse::default() }));
    let lines = text(lines);
    assert_eq!(
        lines,
        [
            "[1/1] RUN login *** *** started",
            "[1/1] RUN login *** out \u{1b}[31m***\u{1b}[0m and ***",
            "[1/1] RUN login *** *** warning: ***",
            "[1/1] RUN login *** out https://me:***@host hunt",
            "[1/1] RUN login *** *** failed after 0.0 s: login ***: exit code: 1",
        ]
    );
    let failed = progress.failed("login hunter2: exit code: 1").unwrap();
    assert_eq!(failed.excerpt, ["*** and ***", "https://me:***@host hunt"]);
}

#[test]
fn the_excerpt_is_the_last_lines_and_bounded() {
    let mut progress = started(&["one"]);
    let long = "é".repeat(5000);
    for number in 0..100 {
        progress.update(output("one", 1, format!("{number} {long}\n").as_bytes()));
    }
    let mut failed = vertex("one");
    failed.completed = failed.started;
    failed.error = "exit code: 1".into();
    progress.update(StatusResponse { vertexes: vec![failed], ..StatusResponse::default() });
    let excerpt = progress.failed("exit code: 1").unwrap().excerpt;
    assert_eq!(excerpt.len(), EXCERPT_LINES);
    assert!(excerpt[0].starts_with("80 é") && excerpt.iter().all(|line| line.len() <= MAX_EXCERPT_LINE));
}

#[test]
fn warnings_are_status_lines() {
    let mut progress = started(&["one"]);
    let warning = VertexWarning {
        vertex: "one".into(),
        short: b"FromAsCasing: 'as' and 'FROM' differ".to_vec(),
        url: "https://docs.example/FromAsCasing".into(),
        ..VertexWarning::default()
    };
    let entries = progress.update(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
    let expected =
        "one *** warning: FromAsCasing: 'as' and 'FROM' differ (https://docs.example/FromAsCasing)";
    assert_eq!(text(entries), [expected]);
}
