//! `.gitmodules`, read as text out of a commit. It is written by whoever may push, so nothing in it is more than a
//! string: git's own reader would follow its `include`s, and take settings from it.

use std::collections::BTreeMap;

/// The longest name of a submodule, in bytes: it is looked up for each of its lines.
const MAX_NAME: usize = 1024;

/// What is said of a submodule. Its name is of no use here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Submodule {
    pub(super) path: Option<String>,
    pub(super) url: Option<String>,
    /// `update = none`: not to be checked out.
    pub(super) is_left_out: bool,
}

/// The submodules of a file, in the order of their names. Of a key that stands twice the last one counts, as in git;
/// what cannot be read as git-config(1) has it is passed over, so that such a submodule has no URL.
pub(super) fn parse(text: &str) -> Vec<Submodule> {
    let mut found: BTreeMap<String, Submodule> = BTreeMap::new();
    let mut section = None;
    let joined = text.replace("\\\r\n", "").replace("\\\n", "");
    for line in joined.lines().map(str::trim) {
        let rest = match line.strip_prefix('[') {
            Some(header) => {
                let (name, rest) = match submodule(header) {
                    Some((name, rest)) => (Some(name), rest),
                    None => (None, ""),
                };
                section = name;
                rest.trim_start()
            }
            None => line,
        };
        let (Some(name), Some((key, written))) = (&section, rest.split_once('=')) else { continue };
        let Some(value) = value(written.trim()) else { continue };
        let entry = found.entry(name.clone()).or_default();
        match key.trim().to_ascii_lowercase().as_str() {
            "path" => entry.path = Some(value),
            "url" => entry.url = Some(value),
            "update" => entry.is_left_out = value == "none",
            _ => {}
        }
    }
    found.into_values().collect()
}

/// The name in `submodule "name"]`, and what stands behind it.
fn submodule(header: &str) -> Option<(String, &str)> {
    let (kind, rest) = header.split_once('"')?;
    if !kind.trim().eq_ignore_ascii_case("submodule") {
        return None;
    }
    let mut name = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        if at > MAX_NAME {
            return None;
        }
        match character {
            '\\' => name.push(characters.next()?.1),
            '"' => return rest[at + 1..].trim_start().strip_prefix(']').map(|rest| (name, rest)),
            character => name.push(character),
        }
    }
    None
}

fn value(written: &str) -> Option<String> {
    let mut value = String::new();
    let mut quoted = false;
    // Where the value ends if nothing but spaces follows outside of quotes.
    let mut end = 0;
    let mut characters = written.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => value.push(match characters.next()? {
                'n' => '\n',
                't' => '\t',
                'b' => '\u{8}',
                escaped @ ('"' | '\\') => escaped,
                _ => return None,
            }),
            character => value.push(character),
        }
        if quoted || !character.is_whitespace() {
            end = value.len();
        }
    }
    value.truncate(end);
    (!quoted).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let none = || "-".to_owned();
        let one = |module: Submodule| {
            let (path, url) = (module.path.unwrap_or_else(none), module.url.unwrap_or_else(none));
            format!("{path} {url}{}", if module.is_left_out { " left out" } else { "" })
        };
        parse(text).into_iter().map(one).collect()
    }

    #[test]
    fn reads_what_git_writes() {
        let text = "[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git\n\tbranch = main\n\tshallow = true\n\
                    # a comment\n[submodule \"a \\\"b\\\\\"] url = \"https://host/a;b\" ; why\n\tPath=vendor/a b\n\
                    [other]\n\turl = no\n[submodule \"left\"]\r\n  path = left\r\n  url = x\\\n/y\r\n  update = none\n";
        assert_eq!(shown(text), ["vendor/a b https://host/a;b", "left x/y left out", "lib ../lib.git"]);
    }

    #[test]
    fn nonsense_says_nothing() {
        for text in [
            "",
            "url = x",
            "[submodule]\nurl = x",
            "[submodule \"a]\nurl = x",
            "[submodule \"a\" url = x",
            "[\u{0}",
        ] {
            assert_eq!(shown(text), [""; 0], "{text}");
        }
        assert_eq!(shown("[submodule \"a\"]\npath = p\nurl = \"x\n"), ["p -"]);
        assert_eq!(shown("[submodule \"a\"]\nurl = \\x\npath = p\n[include]\npath = /etc/passwd\n"), ["p -"]);
        assert_eq!(shown("[submodule \"a\"]\npath = p\nurl = 1\nurl = 2\n"), ["p 2"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_read(text in r#"([\[\]"\\=#;a-z \t\r\n]|submodule|path|url|update|none){0,60}"#) {
            // A submodule needs a header of its own.
            proptest::prop_assert!(parse(&text).len() <= text.matches('[').count());
        }
    }
}
