//! `.dockerignore` files, case by case.

use super::*;

/// Whether a file is left out, its folders considered one after the other.
fn ignored(rules: &Rules, path: &str) -> bool {
    let mut parent = Matched::default();
    let mut answer = false;
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    for end in ends {
        (answer, parent) = rules.ignores(&path[..end], &parent);
    }
    answer
}

fn rules(content: &str) -> Rules {
    Rules::parse(".dockerignore", content.as_bytes()).unwrap()
}

#[test]
fn decides_as_docker_does() {
    for (content, out, kept) in [
        ("", &[][..], &["a", "a/b"][..]),
        ("docs", &["docs", "docs/a", "docs/a/b"], &["doc", "x/docs"]),
        // An exception takes back; the last rule that matches decides.
        ("*.md\n!README.md", &["a.md"], &["README.md", "docs/a.md"]),
        ("!README.md\n*.md", &["README.md"], &[]),
        ("*.md\n!README*.md\nREADME-secret.md", &["a.md", "README-secret.md"], &["README.md", "README-x.md"]),
        ("docs\n!docs/README.md", &["docs", "docs/a"], &["docs/README.md"]),
        ("docs/*\n!docs/README.md", &["docs/a", "docs/a/b"], &["docs", "docs/README.md"]),
        ("*\n!src", &["a", "a/b"], &["src", "src/a", "src/a/b"]),
        ("**\n!src/*.rs", &["src", "src/a", "src/a/b.rs"], &["src/b.rs"]),
        ("*\n!src\nsrc/target", &["src/target", "src/target/a"], &["src/a"]),
        ("**\n!util/docker/web", &["util", "util/docker"], &["util/docker/web", "util/docker/web/foo"]),
        ("**\n!util/docker/web\nutil/docker/web/foo", &["util/docker/web/foo"], &["util/docker/web/a"]),
        ("**/", &["a", "a/b"], &[]),
        ("**/node_modules", &["node_modules/x", "a/b/node_modules/x/y"], &["node_modules2"]),
        ("a\n!a/b\na/b/c", &["a/x", "a/b/c", "a/b/c/d"], &["a/b", "a/b/x"]),
        // A rule that is not tried on a folder, being decided already, does not hold for what is in it.
        ("*\n!x/keep\nx", &["x", "x/a"], &["x/keep"]),
    ] {
        let rules = rules(content);
        for path in out {
            assert!(ignored(&rules, path), "{path:?} is not ignored by {content:?}");
        }
        for path in kept {
            assert!(!ignored(&rules, path), "{path:?} is ignored by {content:?}");
        }
    }
}

#[test]
fn reads_lines_as_docker_does() {
    for (content, out, kept) in [
        ("\u{feff}# comment\n\n   \na", &["a"][..], &["# comment", "comment"][..]),
        (" # no comment", &["# no comment"], &[]),
        ("a\r\nb\r\n", &["a", "b"], &[]),
        ("  a  \n\t!  b  \nb", &["a", "b"], &[" a"]),
        ("*\n!  b  ", &["a"], &["b"]),
        ("/a/b\n!/a/b/c", &["a/b", "a/b/d"], &["a/b/c", "x/a/b"]),
        ("./a/\nb//c/./d/../e/", &["a", "b/c/e"], &["b"]),
        ("../a\na/../../b\n/../c", &["c"], &["a", "b"]),
        (".\n/", &[], &["a", "b/c"]),
    ] {
        let rules = rules(content);
        for path in out {
            assert!(ignored(&rules, path), "{path:?} is not ignored by {content:?}");
        }
        for path in kept {
            assert!(!ignored(&rules, path), "{path:?} is ignored by {content:?}");
        }
    }
}

#[test]
fn names_the_line_of_a_bad_pattern() {
    for (content, line, pattern) in
        [("a\n\n# x\nb[", 4, "b["), ("!", 1, "!"), ("a\n!  ", 2, "!"), ("!x\\", 1, "!x\\")]
    {
        let error = Rules::parse("web/.dockerignore", content.as_bytes()).unwrap_err();
        let SourceError::BadIgnorePattern { file, line: found_line, pattern: found, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((file.as_str(), found_line, found.as_str()), ("web/.dockerignore", line, pattern));
    }
}

#[test]
fn descends_only_where_an_exception_may_reach() {
    let rules = rules("*\n!src/*.rs\n!docs");
    assert!(rules.reaches_into("src") && rules.reaches_into("docs"));
    assert!(!rules.reaches_into("node_modules"));
    assert!(!Rules::default().reaches_into("src"));
}

#[test]
fn cleans_as_go_does() {
    for (path, cleaned) in [
        ("", "."),
        ("abc", "abc"),
        ("abc/def/", "abc/def"),
        ("abc//def///ghi", "abc/def/ghi"),
        ("abc/./def", "abc/def"),
        ("abc/def/../ghi/..", "abc"),
        ("abc/def/../../..", ".."),
        ("../../abc", "../../abc"),
        ("/", "/"),
        ("/../abc", "/abc"),
        ("/abc/../..", "/"),
        ("./.", "."),
    ] {
        assert_eq!(clean(path), cleaned, "{path:?}");
    }
}

#[test]
fn the_number_of_rules_is_bounded() {
    let most = "x\n".repeat(MAX_RULES);
    assert_eq!(rules(&most).0.len(), MAX_RULES);
    let error = Rules::parse(".dockerignore", format!("{most}# y\n\ny").as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with(".dockerignore, line 10003: "), "{error}");
    assert!(error.to_string().contains("10,000"), "{error}");
}
