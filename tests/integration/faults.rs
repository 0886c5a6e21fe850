//! The fault matrix, as far as whole workers are needed for it: something real breaks, and every event ends
//! once all the same. ARCHITECTURE.md says which test proves which row.

mod broker;
mod collection;
mod connection;
mod disks;
mod engine;
mod kills;
mod matrix;
mod sources;
mod workers;

use crate::support::docker::BASE;
use crate::support::git::{GitServer, Repository};
use crate::support::grid::{TestGrid, fake_event};

/// A fake event for a commit of its own.
fn nth_event(n: usize, fake: &str) -> String {
    let commit = format!("{n:040}");
    fake_event(&format!("b-{n}"), fake).replace("9fceb02d0ae598e95dc970b74767f19372d61af8", &commit)
}

/// A fake that takes so many tenths of a second.
fn lasting(tenths: u32) -> String {
    format!(r#"{{"log_lines":{tenths},"line_interval_ms":100,"layers":1,"layer_bytes":10}}"#)
}

/// What a worker says of its readiness, and whether it is ready.
async fn readiness(grid: &TestGrid) -> (bool, String) {
    let page = format!("http://{}/readyz", grid.config.worker.status_listen);
    let answer = reqwest::get(page).await.unwrap();
    (answer.status().is_success(), answer.text().await.unwrap())
}

/// A commit whose one step runs for so many tenths of a second, as a process with `word` for an argument.
fn commit_lasting(server: &GitServer, word: &str, tenths: u32) -> Repository {
    let repository = server.empty("slow");
    let step = format!("for tenth in $(seq {tenths}); do echo tenth $tenth of {word}; sleep 0.1; done");
    let dockerfile =
        format!("FROM {BASE}\nRUN [\"sh\", \"-c\", \"{step}; echo {word} > /word\", \"{word}\"]\n");
    repository.write("Dockerfile", dockerfile);
    repository.commit("Take a while");
    repository
}

/// The event that asks for it.
fn commit_event(id: &str, repository: &Repository) -> String {
    let (url, commit) = (&repository.url, repository.head());
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"smoke","app":"web","repository":{{"url":"{url}"}},
            "commit":"{commit}","ref":"refs/heads/main"}}"#
    )
}
