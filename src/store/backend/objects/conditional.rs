//! What puts on condition do in place of locks, and how something is taken away without one.
//!
//! No removal is sent on condition (the library has none, and not every service keeps one), so it could come to what
//! somebody has put a moment before. What others may put again is therefore removed in two steps that they see:
//!
//! - of the marks of the collection, the list is first changed on condition to one that ends with a line that says
//!   that the removal goes on; then the objects are removed; then the line is taken off with the marks. Who needs one of
//!   them reads the list before it puts or relies on anything, and waits while the line is there;
//! - of a tag, the link is first replaced on condition by an object of no bytes, which counts as not there; then that is
//!   removed. Who wants to put the tag meanwhile finds the empty object, and waits until it is gone.
//!
//! The remover may die between the steps. So who waits takes over what has not changed for [`STALE`] by its own clock,
//! again on condition: two do not both. And the remover begins no removal later than [`HOLD`] after it has begun the first
//! step, sends each once, and gives up on its answer after 15 seconds: the last one is over a minute before anybody takes
//! over, however slow the service. Where one had no answer, the first step is not taken back, so that nobody goes on before. A remover that is stopped in mid-removal, and goes on after others have taken over,
//! finds its time to be over; only the request that it was about to write to an open connection can still go out, if the
//! service has kept that connection for all the while. What the removal would then take is found missing by the publisher's
//! look after its tag, or by the next scrub.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use object_store::{Error, ObjectStoreExt as _, PutMode, PutPayload, UpdateVersion};

use super::bucket::{Found, Objects, is_taken};
use crate::store::backend::Swap;
use crate::store::credentials::random_text;
use crate::store::error::StoreError;
use crate::store::layout::{self, Key};

/// For so long after its first step a remover begins removals.
const HOLD: Duration = Duration::from_secs(30);
/// What a remover has left unchanged for so long, it does not come back to.
const STALE: Duration = Duration::from_secs(150);
/// Every how long one who waits looks.
const LOOK: Duration = Duration::from_millis(200);
/// The most that a service copies at once, in bytes.
const LARGEST_COPY: u64 = 5 << 30;

/// Begins the line that says that a removal goes on.
const REMOVING: &[u8] = b"{\"removing\":";

/// That nobody else relies on what is being removed: since when, by a clock that goes on while the machine is suspended.
pub(in crate::store) struct Hold {
    since: Duration,
    /// Whether a removal had no answer, and may come late.
    is_unsure: AtomicBool,
}

impl Hold {
    fn begin() -> Self {
        Self { since: since_boot(), is_unsure: AtomicBool::new(false) }
    }

    pub(in crate::store) fn still(&self) -> Result<(), StoreError> {
        match since_boot().saturating_sub(self.since) < HOLD {
            true => Ok(()),
            false => Err(StoreError::Slow { limit: HOLD }),
        }
    }
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock").into()
}

/// Waits for a remover to go on, until it is plain that it does not.
#[derive(Default)]
struct Patience {
    seen: Option<(Option<String>, std::time::SystemTime)>,
    since: Option<Instant>,
}

impl Patience {
    /// Waits a moment, or answers that it is enough.
    fn is_over(&mut self, found: &Found, stale: Duration) -> bool {
        let seen = Some((found.version.e_tag.clone(), found.modified));
        if self.seen != seen {
            (self.seen, self.since) = (seen, Some(Instant::now()));
        }
        if self.since.is_some_and(|since| since.elapsed() >= stale) {
            return true;
        }
        std::thread::sleep(LOOK);
        false
    }
}

impl Objects {
    /// How long others wait for a remover.
    fn stale(&self) -> Duration {
        #[cfg(test)]
        if let Some(stale) = self.stale {
            return stale;
        }
        STALE
    }

    pub(in crate::store) fn put_if_absent(
        &self,
        before: &[(&Key, &[u8])],
        key: &Key,
        bytes: &[u8],
    ) -> Result<Swap, StoreError> {
        self.put(before)?;
        let mut patience = Patience::default();
        loop {
            if self.put_on(key, bytes, PutMode::Create)?.is_some() {
                return Ok(Swap::Done);
            }
            match self.fetch(key)? {
                // Removed since: the place is free again.
                None => {}
                Some(found) if !is_taken(key, found.bytes.len() as u64) => {
                    return Ok(Swap::Found(found.bytes.into()));
                }
                // About to be removed.
                Some(found) => {
                    let is_over = patience.is_over(&found, self.stale());
                    if is_over && self.put_on(key, bytes, PutMode::Update(found.version))?.is_some() {
                        return Ok(Swap::Done);
                    }
                }
            }
        }
    }

    pub(in crate::store) fn compare_and_set(
        &self,
        before: &[(&Key, &[u8])],
        key: &Key,
        expected: &[u8],
        bytes: &[u8],
    ) -> Result<Swap, StoreError> {
        let mut is_before = false;
        loop {
            match self.fetch(key)?.filter(|found| !is_taken(key, found.bytes.len() as u64)) {
                None => return self.put_if_absent(before, key, bytes),
                Some(found) if found.bytes != expected => return Ok(Swap::Found(found.bytes.into())),
                Some(found) => {
                    if !std::mem::replace(&mut is_before, true) {
                        self.put(before)?;
                    }
                    if self.put_on(key, bytes, PutMode::Update(found.version))?.is_some() {
                        return Ok(Swap::Done);
                    }
                }
            }
        }
    }

    /// Puts `becomes` if `was` stands there; answers whether it stands there now. Nothing is the same as no bytes.
    fn swap(&self, key: &Key, was: &[u8], becomes: &[u8]) -> Result<bool, StoreError> {
        let mode = match self.fetch(key)? {
            None if was.is_empty() => PutMode::Create,
            Some(found) if found.bytes == was => PutMode::Update(found.version),
            _ => return Ok(false),
        };
        Ok(self.put_on(key, becomes, mode)?.is_some())
    }

    /// Puts `becomes` if `was` stands there, in a list of which something may be in removal; answers whether it did.
    pub(in crate::store) fn change(&self, key: &Key, was: &[u8], becomes: &[u8]) -> Result<bool, StoreError> {
        if self.waits(key, was)? {
            return Ok(false);
        }
        if was == becomes {
            return Ok(self.read(key)?.unwrap_or_default() == was);
        }
        self.swap(key, was, becomes)
    }

    /// Whether a removal went on in the list, which is then over.
    fn waits(&self, key: &Key, was: &[u8]) -> Result<bool, StoreError> {
        let Some(rest) = without_hold(was) else { return Ok(false) };
        let mut patience = Patience::default();
        while let Some(found) = self.fetch(key)?.filter(|found| found.bytes == was) {
            if patience.is_over(&found, self.stale()) {
                self.put_on(key, rest, PutMode::Update(found.version))?;
                break;
            }
        }
        Ok(true)
    }

    pub(in crate::store) fn change_while<T>(
        &self,
        key: &Key,
        was: &[u8],
        becomes: impl FnOnce(&T) -> Vec<u8>,
        work: impl FnOnce(&Hold) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if self.waits(key, was)? {
            return Ok(None);
        }
        let hold = Hold::begin();
        let held = [was, REMOVING, b"\"", random_text::<10>().as_bytes(), b"\"}\n"].concat();
        if !self.swap(key, was, &held)? {
            return Ok(None);
        }
        let done = work(&hold);
        // The others wait until it cannot come any more, and then take it for what it was.
        if hold.is_unsure.into_inner() {
            return done.map(Some);
        }
        let after = done.as_ref().map_or_else(|_| was.to_vec(), becomes);
        // Where that fails, the others wait in vain, and then take it for what it was.
        let is_after = self.swap(key, &held, &after);
        let done = done?;
        Ok(is_after?.then_some(done))
    }

    /// Removes an object if it still is `expected`, before the `hold` is over that was taken for it, if one was.
    pub(in crate::store) fn remove_if(
        &self,
        key: &Key,
        expected: &[u8],
        hold: Option<&Hold>,
    ) -> Result<Swap, StoreError> {
        loop {
            let Some(found) = self.fetch(key)? else { return Ok(Swap::Done) };
            // What a removal that was not ended has left goes, too.
            if found.bytes != expected && !is_taken(key, found.bytes.len() as u64) {
                return Ok(Swap::Found(found.bytes.into()));
            }
            if self.take_away(key, found.version, hold)? {
                return Ok(Swap::Done);
            }
        }
    }

    /// Removes what is of this version; answers whether it was.
    fn take_away(&self, key: &Key, version: UpdateVersion, hold: Option<&Hold>) -> Result<bool, StoreError> {
        let own = Hold::begin();
        let hold = hold.unwrap_or(&own);
        hold.still()?;
        // Once, so that it does not come later than is believed.
        let (store, path) = (self.client.once.clone(), self.at(key));
        let emptied = self.wait(async move {
            store.put_opts(&path, PutPayload::new(), PutMode::Update(version).into()).await
        });
        match emptied {
            Ok(_) => {}
            Err(Error::Precondition { .. } | Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(self.failed("remove", key)(error)),
        }
        // Later, somebody may have taken over; what is empty counts as removed.
        if hold.still().is_ok() {
            self.delete(key)?;
        }
        Ok(true)
    }

    /// Removes an object of which nobody puts another before `hold` is over, in a few tries.
    pub(in crate::store) fn erase(&self, key: &Key, hold: &Hold) -> Result<(), StoreError> {
        let mut left = 3;
        loop {
            hold.still()?;
            left -= 1;
            let done = self.delete(key);
            if !matches!(done, Ok(()) | Err(StoreError::Refused { .. })) {
                hold.is_unsure.store(true, Ordering::Relaxed);
            }
            match done {
                Err(_) if left > 0 => std::thread::sleep(LOOK),
                done => return done,
            }
        }
    }

    /// Copies an object to another place and takes it away, if it still is the one that was `seen`; answers whether it
    /// was. Of more than 5 GiB nothing is kept. A blob that somebody puts again with the same bytes in the moment
    /// between the last look and the put that empties it is lost; where it was, an empty object stays, which counts as
    /// not there, since a removal could come to a whole one.
    pub(in crate::store) fn set_aside(
        &self,
        key: &Key,
        seen: &object_store::ObjectMeta,
        aside: &Key,
    ) -> Result<bool, StoreError> {
        let is_kept = seen.size <= LARGEST_COPY;
        if is_kept {
            let (store, from, to) = (self.store(), self.at(key), self.at(aside));
            let copied = self.wait(async move { store.copy(&from, &to).await });
            if super::bucket::absent_is_none(copied).map_err(self.failed("copy", key))?.is_none() {
                return Ok(false);
            }
        }
        let same = |now: &object_store::ObjectMeta| {
            (&now.e_tag, now.last_modified, now.size) == (&seen.e_tag, seen.last_modified, seen.size)
        };
        let is_done = match self.head(key)?.filter(same) {
            None => false,
            Some(now) => {
                let version = UpdateVersion { e_tag: now.e_tag, version: now.version };
                match layout::is_blob(key) {
                    true => self.put_on(key, b"", PutMode::Update(version))?.is_some(),
                    false => self.take_away(key, version, None)?,
                }
            }
        };
        if !is_done && is_kept {
            self.delete(aside)?;
        }
        Ok(is_done)
    }
}

/// A list without the line that says that something of it is being removed. `None`: there is no such line.
fn without_hold(list: &[u8]) -> Option<&[u8]> {
    let lines = list.strip_suffix(b"\n")?;
    let last = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    lines[last..].starts_with(REMOVING).then(|| &list[..last])
}

#[cfg(test)]
mod tests {
    use super::super::client::REMOVAL;
    use super::*;

    #[test]
    fn a_removal_shows_in_the_last_line() {
        for plain in ["", "\n", "{\"key\":1}\n", "{\"removing\":", "x{\"removing\":\"1\"}\n"] {
            assert_eq!(without_hold(plain.as_bytes()), None, "{plain}");
        }
        assert_eq!(without_hold(b"{\"removing\":\"1\"}\n"), Some(&b""[..]));
        assert_eq!(without_hold(b"{\"key\":1}\n{\"removing\":\"1\"}\n"), Some(&b"{\"key\":1}\n"[..]));
    }

    #[test]
    fn others_wait_longer_than_a_remover_goes_on() {
        // The last request is sent within the hold.
        assert!(HOLD + REMOVAL < STALE - Duration::from_secs(60));
    }
}
