//! Commits that cannot be built as the event asks: each has a sentence that says what to do.

use std::io::Write;
use std::process::Stdio;

use buildgrid::source::{Fault, SourceError};

use super::context::{tar, tar_of};
use super::{Fetcher, git_server};
use crate::support::git::{Repository, git};

async fn refused(repository: &Repository, root: &str, dockerfile: &str) -> SourceError {
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
    let error = tar(&fetched, root, dockerfile).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Build, "{error}");
    error
}

#[tokio::test]
async fn a_missing_dockerfile_is_looked_for_elsewhere() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("docker/web/Dockerfile", "FROM scratch\n");
    repository.write("src/main.rs", "");
    repository.commit("One");
    assert_eq!(
        refused(&repository, "", "Dockerfile").await.to_string(),
        r#"there is no "Dockerfile" in the repository; the repository has "docker/web/Dockerfile": set build.root to "docker/web" and build.dockerfile to "Dockerfile""#
    );
    repository.write("Dockerfile.prod", "FROM scratch\n");
    repository.write("api.Dockerfile", "FROM scratch\n");
    repository.write("Dockerfile.dockerignore", "x");
    repository.commit("Two");
    let error = refused(&repository, "src", "Dockerfile").await;
    let SourceError::NoDockerfile { found, .. } = &error else { panic!("{error}") };
    assert_eq!(*found, ["Dockerfile.prod", "api.Dockerfile", "docker/web/Dockerfile"]);
    let error = refused(&repository, "", "src/main.rs/Dockerfile").await;
    assert!(matches!(error, SourceError::NoDockerfile { .. }), "{error}");
}

#[tokio::test]
async fn root_and_dockerfile_must_be_what_they_are_taken_for() {
    let server = git_server().await;
    let repository = server.fixture("symlinks");
    let id = repository.head();
    for (root, dockerfile, expected) in [
        ("web", "Dockerfile", format!("build.root \"web\" is not in commit {id}")),
        ("run.sh", "Dockerfile", format!("build.root \"run.sh\" is a file in commit {id}, not a folder")),
        (
            "folder",
            "Dockerfile",
            format!("build.root \"folder\" is a symbolic link in commit {id}, not a folder"),
        ),
        ("", "docker", "\"docker\" is a folder, not a file".to_owned()),
        ("", "folder", "\"folder\" is a folder, not a file".to_owned()),
        ("", "outside", "\"outside\" is a symbolic link, which leaves the build context".to_owned()),
        ("", "absolute", "\"absolute\" is a symbolic link, which is absolute".to_owned()),
        ("", "dangling", "\"dangling\" is a symbolic link, which leads nowhere".to_owned()),
    ] {
        assert_eq!(refused(&repository, root, dockerfile).await.to_string(), expected);
    }
    for (target, link) in [("b", "a"), ("a", "b"), ("outside", "c")] {
        std::os::unix::fs::symlink(target, repository.work.join(link)).unwrap();
    }
    repository.commit("Go in circles");
    let error = refused(&repository, "", "a").await.to_string();
    assert!(error.ends_with("one of too many to follow"), "{error}");
    let error = refused(&repository, "", "c").await.to_string();
    assert_eq!(error, "\"c\" is a symbolic link by way of \"outside\", which leaves the build context");
}

#[tokio::test]
async fn a_dockerfile_has_a_limit_of_its_own() {
    let server = git_server().await;
    let repository = server.empty("x");
    let large = |bytes: usize| format!("FROM scratch\n# {}\n", "x".repeat(bytes - 16));
    repository.write("Dockerfile", large(4 << 20));
    repository.commit("One");
    tar_of(&repository, "").await.unwrap();
    repository.write("Dockerfile", large((4 << 20) + 1));
    repository.commit("Two");
    let error = refused(&repository, "", "Dockerfile").await.to_string();
    assert_eq!(error, "\"Dockerfile\" is larger than 4.0 MiB, the most that is read of such a file");
}

#[tokio::test]
async fn a_submodule_is_refused_only_inside_the_context() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("web/Dockerfile", "FROM scratch\n");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.commit("One");
    let entry = format!("160000,{},lib/left", "1".repeat(40));
    repository.git(&["update-index", "--add", "--cacheinfo", &entry]);
    repository.git(&["commit", "--quiet", "--message", "Add a submodule"]);
    repository.push("HEAD:refs/heads/main");
    let error = refused(&repository, "", "Dockerfile").await;
    assert!(matches!(&error, SourceError::Submodule { path, .. } if path == "lib/left"), "{error}");
    tar_of(&repository, "web").await.unwrap();
    let error = refused(&repository, "lib/left", "Dockerfile").await;
    assert!(matches!(&error, SourceError::Submodule { path, .. } if path == "lib/left"), "{error}");

    repository.write(".dockerignore", "lib/left\n");
    repository.git(&["add", ".dockerignore"]);
    repository.git(&["commit", "--quiet", "--message", "Ignore it"]);
    repository.push("HEAD:refs/heads/main");
    tar_of(&repository, "").await.unwrap();
}

#[tokio::test]
async fn an_lfs_pointer_is_no_file() {
    let server = git_server().await;
    let repository = server.empty("x");
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "0".repeat(64));
    repository.write("Dockerfile", "FROM scratch\n");
    repository.write("data/b.bin", &pointer);
    repository.write("large", vec![b'x'; 5000]);
    repository.write("model.bin", pointer);
    repository.commit("One");
    let error = refused(&repository, "", "Dockerfile").await;
    assert_eq!(error, SourceError::LfsPointers { paths: vec!["data/b.bin".into(), "model.bin".into()] });
    assert!(error.to_string().contains("\"data/b.bin\", \"model.bin\""), "{error}");
    repository.write(".dockerignore", "model.bin\ndata\n");
    repository.commit("Two");
    tar_of(&repository, "").await.unwrap();
}

#[tokio::test]
async fn a_bad_pattern_is_named_with_its_line() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.write(".dockerignore", "a\n\nb[\n");
    repository.commit("One");
    assert_eq!(
        refused(&repository, "", "Dockerfile").await.to_string(),
        ".dockerignore, line 3: the pattern \"b[\" cannot be read: a '[' has no ']'"
    );
}

/// A commit whose tree git itself would not write: entries as (mode, name, content).
fn forge(repository: &Repository, entries: &[(&str, &[u8], &str)]) {
    let object = |kind: &str, content: &[u8]| {
        let mut child = git(&repository.work)
            .args(["hash-object", "-t", kind, "-w", "--stdin", "--literally"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let mut tree = Vec::new();
    for (mode, name, content) in entries {
        let id = match *mode {
            "40000" => content.rsplit('/').fold(object("tree", &[]), |below, name| {
                let entry = format!("40000 {name}\0").into_bytes();
                let id = data_encoding::HEXLOWER.decode(below.as_bytes()).unwrap();
                object("tree", if name.is_empty() { Vec::new() } else { [entry, id].concat() }.as_slice())
            }),
            _ => object("blob", content.as_bytes()),
        };
        tree.extend_from_slice(format!("{mode} ").as_bytes());
        tree.extend_from_slice(name);
        tree.push(0);
        tree.extend(data_encoding::HEXLOWER.decode(id.as_bytes()).unwrap());
    }
    let tree = object("tree", &tree);
    let commit = repository.git(&["commit-tree", &tree, "-m", "Forge"]);
    repository.git(&["update-ref", "refs/heads/main", &commit]);
    repository.push("refs/heads/main");
}

#[tokio::test]
async fn names_that_lead_out_of_the_context_are_refused() {
    let server = git_server().await;
    for (index, (mode, name, content)) in [
        ("100644", &b".."[..], "x"),
        ("40000", b"..", ""),
        ("100644", b".", "x"),
        ("100644", b"a/../../b", "x"),
        ("100644", b"/etc/passwd", "x"),
        ("40000", b".git", ""),
        ("40000", b".git", "hooks/post-checkout"),
        ("40000", b".GIT", "hooks/post-checkout"),
        ("40000", b".gIt", "HOOKS/post-checkout"),
        ("40000", b"lib", ".Git/hooks"),
        ("100644", b".GIT", "x"),
        ("120000", b"link", ""),
        ("120000", b"link", "a\0b"),
        ("60000", b"device", "x"),
    ]
    .into_iter()
    .enumerate()
    {
        let repository = server.empty(&format!("x{index}"));
        let mut entries = [("100644", &b"Dockerfile"[..], "FROM scratch\n"), (mode, name, content)];
        entries.sort_by_key(|(_, name, _)| *name);
        forge(&repository, &entries);
        let error = refused(&repository, "", "Dockerfile").await;
        assert!(matches!(error, SourceError::BadName { .. }), "{error}");
    }
}

/// An engine would take the last one, whatever BuildGrid has read.
#[tokio::test]
async fn a_name_that_stands_twice_in_its_folder_is_refused() {
    let server = git_server().await;
    let repository = server.empty("x");
    let (plain, other) = ("FROM scratch\n", "# syntax=evil.example.com/front/end\nFROM scratch\n");
    forge(&repository, &[("100644", b"Dockerfile", plain), ("100644", b"Dockerfile", other)]);
    let error = refused(&repository, "", "Dockerfile").await;
    let SourceError::BadName { path, reason } = &error else { panic!("{error}") };
    assert!(path == "Dockerfile" && reason.contains("stands twice"), "{error}");
}

#[tokio::test]
async fn folders_that_are_nested_too_deep_are_refused() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.write(format!("{}file", "d/".repeat(300)), "deep");
    repository.commit("Dig");
    let error = refused(&repository, "", "Dockerfile").await;
    assert!(matches!(&error, SourceError::BadName { reason, .. } if reason.contains("256 deep")), "{error}");
    repository.write(".dockerignore", "d\n");
    repository.commit("Leave it out");
    tar_of(&repository, "").await.unwrap();
}
