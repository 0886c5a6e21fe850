//! From log entries to lines: pure, so that it is tested on recorded entries.

use time::OffsetDateTime;

use super::failure::{FailedBuild, at};
use super::style::Style;
use super::words::since;
use crate::telemetry::printable::{printable, with_colours};
use crate::timeline::entry::{LogEntry, Stream};

/// The colours of steps that run at the same time, by turns.
const COLOURS: [&str; 6] = ["36", "35", "33", "34", "32", "96"];
const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
/// BuildGrid's own words.
const OWN: &str = "36";
/// What stands before a step's line.
const INDENT: &str = "    ";
/// The longest name by which a step's lines are told from another's, in characters.
const LABEL: usize = 24;

/// What was shown, as far as the next line depends on it.
#[derive(Debug, Default)]
pub(super) struct Renderer {
    style: Style,
    /// The step under whose heading the next line stands.
    heading: Option<String>,
    /// Steps that have begun and not ended, in the order of their beginnings.
    running: Vec<Running>,
    begun: usize,
}

#[derive(Debug)]
struct Running {
    step: String,
    since: OffsetDateTime,
    colour: &'static str,
}

impl Renderer {
    pub(super) fn new(style: Style) -> Self {
        Self { style, ..Self::default() }
    }

    /// Adds what an entry has to say to `out`.
    pub(super) fn entry(&mut self, entry: &LogEntry, out: &mut String) {
        let step = entry.step.as_deref().map(printable);
        match (entry.stream, step) {
            (Stream::Status, None) => self.own(&entry.text, OWN, out),
            (Stream::Status, Some(step)) => self.step(step, entry, out),
            (_, step) => {
                let text = match self.style.colours {
                    true => with_colours(&entry.text),
                    false => printable(&entry.text),
                };
                self.line(step, &text, out);
            }
        }
    }

    /// BuildGrid's own words on the build.
    pub(super) fn own(&mut self, text: &str, colour: &str, out: &mut String) {
        self.heading = None;
        push(out, &self.style.paint(colour, &format!("==> {}", printable(text))));
    }

    /// Words on something that is not as it should be.
    pub(super) fn trouble(&mut self, text: &str, out: &mut String) {
        self.own(text, YELLOW, out);
    }

    /// The end of a failed build: where, its last lines, why.
    pub(super) fn failure(&mut self, failure: &FailedBuild<'_>, out: &mut String) {
        let FailedBuild { step, location, excerpt, reason, advice } = failure;
        self.heading = None;
        if step.is_some() || !excerpt.is_empty() {
            out.push('\n');
        }
        if let Some(step) = step {
            push(out, &format!("{}{}", self.style.paint(BOLD, &printable(step)), at(*location)));
        }
        for line in *excerpt {
            push(out, &format!("{INDENT}{}", printable(line)));
        }
        push(out, &format!("{} {}", self.style.paint(RED, "error:"), printable(reason)));
        if let Some(advice) = advice {
            push(out, &format!("{} {}", self.style.paint(YELLOW, "advice:"), printable(advice)));
        }
    }

    /// Forgets what ran: another attempt begins.
    pub(super) fn begin(&mut self) {
        self.running.clear();
        self.heading = None;
    }

    /// What runs, for how long.
    pub(super) fn status(&self, now: OffsetDateTime) -> Option<String> {
        let first = self.running.first()?;
        let mut status = format!("{}  {}", self.style.paint(BOLD, &first.step), since(first.since, now));
        if self.running.len() > 1 {
            status.push_str(&format!("  and {} more", self.running.len() - 1));
        }
        Some(status)
    }

    /// What became of a step.
    fn step(&mut self, step: String, entry: &LogEntry, out: &mut String) {
        let text = printable(&entry.text);
        if text == "started" {
            let colour = COLOURS[self.begun % COLOURS.len()];
            self.begun += 1;
            self.running.push(Running { step: step.clone(), since: entry.at, colour });
            push(out, &self.style.paint(BOLD, &step));
            self.heading = Some(step);
            return;
        }
        let colour = match text.split(' ').next().unwrap_or_default() {
            "cached" | "cancelled" => DIM,
            "done" => GREEN,
            "failed" => RED,
            // A warning, or advice: the step goes on.
            _ => return self.line(Some(step), &self.style.paint(YELLOW, &text), out),
        };
        self.running.retain(|running| running.step != step);
        let under = self.heading.take().is_some_and(|heading| heading == step);
        match under {
            true => push(out, &format!("{INDENT}{}", self.style.paint(colour, &text))),
            false if colour == DIM => push(out, &self.style.paint(DIM, &format!("{step}  {text}"))),
            false => {
                push(out, &format!("{}  {}", self.style.paint(BOLD, &step), self.style.paint(colour, &text)));
            }
        }
    }

    /// A line of a step, or of none.
    fn line(&mut self, step: Option<String>, text: &str, out: &mut String) {
        let Some(step) = step else {
            self.heading = None;
            return push(out, &format!("{INDENT}{text}"));
        };
        let own = self.running.iter().find(|running| running.step == step);
        if let (Some(running), true) = (own, self.running.len() > 1) {
            // Others run beside it: a heading at each turn would hide what was said.
            self.heading = None;
            return push(out, &format!("{} {text}", self.style.paint(running.colour, &label(&step))));
        }
        if self.heading.as_ref() != Some(&step) {
            push(out, &self.style.paint(BOLD, &step));
            self.heading = Some(step);
        }
        push(out, &format!("{INDENT}{text}"));
    }
}

/// The number in a step's name, `[web 2/4]`, else its beginning.
fn label(step: &str) -> String {
    match step.find(']') {
        Some(end) if step.starts_with('[') && end < LABEL => step[..=end].to_owned(),
        _ => {
            let mut label: String = step.chars().take(LABEL).collect();
            if label.len() < step.len() {
                label.push('…');
            }
            format!("[{label}]")
        }
    }
}

fn push(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
