//! One fetch, on a blocking thread: which mirror, which request, and what to do when it does not work.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use git2::{AutotagOption, FetchOptions, Progress, Reference, RemoteCallbacks};

use super::commit::CommitId;
use super::error::SourceError;
use super::fetched::FetchedCommit;
use super::mirror::{Kind, Mirror, Slot};
use super::session::Session;
use crate::timeline::sink::LogSink;

/// How often a long fetch says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

pub(super) struct Fetch {
    pub(super) session: Arc<Session>,
    pub(super) commit: CommitId,
    pub(super) git_ref: Option<String>,
    pub(super) log: LogSink,
}

/// What came of asking for the commit by its id.
enum ById {
    Fetched,
    /// The server does not give out commits this way.
    NotServed(String),
}

impl Fetch {
    pub(super) fn run(&self, slot: &mut Slot) -> Result<FetchedCommit, SourceError> {
        let url = &self.session.url;
        if let Some(found) = self.find_in(slot)? {
            self.log.blocking_status(format!("commit {} of {url} is already here", self.commit.short()));
            return Ok(found);
        }
        self.log.blocking_status(format!("fetching {url}"));
        let _guard = self.session.enter();
        let by_id = self.healing(slot, Kind::Shallow, |mirror| self.by_id(mirror));
        let reason = match by_id {
            Ok(ById::Fetched) => match self.find_in(slot)? {
                Some(found) => return Ok(found),
                None => "the server sent something else".to_owned(),
            },
            Ok(ById::NotServed(reason)) | Err(SourceError::Git { reason, .. }) => reason,
            Err(error) => return Err(error),
        };
        tracing::debug!(url, reason, "the server does not give out the commit by its id");
        for refspecs in self.refspecs() {
            self.log.blocking_status(format!(
                "the server does not give out single commits: fetching {} with its history",
                refspecs.0
            ));
            self.healing(slot, Kind::Full, |mirror| self.transfer(mirror, &refspecs.1, 0))?;
            if let Some(found) = self.find_in(slot)? {
                return Ok(found);
            }
        }
        Err(self.not_found())
    }

    /// Looks for the commit in the mirrors. One that cannot be read is discarded.
    fn find_in(&self, slot: &mut Slot) -> Result<Option<FetchedCommit>, SourceError> {
        for kind in Kind::ALL {
            let Some(mirror) = slot.get(kind)? else { continue };
            match FetchedCommit::find(&mirror, &self.commit, &self.session) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => self.discard(&mirror, &error),
            }
        }
        Ok(None)
    }

    /// Fetches into a mirror. If libgit2 fails on one that was there before, it may be broken: it is
    /// discarded, and the fetch is tried once more into a new one.
    fn healing<T>(
        &self,
        slot: &mut Slot,
        kind: Kind,
        fetch: impl Fn(&Mirror) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let (mirror, new) = slot.get_or_create(kind)?;
        match fetch(&mirror) {
            Err(SourceError::Git { reason, .. }) if !new => {
                self.discard(&mirror, &git2::Error::from_str(&reason.replace('\0', " ")));
                let (mirror, _) = slot.get_or_create(kind)?;
                fetch(&mirror)
            }
            result => result,
        }
    }

    fn discard(&self, mirror: &Mirror, error: &git2::Error) {
        let (url, error) = (&self.session.url, error.message());
        tracing::warn!(url, error, "the mirror cannot be used and is fetched anew");
        self.log.blocking_status(format!("the mirror on the worker is broken ({error}): fetching it anew"));
        mirror.discard();
    }

    fn by_id(&self, mirror: &Mirror) -> Result<ById, SourceError> {
        let id = self.commit.as_str();
        match self.transfer(mirror, &[format!("+{id}:refs/buildgrid/commits/{id}")], 1) {
            Ok(()) => Ok(ById::Fetched),
            Err(SourceError::Git { url, reason }) => match self.session.take_remote_error() {
                Some(text) if text.contains("not our ref") && self.session.refuses_only_missing() => {
                    Err(self.not_found())
                }
                Some(text) => Ok(ById::NotServed(text)),
                // git_smart__negotiate_fetch and filter_wants: the server announces no way to do it.
                None if reason.contains("support shallow") || reason.contains("specific object") => {
                    Ok(ById::NotServed(reason))
                }
                None => Err(SourceError::Git { url, reason }),
            },
            Err(error) => Err(error),
        }
    }

    /// What to ask for instead of the commit: the event's ref, then everything.
    fn refspecs(&self) -> Vec<(String, Vec<String>)> {
        let valid = |name: &&str| name.starts_with("refs/") && Reference::is_valid_name(name);
        let seen_on = self.git_ref.as_deref().filter(valid);
        let mut all: Vec<(String, Vec<String>)> =
            seen_on.map(|name| (name.to_owned(), vec![format!("+{name}:{name}")])).into_iter().collect();
        let everything = ["heads", "tags"].map(|kind| format!("+refs/{kind}/*:refs/{kind}/*"));
        all.push(("all branches and tags".to_owned(), everything.to_vec()));
        all
    }

    fn transfer(&self, mirror: &Mirror, refspecs: &[String], depth: i32) -> Result<(), SourceError> {
        let begun = Instant::now();
        let received_before = self.session.received();
        let objects = Cell::new(0);
        let result = (|| {
            let repository = mirror.open()?;
            let mut remote = repository.remote_anonymous(&self.session.url)?;
            let mut callbacks = RemoteCallbacks::new();
            let mut said = Instant::now();
            callbacks.transfer_progress(|progress| {
                objects.set(progress.received_objects());
                self.may_go_on(&progress, &mut said)
            });
            let mut options = FetchOptions::new();
            options
                .depth(depth)
                .download_tags(AutotagOption::None)
                .update_fetchhead(false)
                .remote_callbacks(callbacks);
            remote.fetch(refspecs, Some(&mut options), None)
        })();
        // The transport knows better than libgit2 what went wrong.
        if let Some(failure) = self.session.take_failure() {
            return Err(failure);
        }
        result.map_err(|error: git2::Error| SourceError::Git {
            url: self.session.url.clone(),
            reason: error.message().to_owned(),
        })?;
        self.log.blocking_status(format!(
            "received {} objects, {} in {:.1} s",
            objects.get(),
            ByteSize(self.session.received() - received_before).display().si(),
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Called by libgit2 as objects come in and are put together; false ends the fetch.
    fn may_go_on(&self, progress: &Progress<'_>, said: &mut Instant) -> bool {
        let limit = self.session.config.max_objects;
        let checked = self.session.check().and_then(|()| match progress.total_objects() as u64 > limit {
            true => Err(SourceError::TooMany {
                what: format!("{} objects in {}", progress.total_objects(), self.session.url),
                limit,
                key: "max_objects",
                remedy: "",
            }),
            false => Ok(()),
        });
        if let Err(error) = checked {
            self.session.fail(error);
            return false;
        }
        if said.elapsed() >= PROGRESS {
            *said = Instant::now();
            self.log.blocking_status(format!(
                "received {} of {} objects, {}",
                progress.received_objects(),
                progress.total_objects(),
                ByteSize(self.session.received()).display().si()
            ));
        }
        true
    }

    fn not_found(&self) -> SourceError {
        SourceError::CommitNotFound { url: self.session.url.clone(), commit: self.commit.clone() }
    }
}
