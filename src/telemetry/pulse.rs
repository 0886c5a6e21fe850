//! What a part of the program shows of itself while it moves, for the [`watchdog`](super::watchdog).

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Beats while a part of the program moves. Clones are of the same part.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<AtomicU64>);

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Default for Pulse {
    fn default() -> Self {
        let pulse = Self(Arc::default());
        pulse.beat();
        pulse
    }
}

impl Pulse {
    pub fn beat(&self) {
        let since = u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.store(since, Ordering::Relaxed);
    }

    /// How long it has been silent.
    pub fn silent(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.0.load(Ordering::Relaxed));
        now.saturating_duration_since(*EPOCH + last)
    }

    /// `inner`, which beats with all that is read from it.
    pub fn reading<R: Read>(&self, inner: R) -> impl Read + use<R> {
        Beating { inner, pulse: self.clone() }
    }
}

struct Beating<R> {
    inner: R,
    pulse: Pulse,
}

impl<R: Read> Read for Beating<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.pulse.beat();
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_with_what_is_read() {
        let pulse = Pulse::default();
        let mut reader = pulse.reading(&[7; 2][..]);
        let pause = Duration::from_millis(100);
        for _ in 0..2 {
            std::thread::sleep(pause);
            assert!(pulse.silent(Instant::now()) >= pause / 2);
            let before = Instant::now();
            reader.read_exact(&mut [0]).unwrap();
            // Counted in whole milliseconds.
            assert!(pulse.silent(before) <= Duration::from_millis(1));
        }
    }
}
