//! A name whose address changes between its check and its use, with real names: the program itself, on a network of
//! its own.

use std::os::unix::fs::MetadataExt as _;
use std::process::Output;

use super::git_server;
use crate::program::written;
use crate::support::docker::host;
use crate::support::grid::TestGrid;
use crate::support::process::as_root;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/source/rebinding.py");

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_its_address_is_used_as_it_was_checked() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let commit = repository.commit("One");
    let grid = TestGrid::idle(|_| ()).await;
    let config = written(&grid, |table| {
        table["engine"].as_table_mut().unwrap().insert("host".into(), host().into());
        table.remove("source");
    });
    let folder = tempfile::tempdir().unwrap();
    let owner = folder.path().metadata().unwrap();
    let build = |addresses: &str| -> Output {
        as_root("unshare")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "python3", SCRIPT])
            .args([folder.path(), &server.served()])
            .args([addresses, &owner.uid().to_string(), &owner.gid().to_string()])
            .arg(env!("CARGO_BIN_EXE_buildgrid"))
            .arg("--config")
            .arg(&config)
            .args(["build", "--namespace", "acme", "--app", "shop", "--commit", &commit])
            .args(["--repository", "http://git.example.com/x.git"])
            .output()
            .unwrap()
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let private = build("127.0.0.1");
    assert_eq!(private.status.code(), Some(10), "{}", said(&private));
    assert!(said(&private).contains("source.allow_private_addresses"), "{}", said(&private));
    assert!(said(&private).ends_with("lookups 1, reached 0\n"), "{}", said(&private));
    // Several requests, all of them to where the first look led.
    let changing = build("8.8.8.8,127.0.0.1");
    assert_eq!(changing.status.code(), Some(0), "{}", said(&changing));
    assert!(said(&changing).ends_with("lookups 1, reached 0\n"), "{}", said(&changing));
    grid.finish().await;
}
