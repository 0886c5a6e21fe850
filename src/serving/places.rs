//! The places for connections: who gets one, who waits, and who is turned away, so that no source keeps the others out.
//!
//! - One source has seven eighths of the places at most, and of the room to wait in. A trusted proxy may have all: it is
//!   everybody.
//! - Whoever finds no place waits, connected. A place goes to the source that has the fewest.
//! - Those on which nothing happens make room for those who wait: of their own source where it has its share, else of any.
//! - Whoever has gone while it waited waits no more: nobody makes room for it, and it takes none from those who are there.
//! - Of a source of which as many wait as may, the rest is turned away, however few places it has: what waits in the kernel's
//!   queue would hide the others behind it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use metrics::{Counter, Gauge};
use tokio::time::Instant;

use super::rate_limited::RateLimited;
use super::server::Limits;
use super::source::{Proxies, client_network};
use super::visit::Visit;

/// How long none may be free, or one may wait since its source has its share, before that is said.
const PATIENCE: Duration = Duration::from_secs(5);

/// The part of `all` that one source may have. Of less than eight nothing can be kept for others.
fn share(all: usize) -> usize {
    all - all / 8
}

pub(super) struct Places<C> {
    limits: Limits,
    proxies: Proxies,
    /// How many may wait.
    room: usize,
    sources: HashMap<IpNet, Source<C>>,
    taken: usize,
    waiting: usize,
    full_since: Option<Instant>,
    said_full: RateLimited,
    said_share: RateLimited,
    said_refusal: RateLimited,
    figures: Figures,
}

struct Source<C> {
    taken: usize,
    /// How many it may have.
    most: usize,
    waiting: VecDeque<(Instant, C)>,
}

struct Figures {
    taken: Gauge,
    waiting: Gauge,
    refused: Counter,
    evicted: Counter,
}

impl Figures {
    fn of(service: &'static str) -> Self {
        Self {
            taken: metrics::gauge!("buildgrid_connections", "service" => service),
            waiting: metrics::gauge!("buildgrid_connections_waiting", "service" => service),
            refused: metrics::counter!("buildgrid_connections_refused_total", "service" => service),
            evicted: metrics::counter!("buildgrid_connections_evicted_total", "service" => service),
        }
    }
}

impl<C> Places<C> {
    pub(super) fn new(limits: Limits, proxies: Proxies, room: usize) -> Self {
        let places = Self {
            limits,
            proxies,
            room,
            sources: HashMap::new(),
            taken: 0,
            waiting: 0,
            full_since: None,
            said_full: RateLimited::default(),
            said_share: RateLimited::default(),
            said_refusal: RateLimited::default(),
            figures: Figures::of(limits.service),
        };
        places.count();
        places
    }

    /// Whether another one may wait; else it does so in the kernel's queue.
    pub(super) fn may_come(&self) -> bool {
        self.waiting < self.room
    }

    /// Whether there is something to say, or room to be made.
    pub(super) fn are_short(&self) -> bool {
        self.waiting > 0 || self.taken == self.limits.connections
    }

    /// One has connected, and waits until it is the [next](Self::next), or is turned away.
    pub(super) fn came(&mut self, address: IpAddr, client: C) {
        let (connections, is_proxy) = (self.limits.connections, self.proxies.contain(address));
        let (source, most, room) = match is_proxy {
            true => (IpNet::from(address.to_canonical()), connections, self.room),
            false => (client_network(address), share(connections), share(self.room)),
        };
        let entry = self.sources.entry(source);
        let entry = entry.or_insert_with(|| Source { taken: 0, most, waiting: VecDeque::new() });
        if entry.waiting.len() < room {
            entry.waiting.push_back((Instant::now(), client));
            self.waiting += 1;
            self.count();
            return;
        }
        self.figures.refused.increment(1);
        let (service, taken, waiting) = (self.limits.service, entry.taken, entry.waiting.len());
        self.said_refusal.say(|| {
            tracing::warn!(
                service, source = named(&source), taken, most, waiting,
                "connections of one source are closed: as many of it wait as may, and it has {taken} of the {most} places that \
                 it may have; keep it out, or, where it is many clients, raise {service}.max_connections; name a proxy in \
                 server.trusted_proxies"
            );
        });
    }

    /// Who gets a place, if one is free for somebody who waits.
    pub(super) fn next(&mut self) -> Option<(IpNet, C)> {
        if self.waiting == 0 || self.taken == self.limits.connections {
            return None;
        }
        let may = self.sources.iter_mut().filter(|(_, source)| source.taken < source.most);
        let first =
            may.filter_map(|(name, source)| Some((source.taken, source.waiting.front()?.0, name, source)));
        let (_, _, name, source) = first.min_by_key(|(taken, since, ..)| (*taken, *since))?;
        let (name, (_, client)) = (*name, source.waiting.pop_front()?);
        source.taken += 1;
        self.taken += 1;
        self.waiting -= 1;
        self.full_since = (self.taken == self.limits.connections).then(Instant::now);
        self.count();
        Some((name, client))
    }

    /// A place is free again that one of this source had.
    pub(super) fn left(&mut self, source: &IpNet) {
        self.taken -= 1;
        self.full_since = None;
        if let Some(entry) = self.sources.get_mut(source) {
            entry.taken -= 1;
            if entry.taken == 0 && entry.waiting.is_empty() {
                self.sources.remove(source);
            }
        }
        self.count();
    }

    /// Forgets those of the waiting who have gone.
    pub(super) fn forget(&mut self, has_gone: impl Fn(&C) -> bool) {
        self.sources.retain(|_, source| {
            source.waiting.retain(|(_, client)| !has_gone(client));
            source.taken > 0 || !source.waiting.is_empty()
        });
        self.waiting = self.sources.values().map(|source| source.waiting.len()).sum();
        self.count();
    }

    /// Evicts as many of the idle, from the first on, as help somebody who waits.
    pub(super) fn make_room(&self, idle: Vec<(IpNet, Arc<Visit>)>) {
        for visit in self.in_the_way(idle).filter(|visit| !visit.is_evicted()) {
            self.figures.evicted.increment(1);
            visit.evict();
        }
    }

    fn in_the_way<V>(&self, idle: Vec<(IpNet, V)>) -> impl Iterator<Item = V> {
        let (mut of_any, mut of_own) = (0, HashMap::new());
        for (name, source) in &self.sources {
            match source.taken < source.most {
                true => of_any += source.waiting.len(),
                false => drop(of_own.insert(*name, source.waiting.len())),
            }
        }
        idle.into_iter().filter_map(move |(source, visit)| {
            let own = of_own.get_mut(&source).filter(|wanted| **wanted > 0);
            let wanted = own.unwrap_or(&mut of_any);
            *wanted = wanted.checked_sub(1)?;
            Some(visit)
        })
    }

    /// Says what has been short for a while.
    pub(super) fn say(&mut self) {
        let Limits { service, connections, .. } = self.limits;
        if self.full_since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            let waiting = self.waiting;
            self.said_full.say(|| {
                tracing::warn!(
                    service,
                    connections,
                    waiting,
                    "all connections that may be served at once are taken, and {waiting} more wait; see who holds them \
                     (ss -tnp), keep them out, or raise {service}.max_connections"
                );
            });
        }
        let waits = |source: &Source<C>| {
            let first = source.waiting.front();
            source.taken == source.most && first.is_some_and(|(since, _)| since.elapsed() >= PATIENCE)
        };
        if let Some((name, source)) = self.sources.iter().find(|(_, source)| waits(source)) {
            self.said_share.say(|| {
                tracing::warn!(
                    service, source = named(name), taken = source.taken, waiting = source.waiting.len(), connections,
                    "one source has all connections that one may have, and its others wait; keep it out, or, where it is \
                     many clients, raise {service}.max_connections; name a proxy in server.trusted_proxies"
                );
            });
        }
    }

    /// Nobody gets a place any more: those who wait are turned away.
    pub(super) fn close(&mut self) {
        self.sources.values_mut().for_each(|source| source.waiting.clear());
        self.waiting = 0;
        self.count();
    }

    fn count(&self) {
        self.figures.taken.set(self.taken as f64);
        self.figures.waiting.set(self.waiting as f64);
    }
}

/// An address without the length of its network.
fn named(source: &IpNet) -> String {
    match source.prefix_len() == source.max_prefix_len() {
        true => source.addr().to_string(),
        false => source.to_string(),
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
