//! `.dockerignore`: which paths of the repository stay out of the build context, decided as
//! `docker build` does (moby/patternmatcher, `ignorefile.ReadAll` and `MatchesUsingParentResults`).

use super::error::SourceError;
use super::pattern::Pattern;

/// The most rules one file may have. Each is tried on each path, so that a megabyte of them would
/// keep a build busy for hours.
const MAX_RULES: usize = 10_000;

/// The rules of one `.dockerignore`, in their order: the last one that matches decides.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    pattern: Pattern,
    /// `!`: takes back what an earlier rule has left out.
    exception: bool,
}

/// Which rules match a folder: they match everything in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Matched(Vec<bool>);

impl Rules {
    /// Reads a `.dockerignore`; `file` is its name for messages.
    pub(super) fn parse(file: &str, content: &[u8]) -> Result<Self, SourceError> {
        let content = String::from_utf8_lossy(content);
        let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
        let mut rules = Vec::new();
        for (index, line) in content.lines().enumerate() {
            // A comment begins in the first column; with a space before it, it is a pattern.
            let text = if line.starts_with('#') { "" } else { line.trim() };
            if text.is_empty() {
                continue;
            }
            let (exception, written) = match text.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            let parsed = match written.is_empty() {
                _ if rules.len() == MAX_RULES => Err("a file may have at most 10,000 patterns"),
                true => Err("a '!' needs a pattern behind it"),
                false => {
                    let cleaned = clean(written);
                    Pattern::parse(
                        cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned),
                    )
                }
            };
            let pattern = parsed.map_err(|reason| SourceError::BadIgnorePattern {
                file: file.to_owned(),
                line: index + 1,
                pattern: text.chars().take(200).collect(),
                reason,
            })?;
            rules.push(Rule { pattern, exception });
        }
        Ok(Self(rules))
    }

    /// Whether a path is left out. `parent` is what this function said of the folder it lies in.
    pub(super) fn ignores(&self, path: &str, parent: &Matched) -> (bool, Matched) {
        let mut ignored = false;
        let mut matched = vec![false; self.0.len()];
        for (index, rule) in self.0.iter().enumerate() {
            let by_parent = parent.0.get(index).copied().unwrap_or(false);
            // A rule that would change nothing is not tried, and by moby's reckoning does not match:
            // its decision is the same for what lies in a folder.
            let matches = by_parent || (rule.exception == ignored && rule.pattern.matches(path));
            matched[index] = matches;
            if matches {
                ignored = !rule.exception;
            }
        }
        (ignored, Matched(matched))
    }

    /// Whether an exception may bring back something below a folder that is left out.
    pub(super) fn reaches_into(&self, folder: &str) -> bool {
        self.0.iter().any(|rule| rule.exception && rule.pattern.may_match_below(folder))
    }
}

/// The shortest way to write a path, as Go's `filepath.Clean` finds it: without empty and `.` names,
/// and without `..` where a name stands before it.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => {
                names.pop();
            }
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    match (rooted, names.join("/")) {
        (true, names) => format!("/{names}"),
        (false, names) if names.is_empty() => ".".to_owned(),
        (false, names) => names,
    }
}

#[cfg(test)]
#[path = "ignore_tests.rs"]
mod tests;
