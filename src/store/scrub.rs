//! Verifying what is in the store: every blob is read and compared with its digest, links and tags with what they must
//! hold, and images with what they are made of.
//!
//! What the disk has damaged is put into quarantine: it is not served any more, and counts as not there, so that building
//! the commit again puts it anew. What cannot be read at all is told, and left where it is. Links are mended: what they must hold follows from their names.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Content, Lease, Swap};
use super::condemned;
use super::credentials::random_text;
use super::digest::{Digest, Digesting};
use super::error::{BrokenOff, StoreError};
use super::handle::{self, Store};
use super::inventory::{self, Contents, Found, Repository, Version};
use super::layout::{self, Key};
use super::unread::{PassedOver, Unread};

/// How long what is in quarantine is kept, for whoever wants to see what the disk has done.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// Images that are named one by one, at most.
const MOST_NAMED: usize = 10_000;
/// How long a file that cannot be read is left alone before it is tried once more.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// One of so many equal parts of the blobs: `1/30`. All parts together are all blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    number: u16,
    of: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a part of a store, such as 1/30: the first of up to 256 parts, or a later one")]
pub struct InvalidPart(String);

impl Part {
    pub const ALL: Self = Self { number: 1, of: 1 };

    /// The part that comes after this one, where there are so many from now on; the first one after the last.
    pub fn next(self, of: u16) -> Self {
        // Where this one ended, or before.
        let passed = u32::from(self.number) * u32::from(of) / u32::from(self.of);
        Self { number: (passed % u32::from(of)) as u16 + 1, of }
    }

    fn has(self, shard: &str) -> bool {
        let place = u32::from(u8::from_str_radix(shard, 16).unwrap_or_default());
        place * u32::from(self.of) / 256 == u32::from(self.number - 1)
    }
}

impl FromStr for Part {
    type Err = InvalidPart;

    fn from_str(text: &str) -> Result<Self, InvalidPart> {
        let invalid = || InvalidPart(text.chars().take(40).collect());
        let (number, of) = text.split_once('/').ok_or_else(invalid)?;
        let (number, of) = (number.parse().map_err(|_| invalid())?, of.parse().map_err(|_| invalid())?);
        match (1..=256).contains(&of) && (1..=of).contains(&number) {
            true => Ok(Self { number, of }),
            false => Err(invalid()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// A blob that is damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBlob {
    pub digest: Digest,
    pub reason: String,
    /// Where it lies now, below the store. None: there was nothing to put there, or it lies where it was.
    pub quarantine: Option<String>,
    /// Whether it lies where it was, since it cannot be read, or not be moved.
    #[serde(default)]
    pub in_place: bool,
    /// The images that are made of it.
    pub images: Vec<DamagedImage>,
}

impl DamagedBlob {
    fn of(digest: Digest, reason: String) -> Self {
        Self { digest, reason, quarantine: None, in_place: false, images: Vec::new() }
    }
}

/// An image that cannot be pulled whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedImage {
    /// `<namespace>/<app>.<repository>:<tag>`
    pub image: String,
    pub digest: Digest,
    /// Whether the tag names another one by now.
    pub replaced: bool,
    /// The build that made it, where the manifest can still tell.
    pub build: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Which part of the blobs was read.
    pub part: String,
    pub blobs: u64,
    pub bytes: u64,
    pub images: u64,
    pub links: u64,
    /// Links and tags that held something else, and hold what they must again.
    pub mended: u64,
    /// Tags that were put into quarantine, since it cannot be told what they named.
    pub lost_tags: Vec<String>,
    pub damaged: Vec<DamagedBlob>,
    /// Links and folders that cannot be read, and what is in them was not looked at.
    #[serde(default)]
    pub unread: Vec<Unread>,
    pub elapsed_ms: u64,
}

impl Scrubbed {
    /// Whether something is amiss that does not mend by itself. What only images have that a rebuild has replaced is
    /// not: nothing puts that again.
    pub fn is_damaged(&self) -> bool {
        let counts =
            |blob: &DamagedBlob| blob.images.is_empty() || blob.images.iter().any(|image| !image.replaced);
        self.damaged.iter().any(counts) || !self.lost_tags.is_empty() || !self.unread.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    round: String,
    scrubbed: Scrubbed,
}

impl Store {
    /// Reads a part of all blobs, and all images. Ends soon after `cancel` is cancelled. `is_turn`: the next part is the
    /// one after this. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another one goes on; [`StoreError::Stopping`] when it was cancelled; an error of the
    /// disk when more than 20 blobs, links and folders cannot be read.
    pub fn scrub(
        &self,
        part: Part,
        is_turn: bool,
        cancel: &CancellationToken,
    ) -> Result<Scrubbed, Box<BrokenOff<Scrubbed>>> {
        let began = Instant::now();
        let backend = self.backend();
        let mut scrub = Scrub {
            backend,
            passed: PassedOver::new(backend),
            part,
            cancel,
            scrubbed: Scrubbed { part: part.to_string(), ..Scrubbed::default() },
            damaged: BTreeMap::new(),
            in_place: HashMap::new(),
            seen: HashMap::new(),
        };
        let done = scrub.go();
        let mut scrubbed = scrub.scrubbed;
        scrubbed.damaged = scrub.damaged.into_values().collect();
        scrubbed.unread = scrub.passed.told;
        scrubbed.elapsed_ms = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let record = Record { round: random_text::<10>(), scrubbed };
        let done = done.and_then(|_lease| match is_turn {
            true => {
                let json = serde_json::to_vec(&record).expect("all fields have a JSON form");
                backend.put(&[(&layout::scrub_report(), &json)])
            }
            false => Ok(()),
        });
        match done {
            Ok(()) => Ok(record.scrubbed),
            Err(error) => Err(Box::new(BrokenOff { so_far: record.scrubbed, error })),
        }
    }

    /// How long ago the last turn ended, or how far ahead, where a clock was wrong, and which part it was of. None:
    /// there was none.
    pub async fn scrubbed_before(&self) -> Result<Option<(Duration, Part)>, StoreError> {
        self.blocking(|backend| {
            let key = layout::scrub_report();
            let Some(at) = backend.modified(&key)? else { return Ok(None) };
            let record = backend.read(&key)?.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let part = record.and_then(|record| record.scrubbed.part.parse().ok());
            let age = at.elapsed().unwrap_or_else(|ahead| ahead.duration());
            Ok(Some((age, part.unwrap_or(Part::ALL))))
        })
        .await
    }
}

struct Scrub<'a> {
    backend: &'a Backend,
    passed: PassedOver<'a>,
    part: Part,
    cancel: &'a CancellationToken,
    scrubbed: Scrubbed,
    damaged: BTreeMap<Digest, DamagedBlob>,
    /// Of these, why those are damaged that lie where they were: each may have the length that it must have.
    in_place: HashMap<Digest, String>,
    /// The lengths of blobs that images are made of, where they are there.
    seen: HashMap<Digest, Option<u64>>,
}

impl Scrub<'_> {
    /// Answers the lease.
    fn go(&mut self) -> Result<Lease, StoreError> {
        handle::must_be_there(self.backend)?;
        let lease = self.backend.lease(&layout::scrub_lease())?.ok_or(StoreError::Busy)?;
        let part = self.part;
        for shard in condemned::shards().filter(|shard| part.has(shard)) {
            self.blobs(&shard)?;
        }
        for repository in inventory::repositories(&mut self.passed)?.all {
            self.repository(&repository)?;
        }
        self.empty_quarantine(lease.now().unwrap_or(SystemTime::UNIX_EPOCH))?;
        Ok(lease)
    }

    fn go_on(&self) -> Result<(), StoreError> {
        match self.cancel.is_cancelled() {
            true => Err(StoreError::Stopping),
            false => Ok(()),
        }
    }

    fn blobs(&mut self, shard: &str) -> Result<(), StoreError> {
        for digest in inventory::links(&mut self.passed, &layout::blobs_in(shard))?.unwrap_or_default() {
            self.go_on()?;
            self.blob(digest)?;
        }
        Ok(())
    }

    fn blob(&mut self, digest: Digest) -> Result<(), StoreError> {
        let key = layout::blob(digest);
        let path = self.backend.place(&key);
        let content = match self.backend.open(&key) {
            Ok(Some(content)) => content,
            // Collected since it was listed, or being put.
            Ok(None) => return Ok(()),
            Err(error) => return self.cannot_read(digest, error).map(drop),
        };
        self.scrubbed.blobs += 1;
        let first = self.read(&content);
        if let Ok((found, length)) = first {
            self.scrubbed.bytes += length;
            if found == digest {
                return Ok(());
            }
        }
        if first.is_err() {
            std::thread::sleep(PAUSE);
        }
        self.go_on()?;
        // Once more, past what the system has in memory: what is read wrongly once need not be wrong on the disk.
        let reason = match self.read(&content) {
            Ok((found, _)) if found == digest => return Ok(()),
            // An object that was put anew meanwhile, or collected.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok((found, length)) => format!("its {length} bytes have the digest {found}"),
            Err(error) => {
                return self.cannot_read(digest, StoreError::io("read", &path, error)).map(drop);
            }
        };
        self.go_on()?;
        let aside = layout::quarantined(digest);
        let (quarantine, reason) = match self.backend.set_aside(&key, &content, &aside) {
            Ok(false) => return Ok(()),
            Ok(true) => (Some(aside.as_str().to_owned()), reason),
            Err(error) => {
                let reason = format!("{reason}; {}", stays(error)?);
                self.in_place.insert(digest, reason.clone());
                (None, reason)
            }
        };
        let in_place = quarantine.is_none();
        self.damaged.insert(digest, DamagedBlob { digest, reason, quarantine, in_place, images: Vec::new() });
        Ok(())
    }

    /// A blob that may be read again tomorrow, or copied off: it stays where it is.
    fn cannot_read(&mut self, digest: Digest, error: StoreError) -> Result<String, StoreError> {
        let reason = self.passed.count(error)?.reason;
        self.in_place.insert(digest, reason.clone());
        let of_none = || DamagedBlob { in_place: true, ..DamagedBlob::of(digest, reason.clone()) };
        self.damaged.entry(digest).or_insert_with(of_none);
        Ok(reason)
    }

    /// The digest and length of a blob, of which nothing stays in the system's memory: what is pulled shall stay there.
    fn read(&self, content: &Content<'_>) -> io::Result<(Digest, u64)> {
        use io::Read as _;
        let mut passing = Digesting::new(content.reader()?);
        let mut chunk = vec![0; CHUNK];
        while passing.read(&mut chunk)? > 0 && !self.cancel.is_cancelled() {}
        let (digest, length, _) = passing.finish();
        content.forget();
        Ok((digest, length))
    }

    fn repository(&mut self, repository: &Repository) -> Result<(), StoreError> {
        self.go_on()?;
        for links in [layout::layer_links(&repository.key), layout::revision_links(&repository.key)] {
            for digest in inventory::links(&mut self.passed, &links)?.unwrap_or_default() {
                if self.part.has(&condemned::shard_of(digest)) {
                    self.go_on()?;
                    self.link(&links.below(&digest.hex()).below("link"), digest)?;
                }
            }
        }
        let mut versions = inventory::versions(&mut self.passed, repository)?;
        if !versions.damaged.is_empty() {
            for tag in &versions.damaged {
                self.tag(repository, tag, &versions.all)?;
            }
            let mut again = PassedOver::new(self.backend);
            versions = inventory::versions(&mut again, repository)?;
        }
        for version in versions.all {
            self.go_on()?;
            self.image(repository, &version)?;
        }
        Ok(())
    }

    /// Mends a link that holds something else.
    fn link(&mut self, key: &Key, digest: Digest) -> Result<(), StoreError> {
        let Some(Some(link)) = self.passed.or_told(self.backend.read(key))? else { return Ok(()) };
        self.scrubbed.links += 1;
        if inventory::digest_in(&link) != Some(digest) {
            let link = digest.to_string();
            self.backend.put(&[(key, link.as_bytes())])?;
            self.scrubbed.mended += 1;
        }
        Ok(())
    }

    /// A tag that does not hold a digest: it named the only image that it has ever named; else it cannot be told.
    fn tag(&mut self, repository: &Repository, tag: &str, versions: &[Version]) -> Result<(), StoreError> {
        let key = layout::tag_directories(&repository.key).below(tag).below("current").below("link");
        let Some(Some(found)) = self.passed.or_told(self.backend.read(&key))? else { return Ok(()) };
        let mut named = versions.iter().filter(|version| version.tag == tag);
        if let (Some(version), None) = (named.next(), named.next()) {
            let link = version.manifest.to_string();
            let lock = layout::tags_lock();
            if self.backend.compare_and_set(&lock, &[], &key, &found, link.as_bytes())? == Swap::Done {
                self.scrubbed.mended += 1;
            }
            return Ok(());
        }
        let Some(content) = self.backend.open(&key)? else { return Ok(()) };
        match self.backend.set_aside(&key, &content, &layout::quarantined_tag(&random_text::<10>())) {
            Ok(true) => self.scrubbed.lost_tags.push(format!("{}:{tag}", repository.path)),
            Ok(false) => {}
            Err(error) => {
                let (path, reason) = (self.backend.place(&key).display().to_string(), stays(error)?);
                self.passed.told.push(Unread { path, reason: format!("it holds no digest; {reason}") });
            }
        }
        Ok(())
    }

    /// Whether an image has all its parts, in the lengths that it states.
    fn image(&mut self, repository: &Repository, version: &Version) -> Result<(), StoreError> {
        self.scrubbed.images += 1;
        let (mut build, mut bad) = (None, Vec::new());
        for (manifest, found) in inventory::manifests(self.backend, version.manifest) {
            match found {
                Found::Readable(Contents { parts, build: by, .. }) => {
                    build = build.or(by);
                    for (part, size) in parts {
                        match self.length(part)? {
                            Ok(Some(length)) if length == size => {}
                            Ok(Some(length)) => {
                                bad.push((part, format!("it is {length} bytes long instead of {size}")));
                            }
                            Ok(None) => bad.push((part, "it is not there".to_owned())),
                            Err(reason) => bad.push((part, reason)),
                        }
                    }
                }
                Found::Absent => bad.push((manifest, "it is not there".to_owned())),
                Found::Unreadable(reason) => bad.push((manifest, reason)),
                Found::Unread(error) => bad.push((manifest, self.cannot_read(manifest, error)?)),
            }
        }
        for (digest, reason) in bad {
            let of_none = || DamagedBlob::of(digest, reason);
            let damaged = self.damaged.entry(digest).or_insert_with(of_none);
            if damaged.images.len() < MOST_NAMED {
                damaged.images.push(DamagedImage {
                    image: format!("{}:{}", repository.path, version.tag),
                    digest: version.manifest,
                    replaced: !version.is_current,
                    build: build.clone(),
                });
            }
        }
        Ok(())
    }

    /// The length of a blob, where it is there; or why it is of no use, as far as that is known.
    fn length(&mut self, digest: Digest) -> Result<Result<Option<u64>, String>, StoreError> {
        if let Some(reason) = self.in_place.get(&digest) {
            return Ok(Err(reason.clone()));
        }
        if let Some(&length) = self.seen.get(&digest) {
            return Ok(Ok(length));
        }
        match self.backend.size(&layout::blob(digest)) {
            Ok(length) => {
                self.seen.insert(digest, length);
                Ok(Ok(length))
            }
            Err(error) => self.cannot_read(digest, error).map(Err),
        }
    }

    fn empty_quarantine(&mut self, now: SystemTime) -> Result<(), StoreError> {
        let names = self.passed.or_told(self.backend.list(&layout::quarantine()))?;
        for name in names.unwrap_or_default() {
            let key = layout::quarantine().below(&name);
            let Some(at) = self.passed.or_told(self.backend.modified(&key))? else { continue };
            let age = now.duration_since(at.unwrap_or(now));
            let is_there = self.passed.or_told(self.backend.size(&key))?.flatten().is_some();
            if is_there && age.is_ok_and(|age| age > KEEP) {
                self.passed.or_told(self.backend.discard(&key))?;
            }
        }
        Ok(())
    }
}

/// Why what is damaged was not moved: it is told all the same.
fn stays(error: StoreError) -> Result<String, StoreError> {
    match error {
        StoreError::Stopping => Err(error),
        error => Ok(format!("it cannot be put into quarantine: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_together_are_all_blobs() {
        for of in [1, 2, 3, 30, 255, 256] {
            for shard in condemned::shards() {
                let parts = (1..=of).map(|number| Part { number, of });
                assert_eq!(parts.filter(|part| part.has(&shard)).count(), 1, "{shard} of {of}");
            }
        }
        for bad in ["", "1", "0/3", "4/3", "1/257", "1/0", "a/b", "-1/3", "1/3/5"] {
            assert!(bad.parse::<Part>().is_err(), "{bad}");
        }
        let part: Part = "2/3".parse().unwrap();
        assert_eq!(
            (part.next(3).to_string(), part.next(3).next(3).to_string()),
            ("3/3".into(), "1/3".into())
        );
        assert_eq!(part.next(30).to_string(), "21/30", "it goes on where it was");
        assert_eq!(
            ["7/30", "30/30", "1/1"].map(|part| part.parse::<Part>().unwrap().next(256).to_string()),
            ["60/256", "1/256", "1/256"]
        );
    }
}
