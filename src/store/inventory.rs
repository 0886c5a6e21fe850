//! What is in the store: repositories, the images that their tags name or have named, and what these are made of. For
//! whoever goes through all of it; what one reader needs of one image is in [`manifests`](super::manifests).
//!
//! What cannot be read is passed over here, and told ([`unread`](super::unread)).
//!
//! Repositories that another registry has made are seen, too: what they refer to is not BuildGrid's to remove.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::time::SystemTime;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::backend::{Backend, Seen};
use super::digest::Digest;
use super::error::StoreError;
use super::layout::{self, Key};
use super::unread::PassedOver;
use crate::publish::manifest::{BUILD, DEFINITION};
use crate::publish::name::{ImageName, ImageRepository, Tag};

/// Names of repositories have no more parts than fit into 255 characters.
const DEEPEST: usize = 128;
/// The longest manifest that is read: more than any registry takes.
const MAX_MANIFEST: u64 = 32 << 20;
/// When an image says that it was created before this, it does not know.
const NOT_BEFORE: i64 = 946_684_800; // 2000-01-01

/// A repository of the store.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    /// Below the directory of all: its name.
    pub path: String,
    pub key: Key,
}

impl Repository {
    /// Its name, if it is one that BuildGrid gives.
    pub(super) fn name(&self) -> Option<ImageRepository> {
        self.path.parse().ok()
    }
}

/// The first part of a path.
pub(super) fn namespace_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// The repositories of the store.
#[derive(Debug, Default)]
pub(super) struct Repositories {
    /// Sorted by namespace and name.
    pub all: Vec<Repository>,
    /// Paths at and below which there may be others, which cannot be read.
    pub unread: Vec<String>,
}

/// # Errors
/// Where the directory of all cannot be listed, too.
pub(super) fn repositories(passed: &mut PassedOver<'_>) -> Result<Repositories, StoreError> {
    let mut found = Repositories::default();
    descend(passed, "", 0, &mut found)?;
    Ok(found)
}

fn descend(
    passed: &mut PassedOver<'_>,
    path: &str,
    depth: usize,
    found: &mut Repositories,
) -> Result<(), StoreError> {
    let key = layout::tree(path);
    let names = match passed.backend.list(&key) {
        Err(error) if !path.is_empty() => {
            found.unread.push(path.to_owned());
            return passed.tell(error);
        }
        names => names?,
    };
    // A name has no underscore at its beginning: what has is the repository's own.
    let (own, below): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with('_'));
    if !own.is_empty() && !path.is_empty() {
        found.all.push(Repository { path: path.to_owned(), key });
    }
    for name in below.into_iter().filter(|_| depth < DEEPEST) {
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        descend(passed, &path, depth + 1, found)?;
    }
    Ok(())
}

/// A manifest that a tag names, or has named.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub tag: String,
    pub manifest: Digest,
    /// Whether the tag names it now.
    pub is_current: bool,
    /// When it was put under the tag.
    pub put_at: SystemTime,
    /// Its link in the tag's index, which makes it one of the tag's.
    pub key: Key,
}

impl Version {
    /// The image's name, if it is one that BuildGrid gives.
    pub(super) fn name(&self, repository: &Repository) -> Option<ImageName> {
        Some(ImageName { repository: repository.name()?, tag: self.tag.parse::<Tag>().ok()? })
    }
}

/// What a repository's tags name, and have named.
#[derive(Debug, Default)]
pub(super) struct Versions {
    pub all: Vec<Version>,
    /// Tags of which it cannot be told what they name: what their link holds is no digest.
    pub damaged: Vec<String>,
    /// Whether all of their links could be read.
    pub is_whole: bool,
}

pub(super) fn versions(passed: &mut PassedOver<'_>, repository: &Repository) -> Result<Versions, StoreError> {
    let mut versions = Versions { is_whole: true, ..Versions::default() };
    let folder = layout::tag_directories(&repository.key);
    let mut tags: BTreeMap<String, Links> = BTreeMap::new();
    passed.backend.walk(&folder, &mut |path, seen| {
        let path: Vec<_> = path.split('/').collect();
        let is_link = matches!(path[..], [_, "current", "link"] | [_, "index", "sha256", _, "link"]);
        let links = tags.entry(path[0].to_owned()).or_default();
        match (seen, &path[..]) {
            (Seen::Object(entry), [_, "current", "link"]) => links.current = Some(entry.modified),
            (Seen::Object(entry), [_, "index", "sha256", hex, "link"]) => {
                let digest = Digest::from_hex(hex).ok();
                links.index.extend(digest.map(|digest| (digest, entry.modified)));
            }
            (Seen::Folder, _) if is_link => {
                let place = passed.backend.place(&folder).join(path.join("/"));
                links.unread.get_or_insert(StoreError::io("read", &place, ErrorKind::IsADirectory.into()));
            }
            (Seen::Unread(error), _) => _ = links.unread.get_or_insert(error),
            (Seen::Object(_) | Seen::Folder, _) => {}
        }
        Ok(true)
    })?;
    for (tag, mut links) in tags {
        let link = folder.below(&tag).below("current").below("link");
        let found = match links.current {
            Some(_) if links.unread.is_none() => match passed.backend.read(&link) {
                Ok(found) => found,
                Err(error) => {
                    links.unread = Some(error);
                    None
                }
            },
            _ => None,
        };
        let named = found.as_ref().map(|link| digest_in(link));
        if named == Some(None) {
            versions.damaged.push(tag.clone());
        }
        let current = named.flatten();
        let mut index: Vec<_> = links.index.into_iter().collect();
        // It may have been put since the links were listed.
        if let Some(current) = current.filter(|current| index.iter().all(|(digest, _)| digest != current)) {
            index.push((current, links.current.unwrap_or(SystemTime::UNIX_EPOCH)));
        }
        for (manifest, put_at) in index {
            let key = folder.below(&tag).below("index/sha256").below(&manifest.hex()).below("link");
            let is_current = current == Some(manifest);
            versions.all.push(Version { tag: tag.clone(), manifest, is_current, put_at, key });
        }
        if let Some(error) = links.unread {
            passed.tell(error)?;
            versions.is_whole = false;
        }
    }
    Ok(versions)
}

/// The links of a tag, and when each was put.
#[derive(Default)]
struct Links {
    current: Option<SystemTime>,
    index: BTreeMap<Digest, SystemTime>,
    /// The first of what cannot be read of them.
    unread: Option<StoreError>,
}

/// The digest that a link holds.
pub(super) fn digest_in(link: &[u8]) -> Option<Digest> {
    std::str::from_utf8(link).ok()?.trim_end().parse().ok()
}

/// The digests of a directory of links, by their names; `None` where it cannot be read.
pub(super) fn links(passed: &mut PassedOver<'_>, key: &Key) -> Result<Option<Vec<Digest>>, StoreError> {
    let names = passed.or_told(passed.backend.list(key))?;
    Ok(names.map(|names| names.iter().filter_map(|hex| Digest::from_hex(hex).ok()).collect()))
}

/// Tells of all blobs that can be seen, with their lengths in bytes, until `each` answers that it is enough; answers
/// whether nothing was in the way.
pub(super) fn blobs(
    passed: &mut PassedOver<'_>,
    mut each: impl FnMut(Digest, u64) -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    let mut is_whole = true;
    passed.backend.walk(&layout::blobs(), &mut |path, seen| {
        let entry = match seen {
            Seen::Object(entry) => entry,
            Seen::Folder => return Ok(true),
            Seen::Unread(error) => {
                is_whole = false;
                return passed.tell(error).map(|()| true);
            }
        };
        let below = path.split_once('/').and_then(|(_, path)| path.strip_suffix("/data"));
        let digest = below.and_then(|hex| Digest::from_hex(hex).ok());
        digest.map_or(Ok(true), |digest| each(digest, entry.bytes))
    })?;
    Ok(is_whole)
}

/// What a manifest refers to.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Configuration and layers, with their sizes as the manifest states them.
    pub parts: Vec<(Digest, u64)>,
    /// The manifests of an index.
    pub manifests: Vec<Digest>,
    /// Its own length in bytes.
    pub length: u64,
    /// Whether BuildGrid has made it.
    pub is_ours: bool,
    /// The build that made it.
    pub build: Option<String>,
    /// When, as far as it says.
    pub created: Option<SystemTime>,
}

impl Contents {
    /// What a client without any of it downloads, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.parts.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// The manifest itself, and its parts, with sizes.
    pub(super) fn all(&self, manifest: Digest) -> impl Iterator<Item = (Digest, u64)> {
        std::iter::once((manifest, self.length)).chain(self.parts.iter().copied())
    }
}

/// What came of reading a manifest.
#[derive(Debug)]
pub(super) enum Found {
    Readable(Contents),
    Absent,
    /// It is there, and what it refers to cannot be known.
    Unreadable(String),
    /// Nor can it be told whether it is there.
    Unread(StoreError),
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    annotations: Option<std::collections::HashMap<String, String>>,
}

/// A manifest and, of an index, all below it, each once. An index may name manifests that were never put here: only those
/// that the disk has damaged are told as absent.
pub(super) fn manifests(backend: &Backend, manifest: Digest) -> impl Iterator<Item = (Digest, Found)> {
    let (mut left, mut known) = (vec![manifest], HashSet::from([manifest]));
    std::iter::from_fn(move || {
        while let Some(digest) = left.pop() {
            let found = contents(backend, digest);
            match &found {
                Found::Readable(contents) => {
                    left.extend(contents.manifests.iter().filter(|&&child| known.insert(child)));
                }
                Found::Absent if digest != manifest && !is_quarantined(backend, digest) => continue,
                Found::Absent | Found::Unreadable(_) | Found::Unread(_) => {}
            }
            return Some((digest, found));
        }
        None
    })
}

/// Whether it was there, and what it refers to is not known because it was damaged. What cannot be told is taken so.
pub(super) fn is_quarantined(backend: &Backend, digest: Digest) -> bool {
    backend.size(&layout::quarantined(digest)).map_or(true, |length| length.is_some())
}

/// Reads a manifest by its digest, whoever wrote it.
pub(super) fn contents(backend: &Backend, digest: Digest) -> Found {
    let key = layout::blob(digest);
    let bytes = match backend.read_up_to(&key, MAX_MANIFEST) {
        Ok(Some(Ok(bytes))) => bytes,
        Ok(None) => return Found::Absent,
        Ok(Some(Err(length))) => return Found::Unreadable(format!("it is {length} bytes long")),
        Err(error) => return Found::Unread(error),
    };
    if Digest::of(&bytes) != digest {
        return Found::Unreadable("its content does not match its digest".to_owned());
    }
    let manifest: Manifest = match serde_json::from_slice(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => return Found::Unreadable(error.to_string()),
    };
    if manifest.config.is_none() && manifest.layers.is_none() && manifest.manifests.is_none() {
        return Found::Unreadable("it names no configuration, no layers and no manifests".to_owned());
    }
    let parts = manifest.config.into_iter().chain(manifest.layers.unwrap_or_default());
    let annotations = manifest.annotations.unwrap_or_default();
    let created = annotations.get("org.opencontainers.image.created");
    let created = created.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let created = created.filter(|at| at.unix_timestamp() > NOT_BEFORE);
    Found::Readable(Contents {
        parts: parts.map(|part| (part.digest, part.size)).collect(),
        manifests: manifest.manifests.unwrap_or_default().iter().map(|part| part.digest).collect(),
        length: bytes.len() as u64,
        is_ours: annotations.contains_key(DEFINITION),
        build: annotations.get(BUILD).cloned(),
        created: created.map(SystemTime::from),
    })
}
