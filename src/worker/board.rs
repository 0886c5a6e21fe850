//! The board: what each slot and each attempt is at, for the line in `systemctl status` and for the watchdog.
//!
//! A slot moves while it builds, waits for an event, is held by a gate, or pauses before it subscribes again.
//! One that ought to subscribe and does not, although the queue is there, is stuck. So is an attempt in a stage
//! whose pulse has been silent for longer than [`Pipeline::longest`](crate::pipeline::Pipeline::longest) says: the
//! stage's own limit should have ended it, or the disk it waits for is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::deploy::BuildId;
use crate::pipeline::Stage;
use crate::telemetry::pulse::Pulse;

/// How long a slot may take to subscribe while the queue is there. Each try has a time limit of its own, far
/// shorter.
const SUBSCRIBES_WITHIN: Duration = Duration::from_secs(300);
/// How long an attempt may take to begin, and how much longer than a stage may be silent it may: after a time limit
/// has told it to end, a full disk, or an engine that removes a large image, may be slow.
const LENIENCY: Duration = Duration::from_secs(600);

/// What a slot is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Held by a gate, or pausing after a subscription that ended.
    Held,
    Subscribing,
    /// Subscribed, and waiting for an event.
    Waiting,
    Building,
}

#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Marks>>);

#[derive(Default)]
struct Marks {
    next: u64,
    slots: HashMap<u64, (Slot, Instant)>,
    attempts: HashMap<BuildId, Attempt>,
}

struct Attempt {
    stage: &'static str,
    /// For how long its pulse may be silent. None while it waits for what may take any time: a broker that is away,
    /// room on a disk.
    limit: Option<Duration>,
    pulse: Pulse,
}

/// A slot's place on the board, until it is dropped.
pub struct OnSlot {
    board: Board,
    number: u64,
}

/// An attempt's place on the board, until it is dropped.
pub struct OnBoard {
    board: Board,
    id: BuildId,
    pulse: Pulse,
}

impl Board {
    pub fn slot(&self) -> OnSlot {
        let mut marks = self.lock();
        let number = marks.next;
        marks.next += 1;
        marks.slots.insert(number, (Slot::Held, Instant::now()));
        OnSlot { board: self.clone(), number }
    }

    pub fn attempt(&self, id: &BuildId) -> OnBoard {
        let attempt = OnBoard { board: self.clone(), id: id.clone(), pulse: Pulse::default() };
        attempt.mark("claimed", Some(Duration::ZERO));
        attempt
    }

    /// How many slots are at one of these.
    pub fn count(&self, of: &[Slot]) -> usize {
        self.lock().slots.values().filter(|(slot, _)| of.contains(slot)).count()
    }

    /// What does not move although it should, if anything does not. `can_consume` is whether the queue is there:
    /// while it is not, no slot is late.
    pub fn stuck(&self, now: Instant, can_consume: bool) -> Option<String> {
        let mut marks = self.lock();
        for (_, since) in marks.slots.values_mut().filter(|(slot, _)| *slot == Slot::Subscribing) {
            if !can_consume {
                *since = now;
            } else if now.duration_since(*since) > SUBSCRIBES_WITHIN {
                let minutes = SUBSCRIBES_WITHIN.as_secs() / 60;
                return Some(format!(
                    "a slot has not subscribed for {minutes} minutes, although the queue is there"
                ));
            }
        }
        let is_silent = |attempt: &Attempt| {
            attempt.limit.is_some_and(|limit| attempt.pulse.silent(now) > limit.saturating_add(LENIENCY))
        };
        let (id, Attempt { stage, pulse, .. }) =
            marks.attempts.iter().find(|(_, attempt)| is_silent(attempt))?;
        let (silent, leniency) = (pulse.silent(now).as_secs() / 60, LENIENCY.as_secs() / 60);
        Some(format!(
            "build {id} is {stage} and has not come forward for {silent} minutes, {leniency} more than it may take"
        ))
    }

    /// A panic in another thread cannot leave the marks half changed: each change is one call.
    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OnSlot {
    pub fn is(&self, slot: Slot) {
        self.board.lock().slots.insert(self.number, (slot, Instant::now()));
    }
}

impl Drop for OnSlot {
    fn drop(&mut self) {
        self.board.lock().slots.remove(&self.number);
    }
}

impl OnBoard {
    /// It enters a stage that may be silent for so long.
    pub fn enters(&self, stage: Stage, limit: Duration) {
        self.mark(stage.name(), Some(limit));
    }

    /// Beats with whatever brings its stage forward.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Its outcome is known; telling it may take any time.
    pub fn settles(&self) {
        self.mark("settled", None);
    }

    fn mark(&self, stage: &'static str, limit: Option<Duration>) {
        self.pulse.beat();
        let attempt = Attempt { stage, limit, pulse: self.pulse.clone() };
        self.board.lock().attempts.insert(self.id.clone(), attempt);
    }
}

impl Drop for OnBoard {
    fn drop(&mut self) {
        self.board.lock().attempts.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_does_not_subscribe_is_stuck_while_the_queue_is_there() {
        let board = Board::default();
        let slot = board.slot();
        let soon = Instant::now() + SUBSCRIBES_WITHIN / 2;
        let late = Instant::now() + SUBSCRIBES_WITHIN + Duration::from_secs(1);
        for moves in [Slot::Held, Slot::Waiting, Slot::Building] {
            slot.is(moves);
            assert_eq!(board.stuck(late, true), None, "{moves:?}");
        }
        slot.is(Slot::Subscribing);
        assert_eq!(board.stuck(soon, true), None);
        assert!(board.stuck(late, true).unwrap().contains("not subscribed for 5 minutes"));
        assert_eq!(board.stuck(late, false), None, "there is nothing to subscribe to");
        assert_eq!(board.stuck(late, true), None, "there only now");
        assert!(board.stuck(late + SUBSCRIBES_WITHIN * 2, true).is_some());
        drop(slot);
        assert_eq!(board.stuck(late + SUBSCRIBES_WITHIN * 2, true), None);
        assert_eq!(board.count(&[Slot::Subscribing]), 0);
    }

    #[test]
    fn an_attempt_that_is_silent_for_too_long_is_stuck_until_it_settles() {
        let board = Board::default();
        let hour = Duration::from_secs(3600);
        let attempt = board.attempt(&"b-1".parse().unwrap());
        assert!(board.stuck(Instant::now() + hour, true).unwrap().contains("b-1 is claimed"));
        attempt.enters(Stage::Building, hour);
        assert_eq!(board.stuck(Instant::now() + hour, true), None, "its own limit is to end it");
        let stuck = board.stuck(Instant::now() + hour * 2, true).unwrap();
        assert!(stuck.contains("b-1") && stuck.contains("building"), "{stuck}");
        attempt.enters(Stage::Publishing, Duration::MAX);
        assert_eq!(board.stuck(Instant::now() + hour * 2, true), None);
        attempt.settles();
        assert_eq!(board.stuck(Instant::now() + hour * 24, true), None, "a broker may be away for hours");
    }
}
