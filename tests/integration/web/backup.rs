//! A copy of the database, made as the README says while the service writes to it.

use std::process::Command;

use reqwest::{Method, StatusCode};

use super::{Service, line};
use crate::support::process::output;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_database_made_while_it_is_written_is_gone_on_with() {
    let mut service = Service::start().await;
    service.claimed().await;
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    // The command of the README.
    let readme = include_str!("../../../README.md");
    let words = "sqlite3 timeline.db \".backup copy.db\"";
    assert!(readme.contains(words), "another command is tested here");
    let backup = words.replace("copy.db", copy.to_str().unwrap());
    let mut copied = Command::new("sh");
    copied.args(["-c", &backup]).current_dir(service.timeline.data());

    let mut copying = None;
    let mut seq = 0;
    loop {
        let lines: String = (seq..seq + 50).map(|seq| line(seq, None, "a line")).collect();
        assert_eq!(service.append(lines).await.status(), StatusCode::OK);
        seq += 50;
        match &mut copying {
            None if seq == 500 => copying = Some(copied.spawn().unwrap()),
            None => {}
            Some(child) => {
                if let Some(status) = child.try_wait().unwrap() {
                    assert!(status.success());
                    break;
                }
            }
        }
    }
    let before = service.log("").await;

    service.timeline.stop().await;
    service.timeline.lose_its_data();
    std::fs::create_dir(service.timeline.data()).unwrap();
    output(Command::new("cp").arg(&copy).arg(service.timeline.data().join("timeline.db")));
    service.timeline.start_again().await;
    let after = service.log("").await;
    let (kept, written) = (after.lines().count() as u64, before.lines().count() as u64);
    assert!((500..=seq).contains(&kept), "{kept} of {written} lines");
    assert!(before.starts_with(&after));
    // The worker is told where to go on.
    let answer = service.append(line(seq, None, "the next")).await;
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(if kept == seq { seq + 1 } else { kept }, problem["next_seq"].as_u64().unwrap(), "{problem}");
    let again = service.maestro(Method::GET, "/builds/b-1").send().await.unwrap();
    assert_eq!(again.status(), StatusCode::OK);
    service.timeline.finish().await;
}
