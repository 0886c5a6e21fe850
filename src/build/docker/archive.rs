//! Reads what `docker save` writes, in both of its layouts:
//!
//! - up to Docker 24: `manifest.json`, `<image id>.json`, `<id>/layer.tar`, a repeated layer being a
//!   symbolic link to `../<id>/layer.tar`;
//! - since Docker 25: an OCI layout with the same `manifest.json`, whose paths are `blobs/sha256/…`.
//!   With the containerd image store its layers are compressed, and `index.json` may lead to an index
//!   with attestations; `manifest.json` names the image alone.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::Deserialize;

use crate::build::engine::{BuiltImage, Layers, diff_ids};
use crate::store::digest::Digest;

/// The largest `manifest.json` and image configuration taken, in bytes: they are read into memory.
const MAX_DOCUMENT: u64 = 8 << 20;
/// The most entries an archive may have. An image has at most a few hundred.
const MAX_ENTRIES: usize = 100_000;
/// The longest chain of links followed.
const MAX_LINKS: usize = 128;
const READ_BUFFER: usize = 128 * 1024;

/// Where in an archive its files are.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<String, Found>);

#[derive(Debug)]
enum Found {
    File(Span),
    Link(String),
}

/// A file's content in the archive, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u64,
    length: u64,
}

/// An element of `manifest.json` (moby, image/tarexport).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Option<Vec<String>>,
}

fn malformed(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not an image archive as docker save writes it: {what}"),
    )
}

impl Index {
    /// Reads an archive to its end, and notes what is where.
    pub(super) fn read(archive: impl Read) -> io::Result<Self> {
        let mut found = HashMap::new();
        for entry in tar::Archive::new(archive).entries()? {
            let entry = entry?;
            let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            let target =
                || entry.link_name_bytes().map(|target| String::from_utf8_lossy(&target).into_owned());
            let what = match entry.header().entry_type() {
                tar::EntryType::Regular => {
                    Found::File(Span { start: entry.raw_file_position(), length: entry.size() })
                }
                tar::EntryType::Link => Found::Link(normal(&target().unwrap_or_default())),
                tar::EntryType::Symlink => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Found::Link(normal(&format!("{folder}/{}", target().unwrap_or_default())))
                }
                _ => continue,
            };
            found.insert(name, what);
            if found.len() > MAX_ENTRIES {
                return Err(malformed(format_args!("more than {MAX_ENTRIES} entries")));
            }
        }
        Ok(Self(found))
    }

    fn find(&self, name: &str) -> io::Result<Span> {
        let mut current = &normal(name);
        for _ in 0..MAX_LINKS {
            match self.0.get(current) {
                Some(Found::File(span)) => return Ok(*span),
                Some(Found::Link(target)) => current = target,
                None => return Err(malformed(format_args!("{name} is missing"))),
            }
        }
        Err(malformed(format_args!("{name} is a link to itself")))
    }

    fn document(&self, file: &File, name: &str) -> io::Result<Vec<u8>> {
        let span = self.find(name)?;
        if span.length > MAX_DOCUMENT {
            return Err(malformed(format_args!(
                "{name} has {} bytes; at most {MAX_DOCUMENT} are taken",
                span.length
            )));
        }
        let mut bytes = Vec::new();
        Part { file: file.try_clone()?.into(), rest: span }.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != span.length {
            return Err(malformed(format_args!("{name} is cut off")));
        }
        Ok(bytes)
    }
}

/// Opens an image archive, as `docker save` writes it, for reading its layers from it.
///
/// # Errors
/// `InvalidData` when it is not such an archive, or is damaged; otherwise what reading it gave.
pub fn open_archive(mut file: File) -> io::Result<BuiltImage> {
    file.rewind()?;
    let index = Index::read(BufReader::with_capacity(READ_BUFFER, &file))?;
    image(file, &index)
}

/// The image in the archive `file`, whose layers are read from there.
pub(super) fn image(file: File, index: &Index) -> io::Result<BuiltImage> {
    let manifest = index.document(&file, "manifest.json")?;
    let mut images: Vec<Saved> = serde_json::from_slice(&manifest)
        .map_err(|error| malformed(format_args!("manifest.json: {error}")))?;
    let (Some(saved), true) = (images.pop(), images.is_empty()) else {
        return Err(malformed("manifest.json does not name exactly one image"));
    };
    let config = index.document(&file, &saved.config)?;
    check_name(&saved.config, &config)?;
    let diff_ids = diff_ids(&config).map_err(malformed)?;
    let layers = saved.layers.unwrap_or_default();
    if layers.len() != diff_ids.len() {
        return Err(malformed(format_args!("{} layers, but {} diff ids", layers.len(), diff_ids.len())));
    }
    let spans = layers.iter().map(|name| index.find(name)).collect::<io::Result<_>>()?;
    Ok(BuiltImage::new(config, diff_ids, Spooled { file: Some(file.into()), spans }))
}

/// A configuration is named by its digest (`<hex>.json` or `blobs/sha256/<hex>`): so what the spool
/// or the engine has damaged is noticed here. Layers are checked by whoever reads them.
fn check_name(name: &str, config: &[u8]) -> io::Result<()> {
    let base = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".json");
    match Digest::from_hex(base) {
        Ok(digest) if digest == Digest::of(config) => Ok(()),
        Ok(_) => Err(malformed(format_args!("{name} does not have the digest in its name"))),
        Err(_) => Err(malformed(format_args!("{name} is not named by its digest"))),
    }
}

/// A path without empty and `.` segments, in which `..` has been followed.
fn normal(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

/// The layers of an image in the spool file.
struct Spooled {
    /// `None` only while it is dropped.
    file: Option<Arc<File>>,
    spans: Vec<Span>,
}

impl Layers for Spooled {
    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send>> {
        let rest = self.spans[index];
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut magic = [0; 4];
        let count = Part { file: file.clone(), rest }.read(&mut magic)?;
        let part = BufReader::with_capacity(READ_BUFFER, Part { file: file.clone(), rest });
        Ok(match &magic[..count] {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(part)),
            [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(part)?),
            _ => Box::new(part),
        })
    }
}

impl Drop for Spooled {
    /// Closing the last handle frees the file's blocks, which takes a while for a large one: not on
    /// the async runtime.
    fn drop(&mut self) {
        let file = self.file.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

/// A part of a file, read without moving the file's own position.
struct Part {
    file: Arc<File>,
    rest: Span,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rest.length).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.rest.start)?;
        self.rest.start += count as u64;
        self.rest.length -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
