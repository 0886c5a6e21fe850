//! Exit codes: one table for every command, the same as in the README.

use std::process::ExitCode;

use crate::event::result::Kind;
use crate::timeline::protocol::BuildState;

/// How a command ends. The numbers up to 78 follow sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// A failure inside BuildGrid.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The build failed: its own fault.
    BuildFailed = 10,
    /// The event was rejected.
    Rejected = 11,
    /// The build was cancelled.
    Cancelled = 12,
    /// The build could not be done: not its fault.
    Infrastructure = 13,
    /// Another one does the same in this store now.
    Busy = 14,
    /// A service (broker, engine, registry, timeline, object store) does not answer.
    Unavailable = 69,
    /// Retention lets nothing go now, for what deploys run is not known.
    Paused = 75,
    /// The configuration is wrong.
    Configuration = 78,
}

impl Exit {
    /// The exit code of who waits for a build; [`Done`](Self::Done) for one that has not ended.
    pub fn of_build(state: BuildState, kind: Option<Kind>) -> Self {
        match (state, kind) {
            (BuildState::Failed, Some(Kind::Infrastructure)) => Self::Infrastructure,
            (BuildState::Failed, _) => Self::BuildFailed,
            (BuildState::Rejected, _) => Self::Rejected,
            (BuildState::Cancelled, _) => Self::Cancelled,
            _ => Self::Done,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with the exit code it ends the program with.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    pub fn unavailable(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Unavailable, error)
    }
}

/// Whatever no command has put into another class is a failure inside BuildGrid.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Internal, error)
    }
}

/// The table, as `--help` shows it.
pub const HELP: &str = "\
Exit codes:
   0  done
   1  a failure inside BuildGrid; store scrub: something is damaged;
      store ls, du, gc, credential list: something cannot be read, and the rest is done
   2  the command line is wrong, or a build that has ended otherwise cannot be cancelled
  10  the build failed: its own fault      (build; enqueue --wait; enqueue, logs, rebuild --follow)
  11  the event was rejected               (the same, and every enqueue)
  12  the build was cancelled              (the same as 10)
  13  the build could not be done: not its fault
  14  store gc, store scrub: another one goes on in this store
  69  a service (broker, engine, registry, timeline, object store) does not answer
  75  store gc: done, but [retention] lets nothing go now: what deploys run is not known
  78  the configuration is wrong, or the token in it";
