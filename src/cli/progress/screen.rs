//! The output itself: lines that stay and, on a terminal, one below them that changes.

use std::io::Write;

/// Goes to the line's beginning and wipes it.
const WIPE: &str = "\r\x1b[K";
/// Without wrapping, a line that is longer than the terminal is wide is cut, so that wiping one line is
/// enough (DECAWM).
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    live: bool,
    /// The last line, as it is shown.
    shown: String,
    /// Why nothing more is written.
    gone: Option<std::io::ErrorKind>,
}

impl Screen {
    pub(super) fn new(out: Box<dyn Write + Send>, live: bool) -> Self {
        Self { out, live, shown: String::new(), gone: None }
    }

    /// Writes whole lines above the last one, which becomes `status`.
    pub(super) fn write(&mut self, lines: &str, status: &str) {
        let status = if self.live { status } else { "" };
        if self.gone.is_some() || (lines.is_empty() && status == self.shown) {
            return;
        }
        let mut text = String::with_capacity(lines.len() + status.len() + 32);
        if !self.shown.is_empty() {
            text.push_str(WIPE);
        }
        text.push_str(lines);
        if !status.is_empty() {
            text.push_str(NO_WRAP);
            text.push_str(status);
            text.push_str(WRAP);
        }
        status.clone_into(&mut self.shown);
        // A terminal that is gone must not end the build.
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        self.gone = self.gone.or(written.err().map(|error| error.kind()));
    }

    /// Whether nothing more can be written.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Writes nothing more.
    pub(super) fn leave(&mut self) {
        self.gone = self.gone.or(Some(std::io::ErrorKind::BrokenPipe));
    }

    /// What was written is whole, as far as anybody wanted to read it.
    ///
    /// # Errors
    /// It could not be written, for another reason than that its reader has gone.
    pub(super) fn whole(&self) -> std::io::Result<()> {
        match self.gone {
            None | Some(std::io::ErrorKind::BrokenPipe) => Ok(()),
            Some(kind) => Err(kind.into()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.write("", "");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(live: bool) -> String {
        let out = Written::default();
        let mut screen = Screen::new(Box::new(out.clone()), live);
        screen.write("one\n", "make  1 s");
        screen.write("", "make  1 s");
        screen.write("", "make  2 s");
        screen.write("two\n", "make  2 s");
        drop(screen);
        String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_last_line_is_wiped_before_anything_else_is_written_and_at_the_end() {
        let shown = written(true).replace(WIPE, "<wipe>").replace(NO_WRAP, "<").replace(WRAP, ">");
        assert_eq!(shown, "one\n<make  1 s><wipe><make  2 s><wipe>two\n<make  2 s><wipe>");
        assert_eq!(written(false), "one\ntwo\n", "a log has nothing that is taken back");
    }

    #[test]
    fn an_output_that_is_gone_is_noticed() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut screen = Screen::new(Box::new(full), false);
        assert!(!screen.is_gone() && screen.whole().is_ok());
        screen.write("one\n", "");
        assert!(screen.is_gone());
        assert_eq!(screen.whole().unwrap_err().kind(), std::io::ErrorKind::StorageFull);

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut screen = Screen::new(Box::new(writer), false);
        screen.write("one\n", "");
        assert!(screen.is_gone() && screen.whole().is_ok(), "as behind `| head`");
    }
}
