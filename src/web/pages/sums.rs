//! What there is to choose from in a log: its servers, services, pods, steps and streams, with their lines.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use time::OffsetDateTime;

use crate::timeline::entry::Stream;
use crate::web::db::time_of;
use crate::web::log::outline::{End, Part};
use crate::web::log::read::Counted;

/// Values of a field that a menu offers.
const MAX_CHOICES: usize = 200;

/// A whole log, summed up.
#[derive(Debug, Default)]
pub struct LogSums {
    /// All of its lines, and those that the filters leave.
    pub lines: u64,
    pub matching: u64,
    pub(super) servers: BTreeMap<String, u64>,
    pub(super) services: BTreeMap<String, u64>,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) streams: BTreeMap<&'static str, u64>,
    /// In the order of their first lines.
    pub(super) steps: Vec<Step>,
    /// Of some lines it is not known where they come from: there are too many such places to list.
    pub(super) unlisted: bool,
}

/// A pod, by its last lines.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) service: Option<String>,
    pub(super) server: String,
    pub(super) lines: u64,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) first_seq: u64,
    pub(super) begun: OffsetDateTime,
    /// When it was last heard of.
    pub(super) last: OffsetDateTime,
    pub(super) lines: u64,
    /// What became of it, if its lines say so.
    pub(super) end: Option<End>,
    /// Its last line, and the last one that says that it failed.
    pub(super) last_seq: u64,
    pub(super) failed: Option<u64>,
}

impl Step {
    fn add(&mut self, part: &Part) {
        self.lines += part.lines;
        self.begun = self.begun.min(time_of(part.first_at));
        self.last = self.last.max(time_of(part.last_at));
        self.end = part.end.clone().or(self.end.take());
        self.last_seq = self.last_seq.max(part.last_seq);
        self.failed = part.failed.last().copied().or(self.failed);
    }
}

impl LogSums {
    /// Adds the next block.
    pub(in crate::web) fn add(&mut self, block: &Counted) {
        for (part, matching) in &block.parts {
            self.lines += part.lines;
            self.matching += matching;
            if let Some(name) = &part.step {
                match self.steps.iter().rposition(|step| step.name == *name) {
                    Some(at) => self.steps[at].add(part),
                    None if self.steps.len() == MAX_CHOICES => {}
                    None => self.steps.push(Step {
                        name: name.clone(),
                        first_seq: part.first_seq,
                        begun: time_of(part.first_at),
                        last: time_of(part.last_at),
                        lines: part.lines,
                        end: part.end.clone(),
                        last_seq: part.last_seq,
                        failed: part.failed.last().copied(),
                    }),
                }
            }
            self.unlisted |= part.origins.is_none();
            for origin in part.origins.iter().flatten() {
                count(&mut self.servers, &origin.server, origin.lines);
                if let Some(service) = &origin.service {
                    count(&mut self.services, service, origin.lines);
                }
                *self.streams.entry(word(origin.stream)).or_default() += origin.lines;
                let Some(name) = &origin.pod else { continue };
                let room = self.pods.len() < MAX_CHOICES;
                match self.pods.entry(name.clone()) {
                    Entry::Vacant(vacant) if room => {
                        _ = vacant.insert(Pod {
                            service: origin.service.clone(),
                            server: origin.server.clone(),
                            lines: origin.lines,
                        })
                    }
                    Entry::Vacant(_) => {}
                    Entry::Occupied(pod) => {
                        let pod = pod.into_mut();
                        pod.lines += origin.lines;
                        pod.server.clone_from(&origin.server);
                    }
                }
            }
        }
    }

    /// The number of the line at which a step failed: the last that says so, or its last.
    pub(super) fn failing_line(&self, step: &str) -> Option<u64> {
        let step = self.steps.iter().find(|known| known.name == step)?;
        Some(step.failed.unwrap_or(step.last_seq) + 1)
    }

    /// When a step began.
    pub(super) fn begun(&self, step: &str) -> Option<OffsetDateTime> {
        self.steps.iter().find(|known| known.name == step).map(|step| step.begun)
    }
}

fn count(values: &mut BTreeMap<String, u64>, name: &str, lines: u64) {
    if let Some(known) = values.get_mut(name) {
        *known += lines;
    } else if values.len() < MAX_CHOICES {
        values.insert(name.to_owned(), lines);
    }
}

/// As the address has it.
pub(super) fn word(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Status => "status",
    }
}
