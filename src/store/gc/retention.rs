//! Which images may go: by the section `retention`, and never one that a deploy runs.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::Faults;
use crate::publish::name::{AppName, ImageName, ImageRepository, Namespace};
use crate::store::digest::Digest;

/// The entry of all repositories that have none of their own.
const ALL: &str = "*";
/// The shortest age at which an image may go: what was built is deployed within that.
const SHORTEST_KEEP: Duration = Duration::from_secs(3600);

/// Which images are kept, by repository: `"*"`, a namespace, an app (`acme/shop`) or a repository
/// (`acme/shop.storefront`). The closest entry says all. Without any, every image is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RetentionConfig(BTreeMap<String, Keep>);

/// What is kept of one repository: what either of the two keeps; all, where neither is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// The newest images, so many.
    pub keep_last: Option<u32>,
    /// Images that are younger than this.
    #[serde(with = "humantime_serde")]
    pub keep_for: Option<Duration>,
}

impl Keep {
    /// Whether something may go at all.
    pub fn is_limit(&self) -> bool {
        self.keep_last.is_some() || self.keep_for.is_some()
    }
}

impl RetentionConfig {
    pub fn check(&self, faults: &mut Faults) {
        for (pattern, keep) in &self.0 {
            let key = format!("retention.{pattern}");
            let is_name = pattern == ALL
                || pattern.parse::<Namespace>().is_ok()
                || pattern.parse::<ImageRepository>().is_ok()
                || pattern.split_once('/').is_some_and(|(namespace, app)| {
                    namespace.parse::<Namespace>().is_ok() && app.parse::<AppName>().is_ok()
                });
            if !is_name {
                let reason = "names no repositories: \"*\", a namespace, <namespace>/<app> or \
                              <namespace>/<app>.<repository>";
                faults.add(&key, reason);
            }
            if keep.keep_last == Some(0) {
                faults.add_entry(&key, "keep_last", "is zero; leave it out, or keep at least one image");
            }
            if keep.keep_for.is_some_and(|age| age < SHORTEST_KEEP) {
                let reason = "is shorter than an hour; an image must be deployed within that";
                faults.add_entry(&key, "keep_for", reason);
            }
        }
    }

    /// What is kept of a repository, and the entry that says so.
    pub fn of(&self, repository: &ImageRepository) -> (Keep, &str) {
        let app = app_of(repository);
        let names = [&repository.to_string(), &app, repository.namespace.as_str(), ALL];
        let found = names.into_iter().find_map(|name| self.0.get_key_value(name));
        found.map_or((Keep::default(), ALL), |(name, keep)| (*keep, name))
    }

    /// Whether any image may go.
    pub fn is_set(&self) -> bool {
        self.0.values().any(Keep::is_limit)
    }
}

/// Each entry with what it keeps.
impl fmt::Display for RetentionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (pattern, keep)) in self.0.iter().enumerate() {
            let last = keep.keep_last.map(|last| format!("the last {last}"));
            let young = keep.keep_for.map(|age| format!("those of the last {}", words(age)));
            let kept: Vec<_> = last.into_iter().chain(young).collect();
            let kept = if kept.is_empty() { "all".to_owned() } else { kept.join(" and ") };
            write!(f, "{}{pattern:?} keeps {kept}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

fn words(age: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    // As it is mostly written; else 90 days are two months, 29 days, and some hours.
    if age.as_secs().is_multiple_of(DAY) {
        let days = age.as_secs() / DAY;
        return format!("{days} day{}", if days == 1 { "" } else { "s" });
    }
    humantime_serde::re::humantime::format_duration(age).to_string()
}

/// The images that deploys run, or are about to.
#[derive(Debug, Clone, Default)]
pub struct InUse {
    /// Whatever these tags name, or have named.
    names: HashSet<ImageName>,
    digests: HashSet<Digest>,
    /// The apps of which it is known what runs: an answer that names none of an app's images tells nothing of others.
    apps: HashSet<String>,
}

impl InUse {
    /// Out of image references: `<host>/<namespace>/<app>.<repository>:<tag>`, with `@<digest>` behind it or instead of
    /// the tag. What is none of BuildGrid's names no image of the store. `apps` are those, as `<namespace>/<app>`, of
    /// which a deploy is known that is done.
    pub fn read<'a>(
        references: impl IntoIterator<Item = &'a str>,
        apps: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let apps = apps.into_iter().map(str::to_owned).collect();
        let mut in_use = Self { apps, ..Self::default() };
        for reference in references {
            let (name, digest) = match reference.split_once('@') {
                Some((name, digest)) => (name, digest.parse::<Digest>().ok()),
                None => (reference, None),
            };
            in_use.digests.extend(digest);
            let parts: Vec<_> = name.rsplitn(3, '/').collect();
            let [last, namespace, ..] = parts[..] else { continue };
            let Some((repository, tag)) = last.split_once(':') else { continue };
            let repository = format!("{namespace}/{repository}").parse();
            if let (Ok(repository), Ok(tag)) = (repository, tag.parse()) {
                in_use.names.insert(ImageName { repository, tag });
            }
        }
        in_use
    }

    pub(super) fn has(&self, name: &ImageName, manifest: Digest) -> bool {
        self.names.contains(name) || self.digests.contains(&manifest)
    }

    /// Whether it is known what is deployed of a repository's app.
    pub(super) fn knows(&self, repository: &ImageRepository) -> bool {
        self.apps.contains(&app_of(repository))
    }
}

/// `<namespace>/<app>`
pub(super) fn app_of(repository: &ImageRepository) -> String {
    format!("{}/{}", repository.namespace, repository.app)
}

/// Asks once more what deploys run. Blocking; an error is the reason as one sentence.
#[derive(Clone)]
pub struct AskAgain(Arc<dyn Fn() -> Result<InUse, String> + Send + Sync>);

impl AskAgain {
    pub fn by(ask: impl Fn() -> Result<InUse, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    pub(super) fn ask(&self) -> Result<InUse, String> {
        (self.0)()
    }
}

impl fmt::Debug for AskAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskAgain")
    }
}

/// By what images are removed.
#[derive(Debug, Clone)]
pub enum Retention {
    /// All are kept.
    KeepAll,
    /// All are kept, because what deploys run could not be asked: the reason.
    Unknown(String),
    By {
        rules: RetentionConfig,
        /// When the round began.
        in_use: InUse,
        /// For those that are about to be removed: a round takes its time, and deploys go on. None: `in_use` is all
        /// there is to know.
        again: Option<AskAgain>,
    },
}

/// An image as retention sees it.
pub(super) struct Candidate {
    pub name: ImageName,
    pub manifest: Digest,
    /// When it was created; else when it was put.
    pub created: SystemTime,
    /// When it was put under its tag.
    pub put: SystemTime,
}

impl Candidate {
    /// Of two times the later: a restore may have lost one, and a worker's clock may be behind. One that is ahead says
    /// nothing.
    fn at(&self, now: SystemTime) -> SystemTime {
        if self.created > now { self.put } else { self.created.max(self.put) }
    }
}

/// Why an image may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The index of the candidate.
    pub index: usize,
    pub rule: String,
}

/// Those of one repository that may go, newest first. The newest one of all never does, nor any of an app of which no
/// deploy is known: a service that has lost its database, or hears of no deploys, does not know what runs.
pub(super) fn judge(
    retention: &Retention,
    repository: &ImageRepository,
    candidates: &[Candidate],
    now: SystemTime,
) -> Vec<Verdict> {
    let Retention::By { rules, in_use, .. } = retention else { return Vec::new() };
    let (keep, pattern) = rules.of(repository);
    if !keep.is_limit() || !in_use.knows(repository) {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&index| {
        let Candidate { created, manifest, .. } = &candidates[index];
        // By the same time as below. What a restore has put at once is ordered by when it was created.
        std::cmp::Reverse((candidates[index].at(now), *created, *manifest))
    });
    let mut rule = Vec::new();
    rule.extend(keep.keep_last.map(|last| format!("not among the last {last}")));
    rule.extend(keep.keep_for.map(|age| format!("older than {}", words(age))));
    let rule = format!("{} (retention.\"{pattern}\")", rule.join(", "));
    let goes = |&(place, index): &(usize, usize)| {
        let candidate = &candidates[index];
        let is_last = place < keep.keep_last.unwrap_or(1).max(1) as usize;
        let at = candidate.at(now);
        let is_young = keep.keep_for.is_some_and(|age| now.duration_since(at).is_ok_and(|old| old < age));
        // What is from the future, by the store's clock, is young.
        let is_young = is_young || (keep.keep_for.is_some() && at > now);
        !is_last && !is_young && !in_use.has(&candidate.name, candidate.manifest)
    };
    let places = order.into_iter().enumerate().filter(goes);
    places.map(|(_, index)| Verdict { index, rule: rule.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rules(text: &str) -> RetentionConfig {
        Config::parse("f", text, []).unwrap().retention
    }

    fn candidate(tag: &str, days: u64, now: SystemTime) -> Candidate {
        let at = now - Duration::from_secs(days * 24 * 3600);
        let name =
            ImageName { repository: "acme/shop.storefront".parse().unwrap(), tag: tag.parse().unwrap() };
        Candidate { name, manifest: Digest::of(tag.as_bytes()), created: at, put: at }
    }

    fn gone(text: &str, in_use: &[&str]) -> Vec<String> {
        let now = SystemTime::now();
        let candidates: Vec<_> =
            [("a", 1), ("d", 40), ("b", 2), ("c", 30)].map(|(tag, days)| candidate(tag, days, now)).into();
        let retention = Retention::By {
            rules: rules(text),
            in_use: InUse::read(in_use.iter().copied(), ["acme/shop"]),
            again: None,
        };
        let repository = &candidates[0].name.repository;
        let verdicts = judge(&retention, repository, &candidates, now);
        verdicts.iter().map(|verdict| candidates[verdict.index].name.tag.to_string()).collect()
    }

    #[test]
    fn what_neither_limit_keeps_goes() {
        assert_eq!(gone("", &[]), [""; 0]);
        assert_eq!(gone("[retention]\n\"*\" = { keep_last = 2 }", &[]), ["c", "d"]);
        assert_eq!(gone("[retention]\nacme = { keep_for = \"35days\" }", &[]), ["d"]);
        let both = "[retention]\n\"acme/shop\" = { keep_last = 1, keep_for = \"10days\" }";
        assert_eq!(gone(both, &[]), ["c", "d"]);
        assert_eq!(gone(both, &["host:5000/acme/shop.storefront:c"]), ["d"]);
        let digest = Digest::of(b"d");
        assert_eq!(gone(both, &[&format!("h/acme/shop.storefront@{digest}")]), ["c"]);
        assert_eq!(gone(both, &["docker.io/library/redis:7", "redis", "x@y", ":/@"]), ["c", "d"]);
    }

    #[test]
    fn the_newest_stays_and_all_of_what_nobody_knows_to_be_deployed() {
        assert_eq!(gone("[retention]\n\"*\" = { keep_for = \"1h\" }", &[]), ["b", "c", "d"]);
        let now = SystemTime::now();
        let candidates = [candidate("a", 1, now), candidate("b", 2, now)];
        let rules = rules("[retention]\n\"*\" = { keep_last = 1 }");
        for (apps, goes) in [(&[][..], 0), (&["acme/shop2", "acme"], 0), (&["acme/shop"], 1)] {
            let in_use = InUse::read([], apps.iter().copied());
            let retention = Retention::By { rules: rules.clone(), in_use, again: None };
            let verdicts = judge(&retention, &candidates[0].name.repository, &candidates, now);
            assert_eq!(verdicts.len(), goes, "{apps:?}");
        }
    }

    #[test]
    fn a_worker_whose_clock_is_behind_has_made_the_newest_all_the_same() {
        let now = SystemTime::now();
        let mut candidates = [candidate("late", 0, now), candidate("before", 1, now)];
        candidates[0].created = now - Duration::from_secs(400 * 24 * 3600);
        let rules = rules("[retention]\n\"*\" = { keep_last = 1 }");
        let retention = Retention::By { rules, in_use: InUse::read([], ["acme/shop"]), again: None };
        let verdicts = judge(&retention, &candidates[0].name.repository, &candidates, now);
        assert_eq!(verdicts.iter().map(|verdict| verdict.index).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_worker_whose_clock_was_ahead_has_not_made_the_newest_for_ever() {
        let now = SystemTime::now();
        let mut candidates = [candidate("late", 0, now), candidate("before", 1, now)];
        candidates[1].created = now + Duration::from_secs(400 * 24 * 3600);
        let rules = rules("[retention]\n\"*\" = { keep_last = 1 }");
        let retention = Retention::By { rules, in_use: InUse::read([], ["acme/shop"]), again: None };
        let verdicts = judge(&retention, &candidates[0].name.repository, &candidates, now);
        assert_eq!(verdicts.iter().map(|verdict| verdict.index).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn the_closest_entry_says_all() {
        let text = "[retention]\n\"*\" = { keep_last = 1 }\nacme = { keep_last = 2 }\n\"acme/shop\" = {}\n\
                    \"acme/shop.storefront\" = { keep_last = 3 }";
        assert_eq!(gone(text, &[]), ["d"]);
        let rules = rules(text);
        let of = |name: &str| rules.of(&name.parse().unwrap()).1.to_owned();
        assert_eq!(["acme/shop.x", "acme/other.x", "smoke/a.fake"].map(of), ["acme/shop", "acme", "*"]);
        assert!(!rules.of(&"acme/shop.x".parse().unwrap()).0.is_limit());
    }

    #[test]
    fn nothing_goes_where_it_cannot_be_asked_what_runs() {
        let now = SystemTime::now();
        let candidates = [candidate("a", 1000, now)];
        let repository = &candidates[0].name.repository;
        for retention in [Retention::KeepAll, Retention::Unknown("away".to_owned())] {
            assert_eq!(judge(&retention, repository, &candidates, now), []);
        }
    }

    #[test]
    fn faults_are_found_where_they_stand() {
        let text = "[retention]\n\"acme.x\" = {}\nacme = { keep_last = 0 }\nb = { keep_for = \"1m\" }\n\
                    c = { keep = 1 }\n\"acme/*\" = {}\n";
        let said = Config::parse("f", text, []).unwrap_err().to_string();
        for line in 2..=6 {
            assert!(said.contains(&format!("f:{line}: retention.")), "{line} in {said}");
        }
    }
}
