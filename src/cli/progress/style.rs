//! Where the progress goes: a terminal that can be painted on, or a log.

use std::ffi::OsString;
use std::io::IsTerminal;

/// What may be written besides the words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Colours, the build's own as well.
    pub colours: bool,
    /// A last line that changes while nothing else is said.
    pub live: bool,
}

impl Style {
    /// For one of this process's outputs.
    pub fn of(output: &impl IsTerminal) -> Self {
        Self::judge(output.is_terminal(), |name| std::env::var_os(name))
    }

    /// `NO_COLOR` (no-color.org) wins over `FORCE_COLOR` and `CLICOLOR_FORCE`, and these over what the
    /// output is. A CI system that offers a terminal keeps what is written to it as a log.
    fn judge(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let given = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let is_on = |name: &str| given(name) && variable(name).is_none_or(|v| v != "0" && v != "false");
        let able = terminal && !is_on("CI") && variable("TERM").is_none_or(|term| term != "dumb");
        let forced = is_on("FORCE_COLOR") || is_on("CLICOLOR_FORCE");
        Self { colours: !given("NO_COLOR") && (forced || able), live: able }
    }

    /// `text` in the colour of an SGR `code`.
    pub(super) fn paint(self, code: &str, text: &str) -> String {
        match self.colours && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_painted_on_and_a_log_is_not() {
        let style = |terminal, variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            };
            let Style { colours, live } = Style::judge(terminal, variable);
            (colours, live)
        };
        assert_eq!(style(true, &[("TERM", "xterm")]), (true, true));
        assert_eq!(style(false, &[]), (false, false));
        assert_eq!(style(true, &[("TERM", "dumb")]), (false, false));
        assert_eq!(style(true, &[("CI", "true")]), (false, false));
        assert_eq!(style(true, &[("CI", "false")]), (true, true));
        assert_eq!(style(true, &[("NO_COLOR", "1")]), (false, true));
        assert_eq!(style(true, &[("NO_COLOR", "")]), (true, true));
        assert_eq!(style(false, &[("FORCE_COLOR", "1")]), (true, false));
        assert_eq!(style(false, &[("CI", "1"), ("CLICOLOR_FORCE", "1")]), (true, false));
        assert_eq!(style(false, &[("FORCE_COLOR", "0")]), (false, false));
        assert_eq!(style(false, &[("FORCE_COLOR", "1"), ("NO_COLOR", "1")]), (false, false));
    }
}
