//! Tests of the build directories.

use super::*;
use crate::event::deploy::DeployEvent;

const EVENT: &[u8] = br#"{"version":1,"id":"b-1","namespace":"smoke","app":"web",
    "commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{}}"#;

fn event() -> DeployEvent {
    DeployEvent::parse(EVENT).unwrap().0
}

#[test]
fn is_locked_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    let first = DataDirectory::open(&root).unwrap();
    let refused = DataDirectory::open(&root).unwrap_err().to_string();
    assert!(refused.contains("in use") && refused.contains("data_dir"), "{refused}");
    for path in [root.clone(), root.join("builds"), root.join("mirrors")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
    drop(first);
    DataDirectory::open(&root).unwrap();
}

#[test]
fn knows_what_became_of_an_id() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDirectory::open(folder.path()).unwrap();
    let event = event();
    let directory = data.build(&event.id);
    assert!(matches!(directory.look(event.body, None).unwrap(), Known::Nothing));
    let spool = directory.begin(EVENT, 1).unwrap();
    fs::write(spool.join("export.tar"), "left by a crash").unwrap();
    fs::write(directory.log_path(), "{}\n").unwrap();
    fs::write(directory.path.join("report.json"), "{}").unwrap();
    assert!(matches!(directory.look(event.body, None).unwrap(), Known::Unfinished { next_attempt: 1 }));
    assert!(matches!(directory.look(Digest::of(b"another"), None).unwrap(), Known::Conflict));

    let spool = directory.begin(EVENT, 2).unwrap();
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
    assert!(!directory.log_path().exists(), "the first attempt's log was set aside");
    assert_eq!(fs::read_to_string(directory.path.join("log.1.ndjson")).unwrap(), "{}\n");
    assert!(!directory.path.join("report.json").exists() && directory.path.join("report.1.json").exists());

    let building =
        BuildState { engine_build: Some(EngineBuildId::generate()), ..BuildState::new(2, "building") };
    directory.note(&building);
    fs::write(directory.path.join(".outcome.json.new"), "{").unwrap();
    let left = data.recover().unwrap();
    assert_eq!((left.unfinished, left.on_engine), (1, building.engine_build.into_iter().collect()));
    assert!(!spool.exists(), "nothing runs, so the spool was left by a crash");
    assert!(!directory.path.join(".outcome.json.new").exists(), "and so was this");
    directory.note(&BuildState::new(2, BuildState::RETRYING));
    let known = directory.look(event.body, None).unwrap();
    assert!(matches!(known, Known::Unfinished { next_attempt: 3 }), "{known:?}");
    let result = ResultEvent::rejected(event.identity(), 3, "no", "worker-1");
    directory.end(EVENT, &result).unwrap();
    let Known::Ended(kept) = directory.look(event.body, None).unwrap() else { panic!("it has ended") };
    assert_eq!((kept.id, kept.state, kept.reason), (result.id, result.state, result.reason));
    let left = data.recover().unwrap();
    assert_eq!((left.unfinished, left.on_engine.len()), (0, 0));

    let known = directory.look(event.body, Some("wish-1")).unwrap();
    assert!(matches!(known, Known::Unfinished { next_attempt: 1 }), "a requeue opens it again: {known:?}");
    let result = ResultEvent::rejected(event.identity(), 1, "still no", "worker-1");
    directory.end(EVENT, &result).unwrap();
    let known = directory.look(event.body, Some("wish-1")).unwrap();
    assert!(matches!(known, Known::Ended(_)), "and the same requeue once only: {known:?}");

    assert!(directory.unchanged() < Duration::from_secs(60));
    directory.remove().unwrap();
    assert!(!directory.path.exists());
    directory.remove().unwrap();
}

#[test]
fn an_end_without_a_beginning_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDirectory::open(folder.path()).unwrap();
    let event = event();
    let directory = data.build(&event.id);
    directory.end(EVENT, &ResultEvent::rejected(event.identity(), 1, "no", "worker-1")).unwrap();
    assert!(matches!(directory.look(event.body, None).unwrap(), Known::Ended(_)));
    assert!(matches!(directory.look(Digest::of(b"another"), None).unwrap(), Known::Conflict));
}

#[test]
fn a_log_follows_its_report_after_a_crash_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDirectory::open(folder.path()).unwrap();
    let directory = data.build(&event().id);
    directory.begin(EVENT, 1).unwrap();
    fs::write(directory.log_path(), "first\n").unwrap();
    fs::write(directory.path.join("report.1.json"), "{}").unwrap();
    data.recover().unwrap();
    assert_eq!(fs::read_to_string(directory.path.join("log.1.ndjson")).unwrap(), "first\n");
    fs::write(directory.log_path(), "second\n").unwrap();
    data.recover().unwrap();
    assert!(directory.log_path().exists(), "one that has no report stays");
}
