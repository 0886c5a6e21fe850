//! What the rest of the store relies on, of a directory and of an object store alike: the same tests run over both. The
//! object store is a real S3 server.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::{Backend, BlobWriter, Content, Directory, Objects, Swap, s3, take};
use crate::store::blobs::BlobSource;
use crate::store::digest::Digest;
use crate::store::error::StoreError;
use crate::store::layout::{self, Key};
use crate::telemetry::pulse::Pulse;

/// A place for objects, as two processes see it.
struct Place {
    one: Arc<Backend>,
    two: Arc<Backend>,
    server: Option<s3::S3>,
    _folder: tempfile::TempDir,
}

impl Place {
    fn directory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let directory = Directory::at(folder.path());
            directory.make(&layout::temporary_files()).unwrap();
            Arc::new(Backend::Directory(directory))
        };
        Self { one: open(), two: open(), server: None, _folder: folder }
    }

    fn objects() -> Self {
        let server = s3::S3::start();
        let open = || Arc::new(Backend::Objects(Objects::connect(&server.store()).unwrap()));
        Self { one: open(), two: open(), server: Some(server), _folder: tempfile::tempdir().unwrap() }
    }

    /// Does the same in many threads of two processes at once.
    fn race<T: Send>(&self, threads: usize, work: impl Fn(usize, &Backend) -> T + Sync) -> Vec<T> {
        let work = &work;
        std::thread::scope(|scope| {
            let spawned: Vec<_> = (0..threads)
                .map(|number| {
                    let backend = if number % 2 == 0 { &self.one } else { &self.two };
                    scope.spawn(move || work(number, backend))
                })
                .collect();
            spawned.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod directory {
            $(#[test] fn $name() { super::$name(&super::Place::directory()); })*
        }
        mod objects {
            $(#[test] fn $name() { super::$name(&super::Place::objects()); })*
        }
    };
}

contract!(
    reads_what_was_put,
    lists_and_walks_more_than_a_page,
    of_many_puts_if_absent_one_wins,
    of_many_compare_and_sets_one_wins,
    a_list_loses_no_change,
    who_changes_a_list_waits_for_a_removal,
    a_removal_that_fails_changes_nothing,
    removes_on_condition,
    one_has_the_lease,
    sets_aside_what_was_seen,
    a_blob_is_whole_or_absent,
    takes_what_has_the_digest,
);

fn key(name: &str) -> Key {
    layout::quarantine().below(name)
}

fn lock() -> Key {
    layout::tags_lock()
}

fn read(content: &Content<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    content.reader().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn reads_what_was_put(place: &Place) {
    let (one, two) = (&place.one, &place.two);
    let (a, b) = (key("a"), key("folder/b"));
    assert_eq!((one.read(&a).unwrap(), one.size(&a).unwrap(), one.modified(&a).unwrap()), (None, None, None));
    assert!(one.open(&a).unwrap().is_none() && one.stamp(&a).unwrap().is_none());
    assert!(one.served(&a).unwrap().is_none());
    assert_eq!(one.list(&layout::quarantine()).unwrap(), [""; 0]);

    one.put(&[(&a, b"first"), (&b, b"second")]).unwrap();
    assert_eq!(two.read(&a).unwrap().as_deref(), Some(&b"first"[..]));
    assert_eq!(two.size(&b).unwrap(), Some(6));
    assert_eq!(two.list(&layout::quarantine()).unwrap(), ["a", "folder"]);
    assert_eq!(two.list(&key("folder")).unwrap(), ["b"]);
    assert_eq!(two.list_having(&layout::quarantine(), "b").unwrap(), ["folder"]);
    assert_eq!(two.list_having(&layout::quarantine(), "c").unwrap(), [""; 0]);
    if place.server.is_none() {
        assert_eq!(two.size(&key("folder")).unwrap(), None, "it is no object");
    }
    let age = two.modified(&a).unwrap().unwrap().elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
    let before = two.stamp(&a).unwrap();
    assert!(before.is_some() && before == one.stamp(&a).unwrap());
    let content = two.open(&a).unwrap().unwrap();
    assert_eq!((read(&content), read(&content)), (b"first".to_vec(), b"first".to_vec()));

    one.put(&[(&a, b"other")]).unwrap();
    one.note(&b, b"noted").unwrap();
    assert_ne!(two.stamp(&a).unwrap(), before);
    assert_eq!(two.read(&b).unwrap().as_deref(), Some(&b"noted"[..]));
    let served = two.served(&a).unwrap().unwrap();
    assert_eq!((served.size, matches!(served.source, BlobSource::Object(_))), (5, place.server.is_some()));
}

fn lists_and_walks_more_than_a_page(place: &Place) {
    let folder = layout::usages();
    place.race(8, |thread, backend| {
        for number in 0..140 {
            let key = folder.below(&format!("{thread}-{number:03}")).below("x");
            backend.put(&[(&key, b"bytes")]).unwrap();
        }
    });
    let names = place.one.list(&folder).unwrap();
    assert_eq!(names.len(), 1120);
    assert!(names.is_sorted());
    let (mut seen, mut bytes) = (std::collections::BTreeSet::new(), 0);
    place
        .one
        .walk(&folder, &mut |path, entry| {
            let Some(entry) = entry.object()? else { return Ok(true) };
            bytes += entry.bytes;
            assert!(entry.modified.elapsed().unwrap() < Duration::from_secs(300));
            Ok(seen.insert(path.to_owned()))
        })
        .unwrap();
    assert_eq!((seen.len(), bytes), (1120, 5600));
    assert!(seen.contains("3-007/x"));
    let mut few = 0;
    place
        .one
        .walk(&folder, &mut |_, _| {
            few += 1;
            Ok(few < 5)
        })
        .unwrap();
    assert_eq!(few, 5);
    if let Some(server) = &place.server {
        server.take_lines();
        place.one.walk(&folder, &mut |_, _| Ok(true)).unwrap();
        assert_eq!(server.take_lines().len(), 2, "a thousand with each request");
    }
}

fn of_many_puts_if_absent_one_wins(place: &Place) {
    let (before, at) = (key("before"), key("at"));
    let swaps = place.race(16, |number, backend| {
        let bytes = format!("of {number}");
        backend.put_if_absent(&[(&before, b"before")], &at, bytes.as_bytes()).unwrap()
    });
    assert_eq!(swaps.iter().filter(|swap| **swap == Swap::Done).count(), 1);
    let winner = place.one.read(&at).unwrap().unwrap();
    let done = swaps.iter().position(|swap| *swap == Swap::Done).unwrap();
    assert_eq!(winner, format!("of {done}").into_bytes());
    assert!(swaps.iter().all(|swap| matches!(swap, Swap::Done) || *swap == Swap::Found(winner.clone())));
    assert!(place.one.size(&before).unwrap().is_some());
}

fn of_many_compare_and_sets_one_wins(place: &Place) {
    let at = key("at");
    let set = |backend: &Backend, expected: &[u8], bytes: &[u8]| {
        backend.compare_and_set(&lock(), &[], &at, expected, bytes).unwrap()
    };
    assert_eq!(set(&place.one, b"anything", b"first"), Swap::Done, "nothing stood there");
    assert_eq!(set(&place.two, b"another", b"second"), Swap::Found(b"first".to_vec()));
    let swaps = place.race(16, |number, backend| set(backend, b"first", format!("of {number}").as_bytes()));
    assert_eq!(swaps.iter().filter(|swap| **swap == Swap::Done).count(), 1);
    let done = swaps.iter().position(|swap| *swap == Swap::Done).unwrap();
    assert_eq!(place.two.read(&at).unwrap().unwrap(), format!("of {done}").into_bytes());
}

fn a_list_loses_no_change(place: &Place) {
    let list = layout::condemned("00");
    place.race(8, |number, backend| {
        for turn in 0..4 {
            loop {
                let was = backend.read(&list).unwrap().unwrap_or_default();
                let becomes = [&was[..], format!("{number}.{turn}\n").as_bytes()].concat();
                if backend.change(&lock(), &list, &was, &becomes).unwrap() {
                    break;
                }
            }
        }
    });
    let text = String::from_utf8(place.one.read(&list).unwrap().unwrap()).unwrap();
    let lines: std::collections::BTreeSet<_> = text.lines().collect();
    assert_eq!((lines.len(), text.lines().count()), (32, 32), "{text}");
    // To nothing, and from nothing.
    assert!(place.one.change(&lock(), &list, text.as_bytes(), b"").unwrap());
    assert_eq!(place.two.read(&list).unwrap(), None);
    assert!(!place.two.change(&lock(), &list, text.as_bytes(), b"x\n").unwrap());
    assert!(place.two.change(&lock(), &list, b"", b"x\n").unwrap());
}

fn who_changes_a_list_waits_for_a_removal(place: &Place) {
    let (list, object) = (layout::condemned("00"), key("object"));
    place.one.put(&[(&object, b"object")]).unwrap();
    assert!(place.one.change(&lock(), &list, b"", b"mark\nother\n").unwrap());
    let is_removed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (begun, begins) = std::sync::mpsc::channel();
        let (is_removed, list, object) = (&is_removed, &list, &object);
        scope.spawn(move || {
            let removed = place.one.change_while(
                &lock(),
                list,
                b"mark\nother\n",
                |_| b"other\n".to_vec(),
                |held| {
                    begun.send(()).unwrap();
                    std::thread::sleep(Duration::from_secs(1));
                    place.one.erase(object, held)?;
                    is_removed.store(true, Ordering::SeqCst);
                    Ok(7)
                },
            );
            assert_eq!(removed.unwrap(), Some(7));
        });
        begins.recv().unwrap();
        loop {
            let was = place.two.read(list).unwrap().unwrap_or_default();
            if !was.starts_with(b"mark\n") {
                break;
            }
            let done = place.two.change(&lock(), list, &was, b"").unwrap();
            assert!(!done, "what is being removed is not there to be changed");
            assert!(is_removed.load(Ordering::SeqCst));
        }
    });
    assert_eq!(place.two.read(&list).unwrap().unwrap(), b"other\n");
    assert_eq!(place.two.size(&object).unwrap(), None);
}

fn a_removal_that_fails_changes_nothing(place: &Place) {
    let list = layout::condemned("00");
    assert!(place.one.change(&lock(), &list, b"", b"mark\n").unwrap());
    let failed = place.one.change_while(
        &lock(),
        &list,
        b"mark\n",
        |_| Vec::new(),
        |_| Err::<(), _>(StoreError::Stopping),
    );
    assert!(matches!(failed, Err(StoreError::Stopping)));
    assert_eq!(place.two.read(&list).unwrap().unwrap(), b"mark\n");
    let not = place.two.change_while(
        &lock(),
        &list,
        b"another\n",
        |_| Vec::new(),
        |_| -> Result<(), StoreError> { panic!("it is not what was expected") },
    );
    assert!(not.unwrap().is_none());
    assert_eq!(
        place.one.change_while(&lock(), &list, b"mark\n", |_| Vec::new(), |_| Ok(())).unwrap(),
        Some(())
    );
    assert_eq!(place.two.read(&list).unwrap(), None);
}

fn removes_on_condition(place: &Place) {
    let (one, two, at) = (&place.one, &place.two, key("at"));
    assert_eq!(one.remove_if(&lock(), &at, b"first", None).unwrap(), Swap::Done);
    one.put(&[(&at, b"first")]).unwrap();
    assert_eq!(two.remove_if(&lock(), &at, b"second", None).unwrap(), Swap::Found(b"first".to_vec()));
    assert_eq!(two.remove_if(&lock(), &at, b"first", None).unwrap(), Swap::Done);
    assert_eq!((one.read(&at).unwrap(), one.size(&at).unwrap()), (None, None));
    assert_eq!(one.list(&layout::quarantine()).unwrap(), [""; 0]);
    assert_eq!(one.put_if_absent(&[], &at, b"second").unwrap(), Swap::Done);
    assert!(two.remove(&at).unwrap() && !two.remove(&at).unwrap());
    one.put(&[(&at, b"third")]).unwrap();
    assert_eq!((two.discard(&at).unwrap(), two.discard(&at).unwrap()), (Some(5), None));
}

fn one_has_the_lease(place: &Place) {
    let at = layout::collection_lease();
    let lease = place.one.lease(&at).unwrap().unwrap();
    assert!(place.two.lease(&at).unwrap().is_none());
    let now = lease.now().unwrap();
    let off = now.duration_since(SystemTime::now()).unwrap_or_else(|before| before.duration());
    assert!(off < Duration::from_secs(3), "{off:?}");
    drop(lease);
    let leases = place.race(8, |_, backend| backend.lease(&at).unwrap());
    assert_eq!(leases.iter().flatten().count(), 1);
}

fn sets_aside_what_was_seen(place: &Place) {
    let (at, aside) = (layout::blob(Digest::of(b"whole")), key("aside"));
    let (one, two) = (&place.one, &place.two);
    one.put(&[(&at, b"damaged")]).unwrap();
    let seen = one.open(&at).unwrap().unwrap();
    two.put(&[(&at, b"whole")]).unwrap();
    assert!(!one.set_aside(&at, &seen, &aside).unwrap(), "it was put again");
    assert_eq!((two.read(&at).unwrap(), two.size(&aside).unwrap()), (Some(b"whole".to_vec()), None));
    two.put(&[(&at, b"damaged again")]).unwrap();
    let seen = one.open(&at).unwrap().unwrap();
    assert!(one.set_aside(&at, &seen, &aside).unwrap());
    assert_eq!((two.size(&at).unwrap(), two.read(&at).unwrap()), (None, None));
    assert!(two.served(&at).unwrap().is_none() && two.open(&at).unwrap().is_none());
    assert_eq!(two.read(&aside).unwrap().unwrap(), b"damaged again");
    let at_once = std::time::Instant::now();
    two.put(&[(&at, b"whole")]).unwrap();
    assert_eq!(one.read(&at).unwrap().unwrap(), b"whole");
    assert!(at_once.elapsed() < Duration::from_secs(2), "nobody waits to mend a blob");
}

fn a_blob_is_whole_or_absent(place: &Place) {
    // Of the lengths around those of parts.
    for length in [0, 1, 100_000, 8 << 20, (8 << 20) + 1, 20 << 20] {
        let bytes: Vec<u8> = (0..length).map(|place: usize| (place >> 3) as u8 ^ place as u8).collect();
        let mut writer = BlobWriter::new(place.one.clone()).unwrap();
        for piece in bytes.chunks(300_000) {
            writer.write_all(piece).unwrap();
        }
        let digest = Digest::of(&bytes);
        assert_eq!(place.two.size(&layout::blob(digest)).unwrap(), None);
        assert_eq!(writer.commit().unwrap(), (digest, length as u64));
        let content = place.two.open(&layout::blob(digest)).unwrap().unwrap();
        assert_eq!(Digest::of(&read(&content)), digest, "{length}");
    }
    let mut writer = BlobWriter::new(place.one.clone()).unwrap();
    writer.write_all(b"given up").unwrap();
    drop(writer);
    assert_eq!(place.two.size(&layout::blob(Digest::of(b"given up"))).unwrap(), None);
    let mut left = Vec::new();
    place
        .one
        .walk(&layout::temporary_files(), &mut |path, _| {
            left.push(path.to_owned());
            Ok(true)
        })
        .unwrap();
    assert_eq!((left, place.server.as_ref().map_or(0, s3::S3::parts)), (Vec::new(), 0));
}

fn takes_what_has_the_digest(place: &Place) {
    let bytes = vec![7; 20 << 20];
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let (expected, other) = (Digest::of(&bytes), Digest::of(b"other"));
    let from_start = |cancel: &CancellationToken, digest| {
        use std::io::Seek as _;
        let mut file = &file;
        file.rewind().unwrap();
        take(&place.one, file, digest, &Pulse::default(), cancel)
    };
    let (going, stopped) = (CancellationToken::new(), CancellationToken::new());
    stopped.cancel();
    let cancelled = from_start(&stopped, expected).unwrap_err();
    assert_eq!(cancelled.kind(), std::io::ErrorKind::Interrupted);
    assert_eq!(from_start(&going, other).unwrap(), expected, "it says which it has");
    for digest in [expected, other] {
        assert_eq!(place.two.size(&layout::blob(digest)).unwrap(), None);
    }
    assert_eq!(from_start(&going, expected).unwrap(), expected);
    assert_eq!(place.two.size(&layout::blob(expected)).unwrap(), Some(20 << 20));
    assert_eq!(place.server.as_ref().map_or(0, s3::S3::parts), 0);
}
