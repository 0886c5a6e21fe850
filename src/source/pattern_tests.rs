//! The pattern language, case by case: what Docker's documentation of `.dockerignore` and Go's of
//! `filepath.Match` say, and what moby's own reading of them does at the edges.

use super::Pattern;

fn matches(pattern: &str, path: &str) -> bool {
    Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(path)
}

#[test]
fn matches_as_documented() {
    for (pattern, yes, no) in [
        ("src", &["src"][..], &["src/a", "srcs", "a/src", ""][..]),
        ("*", &["a", ".git", "ünïcode"], &["a/b"]),
        ("*.log", &["a.log", ".log"], &["a.logs", "a/b.log"]),
        ("*/temp*", &["a/temp", "a/temporary.txt"], &["temp", "a/b/temp"]),
        ("*/*/temp*", &["a/b/temp"], &["a/temp", "a/b/c/temp"]),
        ("temp?", &["tempa", "temp1", "tempé"], &["temp", "tempab", "temp/"]),
        ("a?b", &["a☺b"], &["a/b", "ab"]),
        ("a???b", &["axyzb"], &["a☺b"]),
        ("a*b?c*x", &["abxbbxdbxebxczzx"], &["abxbbxdbxebxczzy"]),
        ("a*b*c*d*e*/f", &["axbxcxdxexxx/f"], &["axbxcxdxe/xxx/f", "axbxcxdxexxx/fff"]),
        ("**", &["a", "a/b/c"], &[]),
        ("**/**", &["a", "a/b"], &[]),
        ("**/*.go", &["a.go", "a/b.go", "a/b/c.go"], &["a.go/b", "a/b.gox"]),
        ("**/a/b", &["a/b", "x/a/b", "x/y/a/b"], &["xa/b", "a/b/c"]),
        ("**/a", &["a", "x/a"], &["xa", "a/x"]),
        ("a/**", &["a/b", "a/b/c"], &["a", "ab/c"]),
        ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a/bz", "az"]),
        ("a**/*.txt", &["a/f.txt", "a/b/c/f.txt", "ab/f.txt", "af.txt"], &["b/f.txt"]),
        ("a**", &["a", "ab", "ab/c"], &["b"]),
        ("**/b/**", &["b/c", "a/b/c/d"], &["b", "a/b"]),
        ("**/b/*", &["b/c", "a/b/c"], &["a/b/c/d"]),
        ("abc.def", &["abc.def"], &["abcZdef"]),
        ("a.|)$(}+{bc", &["a.|)$(}+{bc"], &["a"]),
        ("a^b*", &["a^bc"], &["ab"]),
        // Two stars before a literal are its end, even of a name; before anything else they are folders.
        ("**file", &["file", "a/file", "afile"], &["files"]),
        ("**file*", &["file", "files", "a/files"], &["afile"]),
        ("***/b", &["a/b", "x/a/b"], &["b"]),
    ] {
        for path in yes {
            assert!(matches(pattern, path), "{pattern:?} does not match {path:?}");
        }
        for path in no {
            assert!(!matches(pattern, path), "{pattern:?} matches {path:?}");
        }
    }
}

#[test]
fn reads_classes_and_escapes() {
    for (pattern, yes, no) in [
        ("ab[c]", &["abc"][..], &["abd", "ab", "ab[c]"][..]),
        ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
        ("[^a-c]x", &["dx", "/x", "☺x"], &["ax"]),
        ("[a-ζ]*", &["α"], &["A"]),
        ("[a-cx-z]", &["b", "y"], &["m", "-"]),
        ("[\\]a]", &["]", "a"], &["\\"]),
        ("[\\-x]", &["-", "x"], &["a"]),
        ("[x\\-]", &["-", "x"], &["z"]),
        ("[*?]", &["*", "?"], &["a"]),
        ("[!a]", &["!", "a"], &["b"]),
        ("[[]", &["["], &["]"]),
        ("a]", &["a]"], &["a"]),
        ("a\\*b", &["a*b"], &["ab", "axb"]),
        ("\\!important", &["!important"], &["important"]),
        ("**/a\\?", &["a?", "x/a?"], &["ab"]),
        ("**\\*", &["*", "a/*"], &["a"]),
        ("a\\\\", &["a\\"], &["a"]),
    ] {
        for path in yes {
            assert!(matches(pattern, path), "{pattern:?} does not match {path:?}");
        }
        for path in no {
            assert!(!matches(pattern, path), "{pattern:?} matches {path:?}");
        }
    }
}

#[test]
fn refuses_what_go_refuses() {
    for bad in [
        "[", "a[", "[^", "[^bc", "[a", "[a-", "[a-]", "[]", "[]a]", "[^]a]", "[-]", "[-x]", "[x-]",
        "[a-b-c]", "[z-a]", "\\", "a\\", "[\\", "[a\\", "x/[", "**/[",
    ] {
        assert!(Pattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn knows_what_it_cannot_match_below() {
    for (pattern, folder, expected) in [
        ("src/main.rs", "src", true),
        ("src", "src", true),
        ("src/main.rs", "node_modules", false),
        ("src/main.rs", "src/lib", false),
        ("srcs", "src", false),
        ("**/x", "src", true),
        ("*/x", "src", true),
        ("src/*.js", "src", true),
        ("src/*.js", "src/deep", true),
        ("src/*.js", "lib", false),
        ("src*/x", "srcs", true),
        ("src*/x", "sr", false),
        ("a/src*", "a", true),
    ] {
        let answer = Pattern::parse(pattern).unwrap().may_match_below(folder);
        assert_eq!(answer, expected, "{pattern:?} below {folder:?}");
    }
}

#[test]
fn takes_no_longer_for_a_hostile_pattern() {
    // With backtracking, this would not end within a lifetime.
    let pattern = "*a".repeat(200);
    assert!(!matches(&pattern, &"a".repeat(199)));
    assert!(matches(&pattern, &"a".repeat(2000)));
    assert!(!matches(&format!("{}b", "**/*a".repeat(100)), &"a/".repeat(500)));
}

/// What patternmatcher's `compile` and `match` make of a pattern without classes and escapes.
fn moby(pattern: &str, path: &str) -> bool {
    let mut regex = String::from("^");
    let (mut wild, mut leading, mut trailing) = (false, false, false);
    let mut rest = pattern;
    let mut first = true;
    while let Some(c) = rest.chars().next() {
        let taken = if rest.starts_with("**/") {
            3
        } else if rest.starts_with("**") {
            2
        } else {
            1
        };
        rest = &rest[taken..];
        match (c, taken) {
            ('*', 1) => (regex, wild) = (regex + "[^/]*", true),
            ('?', _) => (regex, wild) = (regex + "[^/]", true),
            ('*', _) if rest.is_empty() && !wild && !leading => trailing = true,
            ('*', _) if rest.is_empty() => (regex, wild) = (regex + ".*", true),
            ('*', _) => (regex, wild) = (regex + "(.*/)?", !first || wild),
            (c, _) => regex += &regex::escape(&c.to_string()),
        }
        if first && taken > 1 {
            (leading, trailing) = (true, false);
        }
        first = false;
    }
    match () {
        () if wild => regex::Regex::new(&(regex + "$")).unwrap().is_match(path),
        () if leading => path.ends_with(&pattern[2..]) || pattern[2..].strip_prefix('/') == Some(path),
        () if trailing => path.starts_with(&pattern[..pattern.len() - 2]),
        () => path == pattern,
    }
}

proptest::proptest! {
    #[test]
    fn agrees_with_moby(pattern in "[ab.*?/]{1,8}", path in "[ab.]{1,3}(/[ab.]{1,3}){0,3}") {
        let pattern = super::super::ignore::clean(&pattern);
        proptest::prop_assert_eq!(matches(&pattern, &path), moby(&pattern, &path), "{:?} and {:?}", pattern, path);
    }

    #[test]
    fn never_skips_a_folder_with_a_match_in_it(pattern in "[ab*?/]{1,6}", path in "[ab]{1,2}(/[ab]{1,2}){1,3}") {
        let pattern = Pattern::parse(&super::super::ignore::clean(&pattern)).unwrap();
        if pattern.matches(&path) {
            for (end, _) in path.match_indices('/') {
                proptest::prop_assert!(pattern.may_match_below(&path[..end]), "{:?} and {:?}", pattern, path);
            }
        }
    }
}
