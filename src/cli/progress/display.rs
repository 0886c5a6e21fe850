//! [`Progress`]: what a command tells of a build while it runs, and at its end.

use std::io::Write;

use time::OffsetDateTime;

use super::failure::FailedBuild;
use super::render::Renderer;
use super::screen::Screen;
use super::style::Style;
use super::words;
use crate::timeline::entry::LogEntry;
use crate::timeline::protocol::{Build, BuildState};

/// Shows one build.
pub struct Progress {
    renderer: Renderer,
    screen: Screen,
    /// The build as it was last told of.
    build: Option<Build>,
}

impl Progress {
    /// Lines for people, on standard error: standard output has only what scripts want.
    pub fn on_stderr() -> Self {
        Self::new(Style::of(&std::io::stderr()), Box::new(std::io::stderr()))
    }

    /// Where the log itself is what was asked for.
    pub fn on_stdout() -> Self {
        Self::new(Style::of(&std::io::stdout()), Box::new(std::io::stdout()))
    }

    pub fn new(style: Style, out: Box<dyn Write + Send>) -> Self {
        Self { renderer: Renderer::new(style), screen: Screen::new(out, style.live), build: None }
    }

    /// A line of the log.
    pub fn entry(&mut self, entry: &LogEntry) {
        let mut lines = String::new();
        self.renderer.entry(entry, &mut lines);
        self.write(&lines);
    }

    /// How the build stands, said where that has changed.
    pub fn state(&mut self, build: &Build) {
        let before = self.build.replace(build.clone());
        if before.as_ref().is_some_and(|before| before.attempt != build.attempt) {
            self.renderer.begin();
        }
        let mut lines = String::new();
        if let Some(words) = words::of_state(build, before.as_ref(), OffsetDateTime::now_utc()) {
            match build.state {
                BuildState::Interrupted | BuildState::Retrying => self.renderer.trouble(&words, &mut lines),
                _ => self.say(&words, &mut lines),
            }
        }
        self.write(&lines);
    }

    /// The command's own words.
    pub fn note(&mut self, words: &str) {
        let mut lines = String::new();
        self.say(words, &mut lines);
        self.write(&lines);
    }

    /// Something that is not as it should be.
    pub fn trouble(&mut self, words: &str) {
        let mut lines = String::new();
        self.renderer.trouble(words, &mut lines);
        self.write(&lines);
    }

    /// The end of a build that has none of an image: the failing step's last lines once more, and why.
    pub fn failure(&mut self, failure: &FailedBuild<'_>) {
        let mut lines = String::new();
        self.renderer.begin();
        self.renderer.failure(failure, &mut lines);
        self.build = None;
        self.write(&lines);
    }

    /// Takes away what is only shown while a build runs.
    pub fn finish(&mut self) {
        self.renderer.begin();
        self.build = None;
        self.write("");
    }

    /// Time has passed: to be called about once a second.
    pub fn tick(&mut self) {
        self.write("");
    }

    /// Whether nothing more can be written, since nobody reads any more, as behind `| head`, or for another reason.
    pub fn is_gone(&self) -> bool {
        self.screen.is_gone()
    }

    /// Nobody reads any more what the command writes besides: nothing more is shown.
    pub fn leave(&mut self) {
        self.screen.leave();
    }

    /// Whether all was written that anybody wanted to read; for where it is what was asked for.
    pub fn whole(&self) -> std::io::Result<()> {
        self.screen.whole()
    }

    fn say(&mut self, words: &str, lines: &mut String) {
        self.renderer.own(words, "36", lines);
    }

    fn write(&mut self, lines: &str) {
        let now = OffsetDateTime::now_utc();
        let waiting = || self.build.as_ref().and_then(|build| words::waiting(build, now));
        let status = waiting().or_else(|| self.renderer.status(now)).unwrap_or_default();
        self.screen.write(lines, &status);
    }
}
