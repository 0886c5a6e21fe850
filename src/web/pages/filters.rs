//! The filters of a log as its page has them: in the address, and as chips that lead to other addresses.

use serde::Deserialize;

use super::query::{address, given};
use super::sums::LogSums;
use super::words::thousands;
use crate::telemetry::printable::printable;

/// Which lines of a log a page shows. Every condition that is given must hold.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LogFilters {
    #[serde(default, deserialize_with = "given")]
    pub server: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub service: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub pod: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub step: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub stream: Option<String>,
    /// Words that are looked for; without the script, lines that have them are all that is shown.
    #[serde(default, deserialize_with = "given")]
    pub q: Option<String>,
}

impl LogFilters {
    /// The conditions, by their names in the address; without the words.
    pub(super) fn fields(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("server", self.server.as_deref()),
            ("service", self.service.as_deref()),
            ("pod", self.pod.as_deref()),
            ("step", self.step.as_deref()),
            ("stream", self.stream.as_deref()),
        ]
    }

    /// Whether lines are hidden.
    pub(super) fn hide(&self) -> bool {
        self.fields().iter().any(|(_, value)| value.is_some())
    }
}

/// One filter in the toolbar.
pub(super) struct Chip {
    pub(super) name: &'static str,
    /// What it is set to, and the address without it.
    pub(super) set: Option<(String, String)>,
    /// Empty where there is nothing to choose.
    pub(super) choices: Vec<Choice>,
}

pub(super) struct Choice {
    pub(super) href: String,
    pub(super) word: String,
    pub(super) lines: String,
}

/// A value to choose, and how many lines have it, if any names it.
type Value = (String, Option<u64>);

/// The page that the filters are of.
pub(super) struct Place<'a> {
    /// `/builds/b-1`
    pub(super) path: &'a str,
    /// Parameters that are no filters and stay: the attempt, the namespace.
    pub(super) fixed: Vec<(&'static str, Option<String>)>,
    pub(super) filters: &'a LogFilters,
}

impl Place<'_> {
    /// The parameters of the address, with one of them changed.
    pub(super) fn with<'a>(
        &'a self,
        name: &'static str,
        value: Option<&'a str>,
    ) -> Vec<(&'static str, Option<&'a str>)> {
        let fixed = self.fixed.iter().map(|(name, value)| (*name, value.as_deref()));
        let mut all: Vec<_> =
            fixed.chain(self.filters.fields()).chain([("q", self.filters.q.as_deref())]).collect();
        match all.iter_mut().find(|(other, _)| *other == name) {
            Some(known) => known.1 = value,
            None => all.push((name, value)),
        }
        all
    }

    /// The query of the log over the API: what is fixed, and the filters.
    pub(super) fn api_query(&self) -> String {
        let fixed = self.fixed.iter().map(|(name, value)| (*name, value.as_deref()));
        let parameters: Vec<_> = fixed.chain(self.filters.fields()).collect();
        address("", &parameters).trim_start_matches('?').to_owned()
    }

    pub(super) fn chips(&self, sums: &LogSums, services: &[String]) -> Vec<Chip> {
        let named = |(name, lines): (&String, &u64)| (name.clone(), Some(*lines));
        let servers = sums.servers.iter().map(named).collect();
        let mut known: Vec<_> = sums.services.iter().map(named).collect();
        for service in services.iter().filter(|service| !sums.services.contains_key(*service)) {
            known.push((service.clone(), None));
        }
        let pods = sums.pods.iter().map(|(name, pod)| (name.clone(), Some(pod.lines))).collect();
        let steps = sums.steps.iter().map(|step| (step.name.clone(), Some(step.lines))).collect();
        let streams = sums.streams.iter().map(|(name, lines)| ((*name).to_owned(), Some(*lines))).collect();
        let values: [(&str, Vec<Value>); 5] =
            [("Server", servers), ("Service", known), ("Pod", pods), ("Step", steps), ("Stream", streams)];
        let chip = |(title, values): (&'static str, Vec<Value>),
                    (name, set): (&'static str, Option<&str>)| Chip {
            name: title,
            set: set.map(|value| (printable(value), address(self.path, &self.with(name, None)))),
            choices: values
                .into_iter()
                .map(|(value, lines)| Choice {
                    href: address(self.path, &self.with(name, Some(&value))),
                    word: printable(&value),
                    lines: lines.map(thousands).unwrap_or_default(),
                })
                .collect(),
        };
        values.into_iter().zip(self.filters.fields()).map(|(values, field)| chip(values, field)).collect()
    }
}
