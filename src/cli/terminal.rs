//! A build's log on a terminal: each step under its name, BuildGrid's own words apart from it.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::telemetry::printable::{printable, with_colours};
use crate::timeline::entry::{LogEntry, Stream};
use crate::worker::attempt::Mirror;

/// Shows the lines on standard error, so that standard output has only the image's URL.
pub fn mirror() -> Mirror {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // The step whose name was shown last: parallel steps take turns, and each turn is named.
    let shown: Mutex<Option<String>> = Mutex::new(None);
    Arc::new(move |entry| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        render(&mut text, entry, &mut shown, colours);
        // A terminal that is gone must not end the build.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    })
}

fn render(out: &mut String, entry: &LogEntry, shown: &mut Option<String>, colours: bool) {
    let paint = |code: &str, text: &str| match colours {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let step = entry.step.as_deref().map(printable);
    match (entry.stream, step) {
        (Stream::Status, None) => {
            *shown = None;
            out.push_str(&paint("36", &format!("==> {}", printable(&entry.text))));
        }
        // What became of a step: cached, done, failed.
        (Stream::Status, Some(step)) => {
            out.push_str(&format!("{} {}", paint("1", &step), paint("36", &printable(&entry.text))));
            *shown = Some(step);
        }
        (_, step) => {
            if let Some(step) = step.filter(|step| shown.as_ref() != Some(step)) {
                out.push_str(&paint("1", &step));
                out.push('\n');
                *shown = Some(step);
            }
            out.push_str("    ");
            match colours {
                true => out.push_str(&with_colours(&entry.text)),
                false => out.push_str(&printable(&entry.text)),
            }
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_step_at_each_of_its_turns() {
        let entry = |stream, step: Option<&str>, text: &str| LogEntry {
            seq: 0,
            at: time::OffsetDateTime::UNIX_EPOCH,
            stream,
            step: step.map(ToOwned::to_owned),
            server: "w".into(),
            service: None,
            pod: None,
            text: text.into(),
        };
        let mut out = String::new();
        let mut shown = None;
        for entry in [
            entry(Stream::Status, None, "fetching"),
            entry(Stream::Status, Some("[a 1/2] RUN x"), "started"),
            entry(Stream::Stdout, Some("[a 1/2] RUN x"), "one"),
            entry(Stream::Stderr, Some("[a 1/2] RUN x"), "two"),
            entry(Stream::Stdout, Some("[b 1/2] RUN y"), "three"),
            entry(Stream::Stdout, Some("[a 1/2] RUN x"), "four"),
        ] {
            render(&mut out, &entry, &mut shown, false);
        }
        assert_eq!(
            out,
            "==> fetching\n[a 1/2] RUN x started\n    one\n    two\n[b 1/2] RUN y\n    three\n[a 1/2] RUN x\n    four\n"
        );
    }
}
