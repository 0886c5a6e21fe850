//! Submodules: what a build gets is what `git clone --recurse-submodules` checks out.

use buildgrid::source::{Fault, SourceError};

use super::context::{paths, tar, unpacks_to};
use super::private::Place;
use super::{Fetcher, git_server, loopback};
use crate::support::git::{Repository, git};
use crate::support::git_proxy::{GitProxy, Reaction};
use crate::support::process::output;

/// Why the submodules of a repository's newest commit cannot be had.
async fn error(fetcher: &Fetcher, repository: &Repository) -> SourceError {
    fetcher.fetch_all(&repository.url, &repository.head(), "", "Dockerfile").await.unwrap_err()
}

#[tokio::test]
async fn what_git_checks_out_recursively_is_in_the_context() {
    let server = git_server().await;
    let inner = server.empty("libs/inner");
    inner.write("run.sh", "#!/bin/sh\n");
    let old = inner.commit("Old");
    inner.write("new", "not at the recorded commit");
    inner.commit("New");
    let lib = server.empty("acme/lib");
    lib.write("src/lib.c", "int x;\n");
    std::os::unix::fs::symlink("src/lib.c", lib.work.join("link")).unwrap();
    lib.submodule("deep/inner", "../../libs/inner.git", &old);
    let lib_commit = lib.commit("Lib");
    let repository = server.empty("acme/app");
    repository.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    repository.submodule("vendor/lib", "../lib.git", &lib_commit);
    repository.submodule("again", &inner.url, &old);
    let commit = repository.commit("App");

    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch_all(&repository.url, &commit, "", "Dockerfile").await.unwrap();
    let (context, _) = tar(&fetched, "", "Dockerfile").await.unwrap();
    let checkout = tempfile::tempdir().unwrap();
    output(git(checkout.path()).args(["clone", "-q", "--recurse-submodules", &repository.url, "."]));
    unpacks_to(&context, checkout.path());
    assert!(paths(&context).contains(&"vendor/lib/deep/inner/run.sh".to_owned()), "{context:?}");
    // All of it lies in mirrors now, and gives the same bytes.
    drop(server);
    let again = fetcher.fetch_all(&repository.url, &commit, "", "Dockerfile").await.unwrap();
    assert!(tar(&again, "", "Dockerfile").await.unwrap().0 == context);
}

#[tokio::test]
async fn only_what_the_build_sees_is_fetched() {
    let server = git_server().await;
    let lib = server.empty("lib");
    lib.write("app/Dockerfile", "FROM scratch\n");
    lib.write("app/x", "x");
    let lib_commit = lib.commit("Lib");
    let missing = "1".repeat(40);
    let repository = server.empty("app");
    repository.write("web/Dockerfile", "FROM scratch\n");
    repository.write("web/.dockerignore", "ignored\nkept/*\n!kept/app\n");
    repository.submodule("elsewhere", "../nowhere.git", &missing);
    repository.submodule("web/ignored/lib", "../nowhere.git", &missing);
    repository.submodule("web/kept", "../lib.git", &lib_commit);
    repository.submodule("web/left", "../nowhere.git", &missing);
    let modules = std::fs::read_to_string(repository.work.join(".gitmodules")).unwrap();
    repository.write(".gitmodules", format!("{modules}\tupdate = none\n\tshallow = true\n"));
    let commit = repository.commit("App");
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch_all(&repository.url, &commit, "web", "Dockerfile").await.unwrap();
    let (context, _) = tar(&fetched, "web", "Dockerfile").await.unwrap();
    assert_eq!(
        paths(&context),
        [".dockerignore", "Dockerfile", "kept/", "kept/app/", "kept/app/Dockerfile", "kept/app/x", "left/"]
    );
    // The root, and a Dockerfile, may lie in a submodule.
    let fetched = fetcher.fetch_all(&repository.url, &commit, "web/kept/app", "Dockerfile").await.unwrap();
    let (context, _) = tar(&fetched, "web/kept/app", "Dockerfile").await.unwrap();
    assert_eq!(paths(&context), ["Dockerfile", "x"]);
    fetcher.fetch_all(&repository.url, &commit, "web", "kept/app/Dockerfile").await.unwrap();
    let error = fetcher.fetch_all(&repository.url, &commit, "web/left", "Dockerfile").await.unwrap_err();
    assert!(error.to_string().contains("update = none"), "{error}");

    let error = fetcher.fetch_all(&repository.url, &commit, "", "web/Dockerfile").await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains("submodule \"elsewhere\"") && words.contains("is not found"), "{words}");
    assert_eq!(error.fault(), Fault::Build);
}

#[tokio::test]
async fn what_has_to_be_read_first_may_be_links_into_submodules() {
    let server = git_server().await;
    let rules = server.empty("rules");
    rules.write("images/ignore", "broken\n");
    let rules_commit = rules.commit("Rules");
    let files = server.empty("files");
    files.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    let files_commit = files.commit("Files");
    let repository = server.empty("app");
    // Fetching this fails; that nothing of it is wanted stands in the last.
    repository.submodule("broken", "../nowhere.git", &"1".repeat(40));
    repository.submodule("files", "../files.git", &files_commit);
    repository.submodule("zz/rules", "../rules.git", &rules_commit);
    std::os::unix::fs::symlink("files/Dockerfile", repository.work.join("Dockerfile")).unwrap();
    std::os::unix::fs::symlink("zz/rules/images/ignore", repository.work.join(".dockerignore")).unwrap();
    let commit = repository.commit("App");
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch_all(&repository.url, &commit, "", "Dockerfile").await.unwrap();
    let (context, _) = tar(&fetched, "", "Dockerfile").await.unwrap();
    let paths = paths(&context);
    assert!(paths.contains(&"files/Dockerfile".to_owned()), "{paths:?}");
    assert!(!paths.iter().any(|path| path.starts_with("broken")), "{paths:?}");
}

#[tokio::test]
async fn a_submodule_is_fetched_with_its_own_credentials() {
    let server = git_server().await;
    let lib = server.empty("private/lib");
    let lib_commit = lib.commit("Lib");
    let repository = server.empty("app");
    repository.write("Dockerfile", "FROM scratch\n");
    // The proxy asks for a login below /private, and may not be shown one elsewhere: see `git_proxy`.
    let proxy = GitProxy::start(&server.url, |request| match request.line.contains("/private/") {
        true => Reaction::status(401),
        false => Reaction::Pass,
    })
    .await;
    repository.submodule("lib", &format!("{}/private/lib.git", proxy.url), &lib_commit);
    let commit = repository.commit("App");
    let place = Place::new(loopback());
    let url = format!("{}/app.git", proxy.url);
    let error = place.fetcher.fetch_all(&url, &commit, "", "Dockerfile").await.unwrap_err();
    let SourceError::InSubmodule { path, error } = &error else { panic!("{error}") };
    assert!(path == "lib" && matches!(**error, SourceError::NeedsCredentials { .. }), "{error}");

    let private = tokio::task::spawn_blocking(|| {
        crate::support::git::GitServer::with(&["--authorization", "Bearer abc-0123456789"])
    })
    .await
    .unwrap();
    let lib = private.empty("lib");
    lib.write("x", "x");
    let lib_commit = lib.commit("Lib");
    let repository = server.empty("other");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.submodule("lib", &lib.url, &lib_commit);
    let commit = repository.commit("App");
    place.write("git.acme.lib", format!("url = \"{}/lib\"\ntoken = \"abc-0123456789\"\n", private.url));
    let url = format!("{}/other.git", proxy.url);
    let fetched = place.fetcher.fetch_all(&url, &commit, "", "Dockerfile").await.unwrap();
    let (context, _) = tar(&fetched, "", "Dockerfile").await.unwrap();
    assert_eq!(paths(&context), [".gitmodules", "Dockerfile", "lib/", "lib/x"]);
}

#[tokio::test]
async fn hostile_gitmodules_reach_nothing() {
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let commit = "1".repeat(40);
    for (number, (url, reason)) in [
        ("file:///etc", "scheme"),
        ("/etc", "cannot be read"),
        ("ext::sh -c id", "space"),
        ("--upload-pack=id", "cannot be read"),
        ("https://me:hunter2@host/x", "credentials"),
        ("../../../../x", "does not name"),
        ("../a\\nb", "control"),
        ("http://169.254.169.254/latest", "169.254.169.254"),
        ("http://2852039166/latest", "169.254.169.254"),
        ("http://[::ffff:169.254.169.254]/latest", "allow_private_addresses"),
        ("http://[fe80::1]/x", "fe80::1"),
        ("http://10.0.0.1/x", "10.0.0.1"),
        ("ssh://-oProxyCommand=id/x", "begins with a dash"),
        ("ssh://git@-oProxyCommand=id/x", "begins with a dash"),
        ("git@-oProxyCommand=id:x", "begins with a dash"),
        ("https://host/x\\nHost: y", "control"),
        ("ssh://git@127.0.0.1:1/x", "needs"),
    ]
    .into_iter()
    .enumerate()
    {
        let repository = server.empty(&format!("hostile{number}"));
        repository.write("Dockerfile", "FROM scratch\n");
        repository.submodule("lib", url, &commit);
        repository.commit("Hostile");
        let error = error(&fetcher, &repository).await;
        let words = error.to_string();
        assert!(words.contains("submodule \"lib\""), "{url}: {words}");
        assert!(words.contains(reason) || reason == "needs", "{url}: {words}");
        assert!(!words.contains("hunter2"), "{words}");
        assert_eq!(error.fault(), Fault::Build, "{url}");
    }
    // Paths that are no submodule's are nobody's; one that nothing names is missed when it is needed.
    let repository = server.empty("paths");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.link("lib", &commit);
    repository.write(
        ".gitmodules",
        "[submodule \"a\"]\npath = ../../etc\nurl = file:///etc\n[submodule \"b\"]\npath = Dockerfile\nurl = file:///x\n\
         [submodule \"c\"]\npath = .git\nurl = file:///x\n[submodule \"../../d\"]\npath =\nurl = file:///x\n",
    );
    let head = repository.commit("Paths");
    let fetched = fetcher.fetch_all(&repository.url, &head, "", "Dockerfile").await.unwrap();
    let error = tar(&fetched, "", "Dockerfile").await.unwrap_err();
    assert!(matches!(&error, SourceError::Submodule { path, .. } if path == "lib"), "{error}");
    repository.write(".dockerignore", "lib\n");
    let head = repository.commit("Ignore it");
    let fetched = fetcher.fetch_all(&repository.url, &head, "", "Dockerfile").await.unwrap();
    tar(&fetched, "", "Dockerfile").await.unwrap();
}

#[tokio::test]
async fn submodules_are_bounded_in_depth() {
    let server = git_server().await;
    let mut below: Option<(String, String)> = None;
    for number in 0..12 {
        let repository = server.empty(&format!("r{number}"));
        repository.write("Dockerfile", "FROM scratch\n");
        if let Some((url, commit)) = &below {
            repository.submodule("s", url, commit);
        }
        let commit = repository.commit("Deeper");
        below = Some((repository.url.clone(), commit));
    }
    let (url, commit) = below.unwrap();
    let fetcher = Fetcher::new();
    let error = fetcher.fetch_all(&url, &commit, "", "Dockerfile").await.unwrap_err();
    assert!(error.to_string().contains("it lies in more than 10 others"), "{error}");
    fetcher
        .fetch_all(&url.replace("r11", "r10"), &server_head(&server, "r10"), "", "Dockerfile")
        .await
        .unwrap();
}

fn server_head(server: &crate::support::git::GitServer, name: &str) -> String {
    output(git(&server.served().join(format!("{name}.git"))).args(["rev-parse", "main"]))
}
