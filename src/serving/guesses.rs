//! Logins that failed, and the growing time that the next one has to wait: for whoever tries many passwords.
//!
//! | failures of | are free, of people | of machines | then the wait grows up to |
//! |---|---|---|---|
//! | one user from one source | 4 | 50 | 5 minutes |
//! | one source | 20 | 100 | 5 minutes |
//! | one user, from everywhere | 50 | 500 | 30 seconds |
//!
//! The first wait is a second, each further failure doubles it. What was quiet for 15 minutes is forgotten. Who has got in
//! from a source before ([`Guesses::passed`], which only the timeline tells) waits for own failures there alone, whatever
//! others do.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::source::client_network;

const FIRST: Duration = Duration::from_secs(1);
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Entries kept at a time: some megabytes. What has been quiet the longest goes first.
const MOST: usize = 30_000;
/// How much of a user's name counts, in characters: no login has a longer one.
const NAME: usize = 64;

/// Whose failures are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Of {
    Login(String, IpNet),
    Source(IpNet),
    User(String),
}

/// How many failures are free.
#[derive(Debug, Clone, Copy)]
struct Free {
    login: u32,
    source: u32,
    user: u32,
}

impl Free {
    /// With the longest wait.
    fn of(self, of: &Of) -> (u32, Duration) {
        match of {
            Of::Login(..) => (self.login, Duration::from_secs(300)),
            Of::Source(_) => (self.source, Duration::from_secs(300)),
            Of::User(_) => (self.user, Duration::from_secs(30)),
        }
    }

    /// How long the longest of the waits for these is, if there is one.
    fn wait(self, all: &[Of; 3], entries: &HashMap<Of, Failures>, now: Instant) -> Option<Duration> {
        let is_known = entries.get(&all[0]).is_some_and(|login| login.is_known);
        let waits = all.iter().take(if is_known { 1 } else { all.len() }).filter_map(|of| {
            let failures = entries.get(of)?;
            let (free, longest) = self.of(of);
            let doublings = failures.count.checked_sub(free + 1)?;
            let wait = FIRST.saturating_mul(2u32.saturating_pow(doublings)).min(longest);
            (failures.last + wait).checked_duration_since(now).filter(|left| !left.is_zero())
        });
        waits.max()
    }
}

impl Of {
    fn all(user: &str, source: IpAddr) -> [Self; 3] {
        let user: String = user.chars().take(NAME).collect();
        let source = client_network(source);
        [Self::Login(user.clone(), source), Self::Source(source), Self::User(user)]
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// Whether it was right once.
    is_known: bool,
}

/// The failed logins of a service.
#[derive(Debug)]
pub struct Guesses {
    free: Free,
    entries: Mutex<HashMap<Of, Failures>>,
}

impl Guesses {
    /// Of people, who choose passwords and mistype them.
    pub fn of_people() -> Self {
        Self { free: Free { login: 4, source: 20, user: 50 }, entries: Mutex::default() }
    }

    /// Of machines, whose passwords nobody guesses, and which try an old one many times a minute.
    pub fn of_machines() -> Self {
        Self { free: Free { login: 50, source: 100, user: 500 }, entries: Mutex::default() }
    }

    /// Begins a login, which counts as failed until [`passed`](Self::passed): any number may be tried at once.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn begin(&self, user: &str, source: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut entries = self.lock();
        let all = Of::all(user, source);
        match self.free.wait(&all, &entries, now) {
            Some(wait) => Err(wait),
            None => {
                count(&mut entries, all, now);
                Ok(())
            }
        }
    }

    /// A login was right.
    pub fn passed(&self, user: &str, source: IpAddr, now: Instant) {
        let mut entries = self.lock();
        let [login, source, user] = Of::all(user, source);
        entries.insert(login, Failures { count: 0, last: now, is_known: true });
        for of in [source, user] {
            if let Some(failures) = entries.get_mut(&of) {
                failures.count = failures.count.saturating_sub(1);
            }
        }
    }

    /// A login was wrong whose secret nobody guesses, so that a right one is never made to wait. Answers how long
    /// the next wrong one would have to.
    pub fn failed(&self, user: &str, source: IpAddr, now: Instant) -> Option<Duration> {
        let mut entries = self.lock();
        let all = Of::all(user, source);
        let wait = self.free.wait(&all, &entries, now);
        if wait.is_none() {
            count(&mut entries, all, now);
        }
        wait
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Of, Failures>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(entries: &mut HashMap<Of, Failures>, all: [Of; 3], now: Instant) {
    if entries.len() >= MOST {
        entries.retain(|_, failures| now.duration_since(failures.last) < FORGOTTEN);
        let mut ages: Vec<_> = entries.values().map(|failures| failures.last).collect();
        ages.sort_unstable();
        if let Some(&middle) = ages.get(MOST / 2) {
            entries.retain(|_, failures| failures.last > middle);
        }
    }
    for of in all {
        let failures = entries.entry(of).or_insert(Failures { count: 0, last: now, is_known: false });
        if now.duration_since(failures.last) >= FORGOTTEN {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now, ..*failures };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Fails so often, each time as soon as it may; the waits, in seconds.
    fn fail(guesses: &Guesses, user: &str, source: IpAddr, times: u32, now: &mut Instant) -> Vec<u64> {
        let mut waits = Vec::new();
        for _ in 0..times {
            while let Err(wait) = guesses.begin(user, source, *now) {
                waits.push(wait.as_secs());
                *now += wait;
            }
        }
        waits
    }

    #[test]
    fn waits_double_and_a_right_password_ends_them() {
        let (guesses, mut now) = (Guesses::of_people(), Instant::now());
        let waits = fail(&guesses, "anna", at(1), 15, &mut now);
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(guesses.begin("anna", at(2), now).is_ok(), "from elsewhere");
        assert!(guesses.begin("bert", at(1), now).is_ok(), "another");
        guesses.passed("anna", at(1), now);
        assert!(guesses.begin("anna", at(1), now).is_ok());
    }

    #[test]
    fn who_got_in_before_is_not_made_to_wait_by_others() {
        let (guesses, mut now) = (Guesses::of_people(), Instant::now());
        guesses.passed("anna", at(1), now);
        // Somebody behind the same address, and others after the same user.
        (0..25).for_each(|n| drop(fail(&guesses, &format!("u{n}"), at(1), 1, &mut now)));
        assert!(guesses.begin("u99", at(1), now).is_err());
        assert!(guesses.begin("anna", at(1), now).is_ok());
        (100..200).for_each(|n| drop(fail(&guesses, "anna", at(n), 1, &mut now)));
        assert!(guesses.begin("anna", at(9), now).is_err());
        now += FORGOTTEN;
        (100..200).for_each(|n| drop(fail(&guesses, "anna", at(n), 1, &mut now)));
        let waits = fail(&guesses, "anna", at(1), 6, &mut now);
        assert_eq!(waits, [1], "for its own failures");
    }

    #[test]
    fn a_source_that_tries_many_users_waits_and_so_do_many_sources_that_try_one() {
        let (guesses, mut now) = (Guesses::of_people(), Instant::now());
        let waits: Vec<_> =
            (0..25).flat_map(|n| fail(&guesses, &format!("u{n}"), at(1), 1, &mut now)).collect();
        assert_eq!(waits, [1, 2, 4, 8]);
        let waits: Vec<_> = (100..200).flat_map(|n| fail(&guesses, "anna", at(n), 1, &mut now)).collect();
        assert_eq!((waits[0], waits.iter().max()), (1, Some(&30)));
        // IPv6: all of a client's network is one source.
        let guesses = Guesses::of_people();
        for n in 0..21u16 {
            let source = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 1, 2, 3, n);
            assert!(guesses.begin(&format!("u{n}"), source.into(), now).is_ok());
        }
        let neighbour = |net| IpAddr::from(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, net, 9, 9, 9, 9));
        assert!(guesses.begin("x", neighbour(0), now).is_err());
        assert!(guesses.begin("x", neighbour(1), now).is_ok());
    }

    #[test]
    fn tries_at_once_are_counted_and_quiet_is_forgotten() {
        let (guesses, now) = (Guesses::of_people(), Instant::now());
        let begun = (0..100).filter(|_| guesses.begin("anna", at(1), now).is_ok()).count();
        assert_eq!(begun, 5);
        assert_eq!(guesses.begin("anna", at(1), now), Err(FIRST));
        let later = now + FORGOTTEN;
        assert_eq!((0..100).filter(|_| guesses.begin("anna", at(1), later).is_ok()).count(), 5);
    }

    #[test]
    fn right_logins_among_wrong_ones_cost_nothing() {
        let (guesses, now) = (Guesses::of_people(), Instant::now());
        for _ in 0..1000 {
            guesses.begin("anna", at(1), now).unwrap();
            guesses.passed("anna", at(1), now);
        }
        assert_eq!((0..6).filter_map(|_| guesses.failed("anna", at(1), now)).collect::<Vec<_>>(), [FIRST]);
    }

    #[test]
    fn memory_is_bounded() {
        let (guesses, now) = (Guesses::of_people(), Instant::now());
        for n in 0..40_000u32 {
            let source = IpAddr::from((n + (10 << 24)).to_be_bytes());
            let _ = guesses.begin(&n.to_string(), source, now + Duration::from_millis(n.into()));
            assert!(guesses.lock().len() <= MOST + 3);
        }
        assert!(guesses.lock().len() > MOST / 3);
    }
}
