//! What a build looks like, line by line.

use time::macros::datetime;

use super::*;

const STATUS: Stream = Stream::Status;
const OUT: Stream = Stream::Stdout;

fn entry(stream: Stream, step: Option<&str>, text: &str) -> LogEntry {
    LogEntry {
        seq: 0,
        at: datetime!(2026-11-23 10:15:02 UTC),
        stream,
        step: step.map(ToOwned::to_owned),
        server: "w".into(),
        service: None,
        pod: None,
        text: text.into(),
    }
}

fn rendered(renderer: &mut Renderer, entries: &[(Stream, Option<&str>, &str)]) -> String {
    let mut out = String::new();
    for (stream, step, text) in entries {
        renderer.entry(&entry(*stream, *step, text), &mut out);
    }
    out
}

#[test]
fn steps_have_their_lines_below_and_their_time_at_the_end() {
    let (one, two) = (Some("[1/3] FROM base"), Some("[2/3] RUN make"));
    let out = rendered(
        &mut Renderer::default(),
        &[
            (STATUS, None, "fetching https://h/x"),
            (STATUS, one, "cached"),
            (STATUS, two, "started"),
            (OUT, two, "cc -o shop"),
            (Stream::Stderr, two, "warning: unused"),
            (STATUS, two, "done in 3.2 s"),
            (STATUS, Some("[3/3] COPY . ."), "started"),
            (STATUS, Some("[3/3] COPY . ."), "failed after 0.1 s: no space"),
            (STATUS, None, "failed: no space"),
        ],
    );
    assert_eq!(
        out,
        "==> fetching https://h/x\n\
         [1/3] FROM base  cached\n\
         [2/3] RUN make\n    cc -o shop\n    warning: unused\n    done in 3.2 s\n\
         [3/3] COPY . .\n    failed after 0.1 s: no space\n\
         ==> failed: no space\n"
    );
}

#[test]
fn steps_that_run_at_once_are_told_apart_line_by_line() {
    let (web, worker) = (Some("[web 2/4] RUN a"), Some("exporting a rather long name of a step"));
    let mut renderer = Renderer::default();
    let out = rendered(
        &mut renderer,
        &[
            (STATUS, web, "started"),
            (OUT, web, "alone"),
            (STATUS, worker, "started"),
            (OUT, web, "one"),
            (OUT, worker, "two"),
            (STATUS, web, "done in 1.0 s"),
            (OUT, worker, "three"),
        ],
    );
    assert_eq!(
        out,
        "[web 2/4] RUN a\n    alone\nexporting a rather long name of a step\n\
         [web 2/4] one\n[exporting a rather long …] two\n[web 2/4] RUN a  done in 1.0 s\n\
         exporting a rather long name of a step\n    three\n"
    );
    let status = renderer.status(datetime!(2026-11-23 10:16:22 UTC)).unwrap();
    assert_eq!(status, "exporting a rather long name of a step  1 m 20 s");
}

#[test]
fn steps_without_a_beginning_have_headings_too() {
    let out = rendered(&mut Renderer::default(), &[(OUT, Some("[1/2] RUN a"), "x"), (OUT, None, "y")]);
    assert_eq!(out, "[1/2] RUN a\n    x\n    y\n");
}

#[test]
fn colours_are_kept_and_closed_on_a_terminal_alone() {
    let lines = [(OUT, Some("[1/1] RUN x"), "\x1b[31mred")];
    assert_eq!(rendered(&mut Renderer::default(), &lines), "[1/1] RUN x\n    \\u{1b}[31mred\n");
    let mut coloured = Renderer::new(Style { colours: true, live: true });
    assert_eq!(
        rendered(&mut coloured, &lines),
        "\x1b[1m[1/1] RUN x\x1b[0m\n    \x1b[31mred\x1b[0m\n",
        "the build's own colour ends with its line"
    );
    let cached = [(STATUS, Some("[1/1] RUN x"), "cached"), (STATUS, None, "done")];
    let mut coloured = Renderer::new(Style { colours: true, live: true });
    assert_eq!(
        rendered(&mut coloured, &cached),
        "\x1b[2m[1/1] RUN x  cached\x1b[0m\n\x1b[36m==> done\x1b[0m\n"
    );
}

#[test]
fn a_failure_ends_with_its_lines_and_its_reason() {
    let mut out = String::new();
    let excerpt = ["cc: no input files".to_owned(), "\x1b[2Jgone".to_owned()];
    Renderer::default().failure(
        &FailedBuild {
            step: Some("[2/4] RUN make"),
            location: Some("Dockerfile:7"),
            excerpt: &excerpt,
            reason: "RUN make: exit code 2",
            advice: Some("ask"),
        },
        &mut out,
    );
    assert_eq!(
        out,
        "\n[2/4] RUN make (Dockerfile:7)\n    cc: no input files\n    \\u{1b}[2Jgone\nerror: RUN make: exit code 2\n\
         advice: ask\n"
    );
    out.clear();
    Renderer::default().failure(&FailedBuild::of("the engine is away"), &mut out);
    assert_eq!(out, "error: the engine is away\n");
}

#[test]
fn hostile_text_moves_nothing() {
    let hostile = "\x1b[2J\r\u{202e}x\x1b]0;t\x07";
    for style in [Style::default(), Style { colours: true, live: true }] {
        let mut renderer = Renderer::new(style);
        let mut out = rendered(
            &mut renderer,
            &[
                (STATUS, Some(hostile), "started"),
                (OUT, Some(hostile), hostile),
                (STATUS, Some(hostile), hostile),
                (STATUS, None, hostile),
                (STATUS, Some(hostile), "started"),
            ],
        );
        out.push_str(&renderer.status(datetime!(2026-11-23 10:15:03 UTC)).unwrap());
        let failure = FailedBuild {
            step: Some(hostile),
            location: Some(hostile),
            excerpt: &[hostile.to_owned()],
            reason: hostile,
            advice: Some(hostile),
        };
        renderer.failure(&failure, &mut out);
        for bad in ["\r", "\u{202e}", "\x07", "\x1b[2J", "\x1b]"] {
            assert!(!out.contains(bad), "{bad:?} in {out:?}");
        }
    }
}
