//! A build in a list.

use time::OffsetDateTime;

use super::facts::{self, Failure, Took};
use super::image::ImageUrl;
use super::state::Look;
use super::words::Moment;
use crate::telemetry::printable::printable;
use crate::timeline::protocol::{Build, BuildState};

pub(super) struct Row {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) look: Look,
    /// The whole commit, and its first digits.
    pub(super) commit: String,
    pub(super) short: String,
    pub(super) git_ref: Option<String>,
    pub(super) requester: Option<String>,
    pub(super) created: Moment,
    pub(super) took: Option<Took>,
    pub(super) image: Option<ImageUrl>,
    pub(super) failure: Option<Failure>,
    pub(super) fake: bool,
    /// It replaces an image that was there.
    pub(super) rebuild: bool,
    pub(super) running: bool,
    /// A word beside the title says the state where the icon's shape is not enough.
    pub(super) worded: bool,
}

impl Row {
    pub(super) fn new(build: &Build, now: OffsetDateTime) -> Self {
        Self {
            id: build.id.to_string(),
            title: facts::title(build),
            look: Look::of(build, now),
            commit: build.commit.to_string(),
            short: build.commit.short().to_owned(),
            git_ref: facts::short_ref(build),
            requester: build.requested_by.as_deref().map(printable),
            created: Moment::new(build.created_at, now),
            took: facts::took(build, now),
            image: build.image.as_deref().map(ImageUrl::new),
            failure: facts::failure(build),
            fake: build.fake,
            rebuild: build.rebuild,
            running: build.state.is_running(),
            worded: build.state != BuildState::Published || build.reused,
        }
    }
}
