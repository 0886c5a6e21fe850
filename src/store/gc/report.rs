//! What a round has found and done.

use serde::{Deserialize, Serialize};

use crate::store::digest::Digest;
use crate::store::unread::Unread;

/// Things that are named one by one, at most.
pub(super) const MOST_NAMED: usize = 1000;

/// Objects (blobs and links) and how long they are together, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub blobs: u64,
    /// Links, and entries of the layer index.
    pub links: u64,
    /// Of the blobs.
    pub bytes: u64,
}

/// What becomes of an image that retention lets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Going {
    /// It was marked now, and can be pulled for another grace.
    Condemned,
    /// Its grace is not over.
    Waiting,
    /// It cannot be pulled by its name any more.
    Removed,
}

/// An image that retention lets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageGone {
    /// `<namespace>/<app>.<repository>:<tag>`
    pub image: String,
    pub digest: Digest,
    /// Whether the tag names another image by now.
    pub replaced: bool,
    pub state: Going,
    /// Which rule lets it go.
    pub rule: String,
    /// What no image needs that stays, in bytes. What two that go share is counted with both.
    pub frees: u64,
}

/// A manifest that cannot be read: all that its repository links is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    pub repository: String,
    /// None: which one a tag names cannot be read.
    pub manifest: Option<Digest>,
    pub reason: String,
}

/// What a round has found and done, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    pub dry_run: bool,
    pub repositories: u64,
    /// What tags name, and have named.
    pub images: u64,
    /// Blobs that are in use.
    pub in_use: u64,
    /// What was marked now.
    pub condemned: Sum,
    /// What was marked before, and whose grace is not over.
    pub waiting: Sum,
    pub removed: Sum,
    /// Marks that were taken off, since what they name is needed again.
    pub spared: u64,
    /// What was found without use and has no mark yet: more than one round takes.
    pub left: u64,
    /// The first thousand of the images that retention lets go.
    pub retention: Vec<ImageGone>,
    /// How many these are.
    pub going: u64,
    /// Why retention lets none go, although it is configured.
    pub retention_paused: Option<String>,
    /// `<namespace>/<app>`: apps of which no deploy is known that is done, and whose images are all kept for that, although
    /// a rule is for them. The first thousand.
    #[serde(default)]
    pub undeployed: Vec<String>,
    /// The first thousand.
    pub unreadable: Vec<Unreadable>,
    /// Links and folders that cannot be read. What they belong to is kept as it is.
    #[serde(default)]
    pub unread: Vec<Unread>,
    /// Whether links may be among them that nobody could see, so that no blob was marked or removed.
    #[serde(default)]
    pub keeps_blobs: bool,
    pub elapsed_ms: u64,
}

impl Sum {
    pub(super) fn add(&mut self, is_blob: bool, bytes: u64) {
        match is_blob {
            true => self.blobs += 1,
            false => self.links += 1,
        }
        self.bytes = self.bytes.saturating_add(if is_blob { bytes } else { 0 });
    }
}
