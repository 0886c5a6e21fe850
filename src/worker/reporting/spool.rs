//! How much log waits for the timeline service, in all build directories together, and how much may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytesize::ByteSize;

use crate::timeline::protocol::AttemptId;

/// Once full, it has room again when this part of it is free: one in so many.
const FREE: u64 = 16;

/// What the service has not confirmed yet, by attempt.
#[derive(Debug)]
pub struct Spool {
    /// `worker.max_spool`, in bytes.
    limit: u64,
    waiting: Mutex<Waiting>,
}

/// The lengths, in bytes, of what is written and of what the service has.
#[derive(Debug, Default, Clone, Copy)]
struct Log {
    written: u64,
    confirmed: u64,
}

impl Log {
    fn waits(self) -> u64 {
        self.written.saturating_sub(self.confirmed)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    logs: HashMap<AttemptId, Log>,
    /// What all of them have that is not confirmed.
    total: u64,
}

impl Waiting {
    fn change(&mut self, attempt: AttemptId, change: impl FnOnce(&mut Log)) {
        let log = self.logs.entry(attempt).or_default();
        let before = log.waits();
        change(log);
        self.total = self.total - before + log.waits();
    }
}

impl Spool {
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, waiting: Mutex::default() })
    }

    /// Counts the log of an attempt, which is so long now.
    pub fn wait_for(&self, attempt: AttemptId, length: u64) {
        self.waiting().change(attempt, |log| log.written = length);
    }

    /// Counts an attempt's log no more: nothing more of it is told.
    pub fn forget(&self, attempt: AttemptId) {
        let mut waiting = self.waiting();
        waiting.total -= waiting.logs.remove(&attempt).map_or(0, Log::waits);
    }

    /// Notes that the service has an attempt's log up to here, unless it does not wait any more.
    pub fn confirmed(&self, attempt: AttemptId, length: u64) {
        let mut waiting = self.waiting();
        if waiting.logs.contains_key(&attempt) {
            waiting.change(attempt, |log| log.confirmed = length);
        }
    }

    /// For an attempt that begins.
    pub fn share(self: &Arc<Self>, attempt: AttemptId) -> SpoolShare {
        self.wait_for(attempt, 0);
        SpoolShare { spool: self.clone(), attempt }
    }

    /// A panic in another thread cannot leave it half changed.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The spool, for the log of one attempt.
#[derive(Debug, Clone)]
pub struct SpoolShare {
    spool: Arc<Spool>,
    attempt: AttemptId,
}

impl SpoolShare {
    /// Whether so many bytes more may wait.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.spool.waiting().total.saturating_add(bytes) <= self.spool.limit
    }

    /// Whether there is room worth going on for, after it was full.
    pub fn is_free(&self) -> bool {
        self.has_room(self.spool.limit / FREE)
    }

    /// Counts bytes that were written, unless the attempt's log does not wait any more.
    pub fn add(&self, bytes: u64) {
        let mut waiting = self.spool.waiting();
        if waiting.logs.contains_key(&self.attempt) {
            waiting.change(self.attempt, |log| log.written += bytes);
        }
    }

    /// Why there is no room.
    pub fn full(&self) -> String {
        let limit = ByteSize(self.spool.limit).display().iec();
        format!("logs that the timeline service does not have yet are kept up to worker.max_spool ({limit})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_makes_room() {
        let spool = Spool::new(1600);
        let (old, new) = (AttemptId::generate(), AttemptId::generate());
        spool.wait_for(old, 700);
        spool.wait_for(old, 1000);
        let share = spool.share(new);
        share.add(500);
        assert!(share.has_room(100) && !share.has_room(101));
        share.add(50);
        assert!(!share.is_free(), "hardly");
        spool.confirmed(new, 500);
        assert!(share.has_room(550) && !share.has_room(551), "the service has the most of it");
        spool.confirmed(new, 0);
        spool.forget(old);
        assert!(share.is_free());
        spool.forget(new);
        share.add(5000);
        assert!(share.has_room(1600), "what nobody waits for takes no room");
    }
}
