//! What is in the store, for its operator: repositories and images with sizes and times, and who takes how much of the
//! disk. All of it blocks, and reads every manifest that is asked for.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;

use super::backend::Backend;
use super::digest::Digest;
use super::error::StoreError;
use super::handle::Store;
use super::inventory::{self, Contents, Found, Repository, Version, namespace_of};
use super::layout;
use super::unread::{PassedOver, Unread};
use crate::publish::name::{ImageRepository, Namespace};

/// What cannot be read is told of so many images, at most.
const MOST_TOLD: usize = 1000;

/// What is there, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    pub rows: Vec<T>,
    /// What cannot be, and is not in the rows.
    pub unread: Vec<Unread>,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryEntry {
    /// `<namespace>/<app>.<repository>`; another form if another registry has made it.
    pub repository: String,
    pub tags: u64,
    /// Images that tags have named and do not name any more; they can be pulled by digest.
    pub replaced: u64,
    /// All that its images are made of, each blob once, in bytes.
    pub bytes: u64,
    /// When an image was last put under a tag.
    #[serde(with = "time::serde::rfc3339::option")]
    pub updated_at: Option<OffsetDateTime>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageEntry {
    /// `<namespace>/<app>.<repository>:<tag>`
    pub image: String,
    pub digest: Digest,
    /// Whether the tag names another one by now.
    pub replaced: bool,
    /// What a client without any of its layers downloads, in bytes; none if its manifest cannot be read.
    pub size: Option<u64>,
    /// When it was put under its tag.
    #[serde(with = "time::serde::rfc3339")]
    pub put_at: OffsetDateTime,
    /// The build that made it.
    pub build: Option<String>,
}

/// What a row of [`Store::disk_usage`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Namespace,
    App,
    Repository,
    /// The whole store.
    Store,
    /// What no image needs, until it is collected.
    Garbage,
}

/// Who takes how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskUsage {
    pub level: Level,
    pub name: String,
    /// What tags name, and have named.
    pub images: u64,
    /// All that its images are made of, each blob once, in bytes.
    pub bytes: u64,
    /// Of it, what images of nobody else need: what would be free without it.
    pub own: u64,
}

impl Store {
    /// The repositories, of one namespace or all, sorted by name.
    pub fn list_repositories(
        &self,
        namespace: Option<&Namespace>,
    ) -> Result<Listing<RepositoryEntry>, StoreError> {
        let backend = self.backend();
        let (mut passed, mut entries) = (PassedOver::new(backend), Vec::new());
        for repository in inventory::repositories(&mut passed)?.all {
            if namespace.is_some_and(|wanted| namespace_of(&repository.path) != wanted.as_str()) {
                continue;
            }
            let versions = inventory::versions(&mut passed, &repository)?.all;
            let mut blobs = HashMap::new();
            for version in &versions {
                let (parts, unread) = blobs_of(backend, version.manifest);
                blobs.extend(parts);
                tell(&mut passed, &repository, version, unread);
            }
            let tags = versions.iter().filter(|version| version.is_current).count() as u64;
            entries.push(RepositoryEntry {
                tags,
                replaced: versions.len() as u64 - tags,
                bytes: sum(blobs.values().copied()),
                updated_at: versions.iter().map(|version| version.put_at).max().map(date),
                repository: repository.path,
            });
        }
        Ok(Listing { rows: entries, unread: passed.told })
    }

    /// The images of a repository, newest first. `None`: there is no such repository.
    pub fn list_images(&self, name: &ImageRepository) -> Result<Option<Listing<ImageEntry>>, StoreError> {
        let backend = self.backend();
        let path = name.to_string();
        let repository = Repository { key: layout::tree(&path), path };
        if backend.list(&repository.key)?.is_empty() {
            return Ok(None);
        }
        let mut passed = PassedOver::new(backend);
        let mut versions = inventory::versions(&mut passed, &repository)?.all;
        versions.sort_by_key(|version| std::cmp::Reverse((version.put_at, version.manifest)));
        let mut entries = Vec::new();
        for version in versions {
            let contents = match readable(version.manifest, inventory::contents(backend, version.manifest)) {
                Ok(contents) => Some(contents),
                Err(reason) => {
                    tell(&mut passed, &repository, &version, Some(reason));
                    None
                }
            };
            entries.push(ImageEntry {
                image: format!("{name}:{}", version.tag),
                digest: version.manifest,
                replaced: !version.is_current,
                size: contents.as_ref().map(Contents::size),
                put_at: date(version.put_at),
                build: contents.and_then(|contents| contents.build),
            });
        }
        Ok(Some(Listing { rows: entries, unread: passed.told }))
    }

    /// Who takes how much, sorted by name; the whole store and what nobody needs at the end. A blob in use takes about
    /// 40 bytes of memory meanwhile. What nobody needs is told only where everything can be read.
    pub fn disk_usage(&self) -> Result<Listing<DiskUsage>, StoreError> {
        let backend = self.backend();
        let (mut passed, mut sums) = (PassedOver::new(backend), Sums::default());
        for repository in inventory::repositories(&mut passed)?.all {
            sums.begin(&repository.path);
            for version in inventory::versions(&mut passed, &repository)?.all {
                let (blobs, unread) = blobs_of(backend, version.manifest);
                sums.image(&blobs);
                tell(&mut passed, &repository, &version, unread);
            }
        }
        let mut all = 0_u64;
        inventory::blobs(&mut passed, |_, bytes| {
            all = all.saturating_add(bytes);
            Ok(true)
        })?;
        let mut rows = sums.rows(all);
        if !passed.told.is_empty() {
            rows.retain(|row| row.level != Level::Garbage);
        }
        Ok(Listing { rows, unread: passed.told })
    }
}

fn date(at: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(at).truncate_to_second()
}

/// `acme/shop` of `acme/shop.storefront`.
fn app_of(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    path[name..].find('.').map_or(path, |dot| &path[..name + dot])
}

/// Tells why it is not known what an image is made of. One that was replaced may have gone.
pub(super) fn tell(
    passed: &mut PassedOver<'_>,
    repository: &Repository,
    version: &Version,
    unread: Option<String>,
) {
    if let Some(reason) = unread.filter(|_| version.is_current && passed.told.len() < MOST_TOLD) {
        passed.told.push(Unread { path: format!("{}:{}", repository.path, version.tag), reason });
    }
}

/// What a manifest refers to, or why that cannot be read.
fn readable(manifest: Digest, found: Found) -> Result<Contents, String> {
    let reason = match found {
        Found::Readable(contents) => return Ok(contents),
        Found::Absent => "it is not there".to_owned(),
        Found::Unreadable(reason) => reason,
        Found::Unread(error) => error.to_string(),
    };
    Err(format!("its manifest {manifest} cannot be read: {reason}"))
}

/// All that an image is made of, with lengths, its manifests included, as far as these can be read; and why one cannot.
pub(super) fn blobs_of(backend: &Backend, manifest: Digest) -> (HashMap<Digest, u64>, Option<String>) {
    let (mut blobs, mut unread) = (HashMap::new(), None);
    for (manifest, found) in inventory::manifests(backend, manifest) {
        match readable(manifest, found) {
            Ok(contents) => blobs.extend(contents.all(manifest)),
            Err(reason) => _ = unread.get_or_insert(reason),
        }
    }
    (blobs, unread)
}

/// A blob, and who has it: repositories are looked at in the order of their names, so that the first and the last that
/// had it tell how far it is shared.
struct Shared {
    size: u64,
    first: usize,
    last: usize,
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    OneRepository,
    OneApp,
    OneNamespace,
    Several,
}

#[derive(Default)]
struct Sums {
    /// Names of repositories, in their order.
    repositories: Vec<String>,
    blobs: HashMap<Digest, Shared>,
    /// By level and name: images and bytes.
    rows: Vec<DiskUsage>,
    index: HashMap<(u8, String), usize>,
}

impl Sums {
    fn begin(&mut self, path: &str) {
        self.repositories.push(path.to_owned());
    }

    fn row(&mut self, level: Level, name: &str) -> &mut DiskUsage {
        let key = (level as u8, name.to_owned());
        let index = *self.index.entry(key).or_insert_with(|| {
            let name = name.to_owned();
            self.rows.push(DiskUsage { level, name, images: 0, bytes: 0, own: 0 });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    fn levels(path: &str) -> [(Level, &str); 3] {
        [(Level::Namespace, namespace_of(path)), (Level::App, app_of(path)), (Level::Repository, path)]
    }

    fn image(&mut self, blobs: &HashMap<Digest, u64>) {
        let this = self.repositories.len() - 1;
        let path = self.repositories[this].clone();
        for (level, name) in Self::levels(&path) {
            self.row(level, name).images += 1;
        }
        for (&digest, &size) in blobs {
            let Some(shared) = self.blobs.get_mut(&digest) else {
                self.blobs.insert(digest, Shared { size, first: this, last: this, by: By::OneRepository });
                for (level, name) in Self::levels(&path) {
                    add(&mut self.row(level, name).bytes, size);
                }
                continue;
            };
            let (first, last) = (&self.repositories[shared.first], self.repositories[shared.last].clone());
            let by = match () {
                () if *first == path => By::OneRepository,
                () if app_of(first) == app_of(&path) => By::OneApp,
                () if namespace_of(first) == namespace_of(&path) => By::OneNamespace,
                () => By::Several,
            };
            shared.by = shared.by.max(by);
            shared.last = this;
            let before = Self::levels(&last);
            for (place, (level, name)) in Self::levels(&path).into_iter().enumerate() {
                if before[place].1 != name {
                    add(&mut self.row(level, name).bytes, size);
                }
            }
        }
    }

    fn rows(mut self, all: u64) -> Vec<DiskUsage> {
        let blobs = std::mem::take(&mut self.blobs);
        let used = sum(blobs.values().map(|shared| shared.size));
        for Shared { size, first, by, .. } in blobs.values() {
            let path = self.repositories[*first].clone();
            for ((level, name), most) in
                Self::levels(&path).into_iter().zip([By::OneNamespace, By::OneApp, By::OneRepository])
            {
                if *by <= most {
                    add(&mut self.row(level, name).own, *size);
                }
            }
        }
        let images = self.rows.iter().filter(|row| row.level == Level::Repository).map(|row| row.images);
        let images = images.sum();
        let mut rows = self.rows;
        rows.sort_by(|one, other| (&one.name, one.level as u8).cmp(&(&other.name, other.level as u8)));
        let whole = |level, name: &str, images, bytes| DiskUsage {
            level,
            name: name.to_owned(),
            images,
            bytes,
            own: bytes,
        };
        rows.push(whole(Level::Store, "all images", images, used));
        rows.push(whole(Level::Garbage, "no image's", 0, all.saturating_sub(used)));
        rows
    }
}

/// Sizes are what manifests say, and any registry's manifest may say anything.
fn add(sum: &mut u64, size: u64) {
    *sum = sum.saturating_add(size);
}

fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_nobodys_own() {
        let [base, app, own] = ["base", "app", "own"].map(|text| Digest::of(text.as_bytes()));
        let mut sums = Sums::default();
        sums.begin("acme/shop.api");
        sums.image(&[(base, 1000), (app, 100), (own, 10)].into());
        sums.begin("acme/shop.web");
        sums.image(&[(base, 1000), (app, 100)].into());
        sums.image(&[(base, 1000), (app, 100)].into());
        sums.begin("bank/a.b");
        sums.image(&[(base, 1000)].into());
        let rows = sums.rows(1234);
        let rows: Vec<_> =
            rows.iter().map(|row| (row.name.as_str(), row.images, row.bytes, row.own)).collect();
        assert_eq!(
            rows,
            [
                ("acme", 3, 1110, 110),
                ("acme/shop", 3, 1110, 110),
                ("acme/shop.api", 1, 1110, 10),
                ("acme/shop.web", 2, 1100, 0),
                ("bank", 1, 1000, 0),
                ("bank/a", 1, 1000, 0),
                ("bank/a.b", 1, 1000, 0),
                ("all images", 4, 1110, 1110),
                ("no image's", 0, 124, 124),
            ]
        );
    }
}
