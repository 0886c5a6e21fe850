//! One round of the collection.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::expiry::Leaving;
use super::live::{Live, Usage};
use super::report::{Collected, MOST_NAMED, Unreadable};
use super::retention::Retention;
use super::settling::{Garbage, Kind};
use crate::store::backend::{Backend, Lease};
use crate::store::condemned::{self, List, Mark};
use crate::store::credentials::random_text;
use crate::store::digest::Digest;
use crate::store::error::{BrokenOff, StoreError};
use crate::store::handle::{self, Store};
use crate::store::inventory::{self, Contents, Found, Repository, Version, namespace_of};
use crate::store::layout::{self, Key};
use crate::store::unread::PassedOver;
use crate::store::usage;

/// Marks in all lists together. They bound a round's memory, at half a kilobyte each; what has none gets one later.
const MOST_MARKS: usize = 250_000;

/// How the store is to be gone through.
pub struct Collection<'a> {
    /// How long something must have been without use.
    pub grace: Duration,
    /// Whether it only tells what it would do. Then it needs no right to write.
    pub dry_run: bool,
    pub retention: Retention,
    /// The round ends soon after this is cancelled.
    pub cancel: &'a CancellationToken,
}

impl Store {
    /// Goes one round. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another one goes on; [`StoreError::Stopping`] when it was cancelled. What was done
    /// till then is right and stays done.
    pub fn collect(&self, collection: &Collection<'_>) -> Result<Collected, Box<BrokenOff<Collected>>> {
        let began = Instant::now();
        let dry_run = collection.dry_run;
        let mut collected = Collected { dry_run, ..Collected::default() };
        let done = self.go_round(collection, &mut collected);
        collected.elapsed_ms = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let done = done.and_then(|round| match round {
            Some((id, _lease)) => {
                // The round makes it another file each time, whose time tells when that was.
                let json = serde_json::json!({"round": id, "collected": collected}).to_string();
                self.backend().put(&[(&layout::collection_report(), json.as_bytes())])
            }
            None => Ok(()),
        });
        match done {
            Ok(()) => Ok(collected),
            Err(error) => Err(Box::new(BrokenOff { so_far: collected, error })),
        }
    }

    /// Answers what tells the round from others, and its lease, unless it was a dry run.
    fn go_round(
        &self,
        collection: &Collection<'_>,
        collected: &mut Collected,
    ) -> Result<Option<(String, Lease)>, StoreError> {
        let backend = self.backend();
        handle::must_be_there(backend)?;
        let lease = match collection.dry_run {
            true => None,
            false => Some(backend.lease(&layout::collection_lease())?.ok_or(StoreError::Busy)?),
        };
        let mut passed = PassedOver::new(backend);
        let mut round = match Round::begin(&mut passed, collection, lease) {
            Ok(round) => round,
            Err(error) => {
                collected.unread = passed.told;
                return Err(error);
            }
        };
        let done = round.go(&mut passed);
        *collected = round.collected;
        collected.unread = passed.told;
        done.map(|()| round.lease.map(|lease| (round.id, lease)))
    }

    /// How long ago the last collection ended; how far ahead, where that lies in the future: a clock was wrong. None:
    /// there was none.
    pub async fn collected_before(&self) -> Result<Option<Duration>, StoreError> {
        self.blocking(|backend| {
            let at = backend.modified(&layout::collection_report())?;
            Ok(at.map(|at| at.elapsed().unwrap_or_else(|ahead| ahead.duration())))
        })
        .await
    }
}

pub(super) struct Round<'a> {
    pub backend: &'a Backend,
    pub collection: &'a Collection<'a>,
    /// None for a dry run.
    lease: Option<Lease>,
    pub now: SystemTime,
    /// Tells its marks from those of other rounds.
    pub id: String,
    /// All marks, by what they name, as they were when the round began.
    pub marks: HashMap<String, Mark>,
    /// The lists that had any.
    pub marked: HashSet<String>,
    /// Lists that cannot be read. What they are for is left as it is.
    pub unread_lists: HashSet<String>,
    /// How many more marks there will be.
    fresh: usize,
    pub live: Live,
    usage: Usage,
    /// Namespaces of which not all was seen.
    uncounted: HashSet<String>,
    /// Whether links may exist that nobody could list: then any blob may be in use.
    pub keeps_blobs: bool,
    /// Whether all blobs could be listed: else one that was not found may be there.
    pub sees_blobs: bool,
    pub leaving: Vec<Leaving>,
    /// Why nothing can be written, or not in time: then it only goes on with what makes room.
    pub full: Option<StoreError>,
    /// By list.
    pub garbage: HashMap<String, Vec<Garbage>>,
    pub collected: Collected,
}

impl<'a> Round<'a> {
    fn begin(
        passed: &mut PassedOver<'a>,
        collection: &'a Collection<'a>,
        lease: Option<Lease>,
    ) -> Result<Self, StoreError> {
        let (mut marks, mut marked) = (HashMap::new(), HashSet::new());
        let (backend, mut unread_lists) = (passed.backend, HashSet::new());
        for shard in backend.list(&layout::condemned_lists())? {
            match passed.or_told(List::read(backend, &shard))? {
                Some(list) => {
                    marks.extend(list.marks.into_iter().map(|mark| (mark.key.clone(), mark)));
                    marked.insert(shard);
                }
                None => _ = unread_lists.insert(shard),
            }
        }
        let retention_paused = match &collection.retention {
            Retention::Unknown(reason) => Some(reason.clone()),
            Retention::KeepAll | Retention::By { .. } => None,
        };
        let mut round = Self {
            backend,
            collection,
            lease,
            now: SystemTime::UNIX_EPOCH,
            id: random_text::<10>(),
            marks,
            marked,
            unread_lists,
            fresh: 0,
            live: Live::default(),
            usage: Usage::default(),
            uncounted: HashSet::new(),
            keeps_blobs: false,
            sees_blobs: true,
            leaving: Vec::new(),
            full: None,
            garbage: HashMap::new(),
            collected: Collected { dry_run: collection.dry_run, retention_paused, ..Collected::default() },
        };
        round.now = round.clock()?;
        Ok(round)
    }

    fn go(&mut self, passed: &mut PassedOver<'_>) -> Result<(), StoreError> {
        self.go_on()?;
        // What is noted from now on may not be seen in what follows.
        let added = match self.collection.dry_run {
            true => Vec::new(),
            false => usage::all_added(passed)?,
        };
        let repositories = inventory::repositories(passed)?;
        self.keeps_blobs |= !repositories.unread.is_empty();
        self.uncounted.extend(repositories.unread.iter().map(|path| namespace_of(path).to_owned()));
        let looked = repositories.all.iter().try_for_each(|repository| self.repository(passed, repository));
        // Also of a round that ends here, which images have gone.
        self.images();
        looked?;
        // A disk may be full: whatever makes room comes before all that takes some.
        let mut settled = Vec::new();
        self.blobs(passed)?;
        for shard in condemned::shards() {
            match self.remove_due(passed, &shard) {
                Ok(one) => settled.push((shard, one)),
                // Nor is a service that is slow for the one list so for all.
                Err(error) => self.unless_full(error)?,
            }
        }
        self.layer_index(passed)?;
        if let Some(error) = self.full.take() {
            return Err(error);
        }
        for (shard, one) in settled {
            self.condemn(&shard, &one)?;
        }
        // Of one that was not seen whole, what was counted before stands.
        for (namespace, added) in added.into_iter().filter(|(name, _)| !self.uncounted.contains(name)) {
            usage::put(self.backend, &namespace, self.usage.of(&namespace), &added)?;
        }
        Ok(())
    }

    /// Remembers that there is no room or no time, in spite of which the round goes on; any other error is one.
    pub(super) fn unless_full(&mut self, error: StoreError) -> Result<(), StoreError> {
        match error {
            StoreError::Full { .. } | StoreError::Slow { .. } => {
                self.full = Some(error);
                Ok(())
            }
            error => Err(error),
        }
    }

    /// The time by the store's clock.
    pub(super) fn clock(&self) -> Result<SystemTime, StoreError> {
        match &self.lease {
            None => Ok(SystemTime::now()),
            Some(lease) => lease.now().map_err(|error| {
                StoreError::io("lock", &self.backend.place(&layout::collection_lease()), error)
            }),
        }
    }

    pub(super) fn go_on(&self) -> Result<(), StoreError> {
        match self.collection.cancel.is_cancelled() {
            true => Err(StoreError::Stopping),
            false => Ok(()),
        }
    }

    /// Whether the grace of what was marked then is over. A mark from the future was made by a clock that was wrong.
    pub(super) fn is_due(&self, mark: &Mark) -> bool {
        let since = UNIX_EPOCH + Duration::from_secs(mark.since);
        self.now.duration_since(since).is_ok_and(|age| age >= self.collection.grace)
    }

    /// Looks through one repository: for images that go, for what the others refer to, for links that nobody needs.
    fn repository(&mut self, passed: &mut PassedOver<'_>, repository: &Repository) -> Result<(), StoreError> {
        self.go_on()?;
        self.collected.repositories += 1;
        let revised = inventory::links(passed, &layout::revision_links(&repository.key))?;
        let linked = inventory::links(passed, &layout::layer_links(&repository.key))?;
        let versions = inventory::versions(passed, repository)?;
        self.collected.images += versions.all.len() as u64;
        let is_whole = versions.is_whole && revised.is_some() && linked.is_some();
        let mut seen = Seen { is_unreadable: !is_whole, ..Seen::default() };
        if !is_whole {
            self.uncounted.insert(namespace_of(&repository.path).to_owned());
        }
        // Whatever an unreadable tag names, it can be pulled through these links alone: so they tell what to keep.
        self.keeps_blobs |= revised.is_none() || linked.is_none();
        for tag in &versions.damaged {
            self.cannot_read(repository, None, format!("what the tag {tag} names is damaged"), &mut seen);
        }
        let going = match is_whole {
            true => self.let_go(passed, repository, &versions.all)?,
            false => HashMap::new(),
        };
        for (index, version) in versions.all.iter().enumerate() {
            self.go_on()?;
            if is_whole && self.is_lost(&versions.all, version) {
                self.note(version.key.clone(), version.manifest, Kind::Link, 0);
                continue;
            }
            let (contents, is_readable) = self.refer(passed, repository, version.manifest, &mut seen)?;
            // One that was replaced may have gone.
            if version.is_current && !is_readable {
                self.uncounted.insert(namespace_of(&repository.path).to_owned());
            }
            let mut has_gone = false;
            match going.get(&index).map(|&place| &mut self.leaving[place]) {
                None => seen.staying.extend(contents.iter().flat_map(all_of)),
                Some(leaving) => {
                    leaving.parts = contents.iter().flat_map(all_of).collect();
                    has_gone = leaving.has_gone();
                }
            }
            if !has_gone {
                self.usage.add(&repository.path, contents.iter().flat_map(all_of));
                seen.tagged.insert(version.manifest);
                seen.linked.extend(contents.iter().flat_map(all_of).map(|(digest, _)| digest));
            }
        }
        let listed = Listed { revised: revised.unwrap_or_default(), linked: linked.unwrap_or_default() };
        self.links(passed, repository, listed, seen)?;
        let is_empty = is_whole && versions.all.is_empty() && versions.damaged.is_empty();
        if is_empty && !self.collection.dry_run {
            for folder in [layout::layer_links, layout::revision_links, layout::tag_directories] {
                self.backend.remove_empty(&folder(&repository.key));
            }
        }
        Ok(())
    }

    /// Notes what a manifest refers to, whichever way it is an index; answers what it and all below it are made of, and
    /// whether that is all.
    fn refer(
        &mut self,
        passed: &mut PassedOver<'_>,
        repository: &Repository,
        manifest: Digest,
        seen: &mut Seen,
    ) -> Result<(Vec<(Digest, Contents)>, bool), StoreError> {
        let (mut all, mut is_whole) = (Vec::new(), true);
        for (digest, found) in inventory::manifests(self.backend, manifest) {
            is_whole &= matches!(found, Found::Readable(_));
            match found {
                Found::Readable(contents) => all.push((digest, contents)),
                Found::Absent => {
                    self.cannot_read(repository, Some(digest), "it is not there".to_owned(), seen);
                }
                Found::Unreadable(reason) => self.cannot_read(repository, Some(digest), reason, seen),
                Found::Unread(error) => {
                    self.cannot_read(repository, Some(digest), error.to_string(), seen);
                    self.uncounted.insert(namespace_of(&repository.path).to_owned());
                    passed.tell(error)?;
                }
            }
        }
        Ok((all, is_whole))
    }

    /// Whether it is what a tag named before, of which nothing is there any more, while what the tag names now is: that
    /// nobody will build it again must not keep the repository's garbage for ever.
    fn is_lost(&self, all: &[Version], version: &Version) -> bool {
        let is_absent = |digest| matches!(inventory::contents(self.backend, digest), Found::Absent);
        let is_readable = |digest| matches!(inventory::contents(self.backend, digest), Found::Readable(_));
        let mut of_tag = all.iter().filter(|other| other.tag == version.tag);
        !version.is_current
            && is_absent(version.manifest)
            && !inventory::is_quarantined(self.backend, version.manifest)
            && of_tag.any(|other| other.is_current && is_readable(other.manifest))
    }

    fn cannot_read(
        &mut self,
        repository: &Repository,
        manifest: Option<Digest>,
        reason: String,
        seen: &mut Seen,
    ) {
        seen.is_unreadable = true;
        if self.collected.unreadable.len() < MOST_NAMED {
            let repository = repository.path.clone();
            self.collected.unreadable.push(Unreadable { repository, manifest, reason });
        }
    }

    /// The links of a repository: all are kept, with all that they lead to, where a manifest or a link cannot be read.
    fn links(
        &mut self,
        passed: &mut PassedOver<'_>,
        repository: &Repository,
        Listed { revised, linked }: Listed,
        mut seen: Seen,
    ) -> Result<(), StoreError> {
        let layers = layout::layer_links(&repository.key);
        let revisions = layout::revision_links(&repository.key);
        let mut unneeded = Vec::new();
        for &digest in &revised {
            self.go_on()?;
            if seen.tagged.contains(&digest) || seen.linked.contains(&digest) {
                continue;
            }
            match inventory::contents(self.backend, digest) {
                // Of a publish that did not come to its tag, or of an image that has gone.
                Found::Readable(contents) if contents.is_ours && repository.name().is_some() => {
                    unneeded.push((digest, contents));
                }
                Found::Absent if !inventory::is_quarantined(self.backend, digest) => {
                    unneeded.push((digest, Contents::default()));
                }
                // Another registry may have put it without a tag, for clients that know its digest.
                _ => {
                    let (contents, _) = self.refer(passed, repository, digest, &mut seen)?;
                    seen.linked.extend(contents.iter().flat_map(all_of).map(|(digest, _)| digest));
                    seen.staying.extend(contents.iter().flat_map(all_of));
                }
            }
        }
        if seen.is_unreadable {
            seen.staying.extend(unneeded.iter().flat_map(all_of));
            for digest in revised.into_iter().chain(linked) {
                self.live.insert(digest);
            }
        } else {
            // A manifest that an index of another registry names may have been found after it.
            unneeded.retain(|(digest, _)| !seen.linked.contains(digest));
            for (digest, _) in unneeded {
                self.note(revisions.below(&digest.hex()).below("link"), digest, Kind::Link, 0);
            }
            for digest in linked.into_iter().filter(|digest| !seen.linked.contains(digest)) {
                self.note(layers.below(&digest.hex()).below("link"), digest, Kind::Link, 0);
            }
        }
        for (digest, _) in seen.staying {
            self.live.insert(digest);
        }
        Ok(())
    }

    /// All blobs that can be seen, unless any may be in use.
    fn blobs(&mut self, passed: &mut PassedOver<'_>) -> Result<(), StoreError> {
        self.collected.keeps_blobs = self.keeps_blobs;
        if self.keeps_blobs {
            return Ok(());
        }
        self.sees_blobs = inventory::blobs(passed, |digest, bytes| {
            if !self.live.has(digest) {
                self.note(layout::blob(digest), digest, Kind::Blob, bytes);
            }
            self.go_on().map(|()| true)
        })?;
        Ok(())
    }

    pub(super) fn note(&mut self, key: Key, digest: Digest, kind: Kind, bytes: u64) {
        let mark = self.marks.get(key.as_str()).cloned();
        if mark.is_none() {
            if self.marks.len() + self.fresh >= MOST_MARKS {
                self.collected.left += 1;
                return;
            }
            self.fresh += 1;
        }
        let garbage = Garbage { key, digest, kind, bytes, mark };
        self.garbage.entry(condemned::shard_of(digest)).or_default().push(garbage);
    }
}

/// The links of a repository.
struct Listed {
    /// To manifests.
    revised: Vec<Digest>,
    /// To layers and configurations.
    linked: Vec<Digest>,
}

/// What was seen in a repository.
#[derive(Default)]
struct Seen {
    /// Manifests that tags name, and have named.
    tagged: HashSet<Digest>,
    /// What any manifest refers to that is kept for now.
    linked: HashSet<Digest>,
    /// What those refer to that stay, with sizes.
    staying: HashMap<Digest, u64>,
    is_unreadable: bool,
}

/// A manifest and what it refers to, with sizes.
fn all_of((manifest, contents): &(Digest, Contents)) -> impl Iterator<Item = (Digest, u64)> {
    contents.all(*manifest)
}
