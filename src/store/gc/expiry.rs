//! What comes of retention: images that it lets go are marked, and lose their tag a grace later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::report::{Going, ImageGone, MOST_NAMED};
use super::retention::{self, Candidate, InUse, Retention};
use super::round::Round;
use super::settling::{Kind, Outcome};
use crate::store::condemned::{self, Mark};
use crate::store::digest::Digest;
use crate::store::error::StoreError;
use crate::store::inventory::{self, Found, Repository, Version};
use crate::store::layout;
use crate::store::unread::{PassedOver, Unread};

/// What deploys run is asked again while images are removed: so long after it was asked last, and after so many images.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const ASK_AGAIN_AFTER: u64 = 100;

/// An image that goes, and what it is made of, until it is known what the others are made of.
pub(super) struct Leaving {
    pub image: ImageGone,
    /// None, where the round ended before it was looked at.
    pub parts: Vec<(Digest, u64)>,
}

impl Leaving {
    pub(super) fn has_gone(&self) -> bool {
        self.image.state == Going::Removed
    }
}

impl Round<'_> {
    /// Marks the images that retention lets go, and removes those whose grace is over. They are leaving from then on; answers
    /// by their index where they are there.
    pub(super) fn let_go(
        &mut self,
        passed: &mut PassedOver<'_>,
        repository: &Repository,
        versions: &[Version],
    ) -> Result<HashMap<usize, usize>, StoreError> {
        let mut going = HashMap::new();
        let (Some(name), Retention::By { rules, in_use, again }) =
            (repository.name(), &self.collection.retention)
        else {
            return Ok(going);
        };
        if !rules.of(&name).0.is_limit() {
            return Ok(going);
        }
        if !in_use.knows(&name) {
            let (app, undeployed) = (retention::app_of(&name), &mut self.collected.undeployed);
            if undeployed.len() < MOST_NAMED && undeployed.last() != Some(&app) {
                undeployed.push(app);
            }
            return Ok(going);
        }
        let mut candidates = Vec::new();
        let mut indices = Vec::new();
        for (index, version) in versions.iter().enumerate() {
            let Some(name) = version.name(repository) else { continue };
            let created = match inventory::contents(self.backend, version.manifest) {
                Found::Readable(contents) => contents.created,
                Found::Absent | Found::Unreadable(_) => None,
                Found::Unread(error) => passed.tell(error).map(|()| None)?,
            };
            indices.push(index);
            candidates.push(Candidate {
                name,
                manifest: version.manifest,
                created: created.unwrap_or(version.put_at),
                put: version.put_at,
            });
        }
        let verdicts = retention::judge(&self.collection.retention, &name, &candidates, self.now);
        let is_due = |verdict: &retention::Verdict| {
            let key = &versions[indices[verdict.index]].key;
            self.marks.get(key.as_str()).is_some_and(|mark| self.is_due(mark))
        };
        let again = again.as_ref().filter(|_| verdicts.iter().any(is_due));
        let (first, mut went) = (self.leaving.len(), Vec::new());
        let mut asked: Option<(Instant, u64, InUse)> = None;
        for (number, verdict) in (0..).zip(verdicts) {
            self.go_on()?;
            let (candidate, index) = (&candidates[verdict.index], indices[verdict.index]);
            if let Some(again) = again {
                let is_old = |(at, first, _): &(Instant, u64, _)| {
                    at.elapsed() >= ASK_AGAIN || number - *first >= ASK_AGAIN_AFTER
                };
                if asked.as_ref().is_none_or(is_old) {
                    match again.ask() {
                        Ok(in_use) => asked = Some((Instant::now(), number, in_use)),
                        // They lose their marks, and so have another grace.
                        Err(reason) => {
                            self.collected.retention_paused.get_or_insert(reason);
                            break;
                        }
                    }
                }
                let runs =
                    |in_use: &InUse| !in_use.knows(&name) || in_use.has(&candidate.name, candidate.manifest);
                if asked.as_ref().is_some_and(|(_, _, in_use)| runs(in_use)) {
                    continue;
                }
            }
            let version = &versions[index];
            let mark = self.marks.get(version.key.as_str()).cloned();
            if self.unread_lists.contains(&condemned::shard_of(version.manifest)) {
                continue;
            }
            let state = match &mark {
                None => Going::Condemned,
                Some(mark) if !self.is_due(mark) || self.full.is_some() => Going::Waiting,
                Some(mark) => match self.remove_image(passed, version, candidate, mark)? {
                    Some(state) => state,
                    // Somebody has asked for it since.
                    None => continue,
                },
            };
            if state != Going::Removed {
                self.note(version.key.clone(), version.manifest, Kind::Image, 0);
            }
            let image = ImageGone {
                image: candidate.name.to_string(),
                digest: version.manifest,
                replaced: !version.is_current,
                state,
                rule: verdict.rule,
                frees: 0,
            };
            went.push(index);
            self.leaving.push(Leaving { image, parts: Vec::new() });
        }
        // By their names, whichever is the newest.
        let mut here: Vec<_> = went.into_iter().zip(self.leaving.split_off(first)).collect();
        here.sort_by_key(|(index, _)| *index);
        for (index, leaving) in here {
            going.insert(index, self.leaving.len());
            self.leaving.push(leaving);
        }
        Ok(going)
    }

    /// Removes a tag, if it names this image, and the image from what it has named; unless the mark is gone. One that
    /// cannot be removed waits.
    fn remove_image(
        &mut self,
        passed: &mut PassedOver<'_>,
        version: &Version,
        candidate: &Candidate,
        mark: &Mark,
    ) -> Result<Option<Going>, StoreError> {
        if self.collection.dry_run {
            self.collected.removed.add(false, 0);
            return Ok(Some(Going::Removed));
        }
        let (backend, has_gone) = (self.backend, AtomicBool::new(false));
        let removed = self.remove_marked(&condemned::shard_of(version.manifest), &[mark], |_, held| {
            let current = layout::tag_current_link(&candidate.name);
            let link = version.manifest.to_string();
            // Durably, before what it refers to goes: else a tag could come back without its content.
            backend.remove_if(&layout::tags_lock(), &current, link.as_bytes(), Some(held))?;
            backend.remove_held(&version.key, held)?;
            for key in [&version.key, &current] {
                backend.remove_empty(key);
            }
            has_gone.store(true, Ordering::Relaxed);
            Ok(Outcome::Gone)
        });
        let state = match removed {
            Ok(removed) => (!removed.is_empty()).then_some(Going::Removed),
            Err(error) if Unread::is_one(&error) => {
                passed.tell(error)?;
                Some(if has_gone.into_inner() { Going::Removed } else { Going::Waiting })
            }
            Err(error) => {
                self.unless_full(error)?;
                has_gone.into_inner().then_some(Going::Removed)
            }
        };
        if state == Some(Going::Removed) {
            self.collected.removed.add(false, 0);
        }
        Ok(state)
    }

    /// Once all is known that stays: what those that go would free. What they are made of is kept as long as they are.
    pub(super) fn images(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        self.collected.going = leaving.len() as u64;
        for Leaving { image, parts, .. } in &leaving {
            let distinct: HashMap<_, _> = parts.iter().copied().collect();
            let frees = distinct.iter().filter(|(digest, _)| !self.live.has(**digest)).map(|(_, size)| size);
            let frees = frees.fold(0_u64, |sum, size| sum.saturating_add(*size));
            if self.collected.retention.len() < MOST_NAMED {
                self.collected.retention.push(ImageGone { frees, ..image.clone() });
            }
        }
        for (digest, _) in leaving.into_iter().filter(|image| !image.has_gone()).flat_map(|image| image.parts)
        {
            self.live.insert(digest);
        }
        self.collected.in_use = self.live.len() as u64;
    }
}
