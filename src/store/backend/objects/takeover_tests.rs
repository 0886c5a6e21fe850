//! What is left by a process that dies between two steps, and who goes on; and what is made of lost answers.

use std::time::{Duration, Instant, SystemTime};

use object_store::PutMode;

use super::Objects;
use crate::store::backend::{Swap, s3};
use crate::store::error::StoreError;
use crate::store::layout;

/// A store that others wait for only a second.
fn hasty(server: &s3::S3) -> Objects {
    let mut objects = Objects::connect(&server.store()).unwrap();
    objects.stale = Some(Duration::from_secs(1));
    objects
}

#[test]
fn a_removal_that_is_never_ended_is_taken_over() {
    let server = s3::S3::start();
    let (one, two) = (hasty(&server), hasty(&server));
    let list = layout::condemned("00");
    let left = b"mark\n{\"removing\":\"x\"}\n";
    one.put(&[(&list, left)]).unwrap();
    let began = Instant::now();
    // What was read before the removal is waited for, too.
    std::thread::scope(|scope| {
        for objects in [&one, &two] {
            scope.spawn(|| assert!(!objects.change(&list, left, b"").unwrap()));
        }
    });
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(two.read(&list).unwrap().unwrap(), b"mark\n", "as it was before");
    assert!(two.change(&list, b"mark\n", b"").unwrap());
    // The first remover comes back.
    assert!(!one.change(&list, left, b"").unwrap());
}

#[test]
fn a_remover_that_was_overtaken_does_not_think_that_it_has_done_all() {
    let server = s3::S3::start();
    let (one, two) = (hasty(&server), hasty(&server));
    let list = layout::condemned("00");
    one.put(&[(&list, b"mark\n")]).unwrap();
    let done = one.change_while(
        &list,
        b"mark\n",
        |_| Vec::new(),
        |_| {
            let held = two.read(&list)?.unwrap();
            assert!(!two.change(&list, &held, b"")?, "it waited, and took over");
            assert!(two.change(&list, b"mark\n", b"another\n")?);
            Ok(())
        },
    );
    assert!(done.unwrap().is_none());
    assert_eq!(two.read(&list).unwrap().unwrap(), b"another\n", "what the other has put stays");
}

#[test]
fn who_needs_what_a_removal_without_an_answer_may_take_waits_until_it_cannot() {
    let server = s3::S3::start();
    let (one, two) = (hasty(&server), hasty(&server));
    let (list, blob) = (layout::condemned("00"), layout::quarantine().below("blob"));
    one.put(&[(&list, b"mark\n"), (&blob, b"blob")]).unwrap();
    server.lose_answer("DELETE", || {});
    let erased = one.change_while(&list, b"mark\n", |()| Vec::new(), |hold| one.erase(&blob, hold));
    assert!(erased.unwrap().is_some() && server.are_faults_over(), "it was sent once more");
    assert_eq!(one.read(&blob).unwrap(), None);
    let held = two.read(&list).unwrap().unwrap();
    assert!(held.starts_with(b"mark\n{\"removing\":"), "{}", String::from_utf8_lossy(&held));
    let began = Instant::now();
    assert!(!two.change(&list, &held, b"").unwrap());
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(two.change(&list, b"mark\n", b"").unwrap(), "as it was before");

    // One that is refused does not come.
    one.put(&[(&list, b"mark\n"), (&blob, b"blob")]).unwrap();
    for _ in 0..3 {
        server.refuse("DELETE", 403, "AccessDenied");
    }
    let refused = one.change_while(&list, b"mark\n", |()| Vec::new(), |hold| one.erase(&blob, hold));
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    assert_eq!(two.read(&list).unwrap().unwrap(), b"mark\n");
}

#[test]
fn a_tag_whose_removal_is_never_ended_can_be_put() {
    let server = s3::S3::start();
    let (one, two) = (hasty(&server), hasty(&server));
    let tag = layout::quarantine().below("tag");
    one.put(&[(&tag, b"")]).unwrap();
    assert_eq!(
        (one.read(&tag).unwrap(), one.size(&tag).unwrap(), one.modified(&tag).unwrap()),
        (None, None, None)
    );
    let swaps = std::thread::scope(|scope| {
        let put = |objects: &Objects, bytes: &[u8]| objects.put_if_absent(&[], &tag, bytes).unwrap();
        let other = scope.spawn(move || put(&two, b"two"));
        [put(&one, b"one"), other.join().unwrap()]
    });
    assert_eq!(swaps.iter().filter(|swap| **swap == Swap::Done).count(), 1, "{swaps:?}");

    // While its remover lives, it is waited for until the removal is over.
    one.put(&[(&tag, b"")]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            one.delete(&tag).unwrap();
        });
        assert_eq!(one.put_if_absent(&[], &tag, b"three").unwrap(), Swap::Done);
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(one.read(&tag).unwrap().unwrap(), b"three");
}

#[test]
fn a_lease_that_is_not_renewed_is_taken_over() {
    let server = s3::S3::start();
    let (one, two) = (hasty(&server), hasty(&server));
    let at = layout::collection_lease();
    one.put_on(&at, b"of one that was killed\n", PutMode::Create).unwrap().unwrap();
    assert!(two.lease(&at).unwrap().is_none());
    let file = std::fs::File::open(server.files().join(at.as_str())).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(180)).unwrap();
    let lease = two.lease(&at).unwrap().unwrap();
    assert!(one.lease(&at).unwrap().is_none());
    drop(lease);
    assert!(one.lease(&at).unwrap().is_some());
}

#[test]
fn the_time_of_a_lease_is_never_made_up() {
    let server = s3::S3::start();
    let (one, two) = (hasty(&server), hasty(&server));
    let at = layout::collection_lease();
    // Somebody removes it at once.
    let file = server.files().join(at.as_str());
    server.lose_answer("HEAD ", {
        let file = file.clone();
        move || std::fs::remove_file(file).unwrap()
    });
    let lease = one.lease(&at).unwrap().unwrap();
    assert!(server.are_faults_over() && file.exists(), "it was put again");
    let off = SystemTime::now().duration_since(lease.now()).unwrap();
    assert!(off < Duration::from_secs(60), "{off:?}");
    // Nor is one taken over by a clock that cannot be read.
    let clocks = server.files().join(layout::temporary_files().as_str());
    server.lose_answer("HEAD ", move || std::fs::remove_dir_all(clocks).unwrap());
    let error = two.lease(&at).err().unwrap().to_string();
    assert!(error.contains("buildgrid/tmp/clock-") && error.contains("gone"), "{error}");
}

#[test]
fn a_put_on_condition_whose_answer_is_lost_is_told_as_done() {
    let server = s3::S3::start();
    let objects = hasty(&server);
    let at = layout::quarantine().below("at");
    let lost = || server.lose_answer("PUT ", || ());
    lost();
    assert_eq!(objects.put_if_absent(&[], &at, b"one").unwrap(), Swap::Done);
    assert_eq!(
        objects.put_if_absent(&[], &at, b"one").unwrap(),
        Swap::Found(b"one".to_vec()),
        "as it was put"
    );
    lost();
    assert_eq!(objects.compare_and_set(&[], &at, b"one", b"two").unwrap(), Swap::Done);
    // Another has put something else meanwhile.
    let file = server.files().join(at.as_str());
    server.lose_answer("PUT ", move || std::fs::write(file, "another").unwrap());
    let swap = objects.compare_and_set(&[], &at, b"two", b"three").unwrap();
    assert_eq!(swap, Swap::Found(b"another".to_vec()));

    let list = layout::condemned("00");
    for (was, becomes) in [("", "mark\n"), ("mark\n", "other\n"), ("other\n", "")] {
        lost();
        assert!(objects.change(&list, was.as_bytes(), becomes.as_bytes()).unwrap(), "{was} {becomes}");
    }
    for number in 0..2 {
        objects.put(&[(&list, b"mark\n")]).unwrap();
        let done = objects.change_while(
            &list,
            b"mark\n",
            |_| Vec::new(),
            |_| {
                lost();
                Ok(number)
            },
        );
        assert_eq!(done.unwrap(), Some(number));
    }
    lost();
    drop(objects.lease(&layout::collection_lease()).unwrap().unwrap());
    lost();
    assert!(objects.lease(&layout::collection_lease()).unwrap().is_some(), "it was given back");
    assert!(server.are_faults_over());
}

#[test]
fn a_put_on_condition_is_tried_again() {
    let server = s3::S3::start();
    let objects = hasty(&server);
    let at = layout::quarantine().below("at");
    let faults = [
        (409, "ConditionalRequestConflict"),
        (503, "SlowDown"),
        (500, "InternalError"),
        (429, "TooManyRequests"),
    ];
    for (number, (status, code)) in faults.into_iter().enumerate() {
        let (was, becomes) = (format!("{number}"), format!("{}", number + 1));
        server.refuse("PUT ", status, code);
        let swap = match number {
            0 => objects.put_if_absent(&[], &at, becomes.as_bytes()).unwrap(),
            _ => objects.compare_and_set(&[], &at, was.as_bytes(), becomes.as_bytes()).unwrap(),
        };
        assert_eq!(swap, Swap::Done, "{code}");
    }
    server.refuse("PUT ", 409, "ConditionalRequestConflict");
    assert_eq!(objects.compare_and_set(&[], &at, b"4", b"5").unwrap(), Swap::Done);
    assert!(server.are_faults_over());

    for _ in 0..5 {
        server.refuse("PUT ", 503, "SlowDown");
    }
    let error = objects.compare_and_set(&[], &at, b"5", b"6").unwrap_err().to_string();
    assert!(error.contains("SlowDown"), "{error}");
    assert_eq!(objects.read(&at).unwrap().unwrap(), b"5");
    server.refuse("PUT ", 403, "AccessDenied");
    let error = objects.compare_and_set(&[], &at, b"5", b"6").unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(server.are_faults_over());
}
