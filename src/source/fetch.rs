//! One fetch, on a blocking thread: which mirror, which request, and what to do when it does not work.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use git2::{AutotagOption, FetchOptions, Progress, Reference, RemoteCallbacks};

use super::commit::CommitId;
use super::error::SourceError;
use super::fetched::FetchedCommit;
use super::libgit2;
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

/// Why a transfer brought nothing.
enum Trouble {
    /// The server does not give out what it was asked for; in its words.
    NotServed(String),
    /// libgit2 failed, by what the server sent or by what it found in the mirror.
    Git(git2::Error),
    /// Anything else, which a mirror has nothing to do with.
    Other(SourceError),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Self::Other(error)
    }
}

impl Fetch {
    pub(super) fn run(&self, slot: &mut Slot) -> Result<FetchedCommit, SourceError> {
        let url = &self.session.url;
        slot.begin(url)?;
        if let Some(found) = self.find_in(slot)? {
            self.log.blocking_status(format!("commit {} of {url} is already here", self.commit.short()));
            return Ok(found);
        }
        self.log.blocking_status(format!("fetching {url}"));
        let _guard = self.session.enter();
        let id = self.commit.as_str();
        let by_id = [format!("+{id}:refs/buildgrid/commits/{id}")];
        let reason = match self.by_id(slot, &by_id) {
            Ok(()) => match self.find_in(slot)? {
                Some(found) => return Ok(found),
                None => {
                    // It is noted there as a commit at which the history is cut off; a server would refuse that.
                    if let Some(mirror) = slot.get(Kind::Shallow)? {
                        mirror.discard();
                    }
                    "the server sent something else".to_owned()
                }
            },
            Err(Trouble::NotServed(text))
                if text.contains("not our ref") && self.session.refuses_only_missing() =>
            {
                return Err(self.not_found());
            }
            Err(Trouble::NotServed(text)) => text,
            Err(trouble) => return Err(self.error(trouble)),
        };
        // The program's log is masked like the build's: a server may say anything.
        let reason = self.log.mask().shown(&reason);
        tracing::debug!(url, %reason, "the server does not give out the commit by its id");
        for refspecs in self.refspecs() {
            self.log.blocking_status(format!(
                "the server does not give out single commits: fetching {} with its history",
                refspecs.0
            ));
            self.healing(slot, Kind::Full, &refspecs.1, 0).map_err(|trouble| self.error(trouble))?;
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
                Ok(found) => {
                    if let Some(found) = found? {
                        return Ok(Some(found));
                    }
                }
                Err(error) if libgit2::is_of_machine(&error) => {
                    return Err(slot.failed(error.message().to_owned()));
                }
                Err(error) => self.discard(&mirror, &error),
            }
        }
        Ok(None)
    }

    /// Fetches a commit by its id; first without the server's list of refs, where it is known what that announces.
    fn by_id(&self, slot: &mut Slot, refspecs: &[String]) -> Result<(), Trouble> {
        if let Some(announced) = slot.announced.take() {
            let (mirror, _) = slot.get_or_create(Kind::Shallow)?;
            self.session.remember(Some(announced.clone()));
            let result = self.transfer(&mirror, refspecs, 1);
            self.session.remember(None);
            match result {
                Ok(()) => {
                    slot.announced = Some(announced);
                    return Ok(());
                }
                Err(Trouble::Other(error)) if is_last_word(&error) => return Err(error.into()),
                // The server may have changed: what is wrong is found out with its list.
                Err(_) => {}
            }
        }
        self.healing(slot, Kind::Shallow, refspecs, 1)?;
        // Where it redirects to, another namespace may not be allowed to follow.
        slot.announced = self.session.announced().filter(|_| self.session.is_at_its_url());
        Ok(())
    }

    /// Fetches into a mirror. If libgit2 fails on one that was there before, it may be broken: it is
    /// discarded, and the fetch is tried once more into a new one.
    fn healing(&self, slot: &mut Slot, kind: Kind, refspecs: &[String], depth: i32) -> Result<(), Trouble> {
        let (mirror, new) = slot.get_or_create(kind)?;
        match self.transfer(&mirror, refspecs, depth) {
            Err(Trouble::Git(error)) if !new => {
                self.discard(&mirror, &error);
                let (mirror, _) = slot.get_or_create(kind)?;
                self.transfer(&mirror, refspecs, depth)
            }
            result => result,
        }
    }

    fn discard(&self, mirror: &Mirror, error: &git2::Error) {
        self.say_broken(error.message());
        mirror.discard();
    }

    fn say_broken(&self, error: &str) {
        let (url, error) = (&self.session.url, self.log.mask().shown(error));
        tracing::warn!(url, %error, "the mirror cannot be used and is fetched anew");
        self.log.blocking_status(format!("the mirror on the worker is broken ({error}): fetching it anew"));
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

    fn transfer(&self, mirror: &Mirror, refspecs: &[String], depth: i32) -> Result<(), Trouble> {
        let begun = Instant::now();
        let received_before = self.session.received();
        let objects = Cell::new(0);
        let result = (|| {
            let repository = mirror.open()?;
            let mut remote = repository.remote_anonymous(self.session.repository.as_url().as_str())?;
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
            return Err(failure.into());
        }
        let refusal = self.session.take_remote_error();
        result.map_err(|error| self.trouble(refusal, error))?;
        self.log.blocking_status(format!(
            "received {} objects, {} in {:.1} s",
            objects.get(),
            ByteSize(self.session.received() - received_before).display().si(),
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// What it means that libgit2 has failed, where the server has answered with `refusal` or not.
    fn trouble(&self, refusal: Option<String>, error: git2::Error) -> Trouble {
        if libgit2::is_of_machine(&error) {
            let (url, reason) = (self.session.url.clone(), error.message().to_owned());
            return SourceError::Mirror { url, reason }.into();
        }
        let message = error.message();
        // The first is the server's refusal where it does not stand at its answer's beginning. With the
        // others libgit2 says that the server announces no way to do it: git_smart__negotiate_fetch, filter_wants.
        let not_served = ["remote error", "not our ref", "support shallow", "specific object"];
        match refusal {
            Some(text) => Trouble::NotServed(text),
            None if not_served.iter().any(|sign| message.contains(sign)) => {
                Trouble::NotServed(message.to_owned())
            }
            None => Trouble::Git(error),
        }
    }

    fn error(&self, trouble: Trouble) -> SourceError {
        let reason = match trouble {
            Trouble::NotServed(text) => text,
            Trouble::Git(error) => error.message().to_owned(),
            Trouble::Other(error) => return error,
        };
        SourceError::Git { url: self.session.url.clone(), reason }
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

/// Whether nothing more is to be asked.
fn is_last_word(error: &SourceError) -> bool {
    use SourceError::{Cancelled, TimedOut, TooLarge, TooMany};
    matches!(error, Cancelled | TimedOut { .. } | TooLarge { .. } | TooMany { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::config::SourceConfig;
    use crate::source::session::Whose;
    use crate::telemetry::logging::logged;
    use crate::timeline::mask::Mask;

    #[test]
    fn what_a_server_says_is_masked_in_the_programs_log() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        let (log, mut lines) = LogSink::channel(Mask::new([("s", &b"hunter2"[..])]).unwrap().0);
        let url = "https://git.example.com/acme/shop.git".parse().unwrap();
        let fetch = Fetch {
            session: Arc::new(Session::new(
                Arc::new(SourceConfig::default()),
                Arc::new([]),
                &url,
                Whose { namespace: "acme".parse().unwrap(), permit: Arc::new(|_| Ok(())), credential: None },
                tokio_util::sync::CancellationToken::new(),
                Arc::new(crate::source::session::Budget::new(&SourceConfig::default())),
            )),
            commit: "9fceb02d0ae598e95dc970b74767f19372d61af8".parse().unwrap(),
            git_ref: None,
            log,
        };
        let program = logged(|| fetch.say_broken("bad object hunter2 of https://me:pass@git.example.com"));
        let said = "bad object *** of https://me:***@git.example.com";
        assert!(program.contains(said), "{program}");
        assert!(lines.try_recv().unwrap().text.contains(said));
    }
}
