//! A layer's tar, put together again from the layer's directory and what tar-split noted of the archive
//! (github.com/vbatts/tar-split, tar/storage/entry.go): lines of JSON, each either bytes to copy, headers and padding,
//! or a file whose content stands there.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use flate2::read::MultiGzDecoder;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::Deserialize;

/// The longest line taken, in bytes. One is as long as a header with all its extensions, in base64.
const MAX_LINE: u64 = 16 << 20;
const BUFFER: usize = 64 << 10;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    /// In base64; instead of the name, where that is not UTF-8.
    #[serde(borrow, default)]
    name_raw: Option<Cow<'a, str>>,
    #[serde(default)]
    size: Option<i64>,
    /// In base64: the bytes of a segment, or a file's CRC-64, which the layer's digest makes needless.
    #[serde(borrow, default)]
    payload: Option<Cow<'a, str>>,
}

/// The kinds of lines.
const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// Reads the tar. What it gives is to be compared with the layer's diff id.
pub(super) struct TarSplit<R> {
    lines: BufReader<MultiGzDecoder<R>>,
    line: Vec<u8>,
    /// The layer's directory.
    files: File,
    path: PathBuf,
    current: Current,
}

enum Current {
    Segment { bytes: Vec<u8>, read: usize },
    File { file: File, path: PathBuf, rest: u64 },
    End,
}

fn malformed(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the engine's record of a layer is not as expected: {what}"),
    )
}

impl<R: Read> TarSplit<R> {
    /// Over the record `split`, compressed, of the layer with the directory `files` at `path`.
    pub(super) fn new(split: R, files: File, path: PathBuf) -> Self {
        Self {
            lines: BufReader::with_capacity(BUFFER, MultiGzDecoder::new(split)),
            line: Vec::new(),
            files,
            path,
            current: Current::Segment { bytes: Vec::new(), read: 0 },
        }
    }

    fn next(&mut self) -> io::Result<Current> {
        self.line.clear();
        (&mut self.lines).take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        match self.line.last() {
            None => return Ok(Current::End),
            Some(b'\n') => {}
            Some(_) => return Err(malformed("a line is cut off")),
        }
        let line: Line = serde_json::from_slice(&self.line).map_err(malformed)?;
        let size = u64::try_from(line.size.unwrap_or_default()).map_err(malformed)?;
        match line.kind {
            SEGMENT => {
                let bytes = BASE64
                    .decode(line.payload.as_deref().unwrap_or_default().as_bytes())
                    .map_err(malformed)?;
                Ok(Current::Segment { bytes, read: 0 })
            }
            // A directory, a link, a device, or an empty file.
            FILE if size == 0 => Ok(Current::Segment { bytes: Vec::new(), read: 0 }),
            FILE => {
                let name = match (&line.name_raw, &line.name) {
                    (Some(raw), _) => BASE64.decode(raw.as_bytes()).map_err(malformed)?,
                    (None, Some(name)) => name.as_bytes().to_vec(),
                    (None, None) => return Err(malformed("a file has no name")),
                };
                let (file, path) = self.open(Path::new(OsStr::from_bytes(&name)), size)?;
                Ok(Current::File { file, path, rest: size })
            }
            kind => Err(malformed(format_args!("a line of type {kind}"))),
        }
    }

    /// Opens a file of the layer. Names and links lead nowhere but into the layer, however the image was made: as where
    /// the engine unpacked it, its directory is the root.
    fn open(&self, name: &Path, size: u64) -> io::Result<(File, PathBuf)> {
        let path = self.path.join(name.strip_prefix("/").unwrap_or(name));
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // Looked at before it is opened: to open a pipe waits, and to open a device does something to it.
        let place: File = openat2(&self.files, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(|error| named(error.into()))?
            .into();
        let found = place.metadata().map_err(named)?;
        if !found.is_file() || found.len() != size {
            let words =
                format!("{} is not the file of {size} bytes that the layer has there", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        // The very thing that was looked at (proc_pid_fd(5)).
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).map_err(named)?;
        Ok((file, path))
    }
}

impl<R: Read> Read for TarSplit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.current {
                Current::Segment { bytes, read } if *read < bytes.len() => {
                    let count = buffer.len().min(bytes.len() - *read);
                    buffer[..count].copy_from_slice(&bytes[*read..*read + count]);
                    *read += count;
                    return Ok(count);
                }
                Current::File { file, path, rest } if *rest > 0 => {
                    let most = usize::try_from(*rest).unwrap_or(usize::MAX).min(buffer.len());
                    let count = file.read(&mut buffer[..most]);
                    let count = count.map_err(|error| {
                        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                    })?;
                    if count == 0 {
                        let words = format!("{} has become shorter while it was read", path.display());
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, words));
                    }
                    *rest -= count as u64;
                    return Ok(count);
                }
                Current::End => return Ok(0),
                Current::Segment { .. } | Current::File { .. } => self.current = self.next()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn record(lines: &[String]) -> Vec<u8> {
        let mut record = GzEncoder::new(Vec::new(), Compression::fast());
        for line in lines {
            writeln!(record, "{line}").unwrap();
        }
        record.finish().unwrap()
    }

    fn segment(bytes: &[u8]) -> String {
        format!(r#"{{"type":2,"payload":"{}","position":0}}"#, BASE64.encode(bytes))
    }

    fn file(name: &str, size: usize) -> String {
        format!(r#"{{"type":1,"name":{name:?},"size":{size},"payload":"0OJz8vFXTA0=","position":1}}"#)
    }

    fn read(folder: &Path, record: &[u8]) -> io::Result<Vec<u8>> {
        let mut tar = Vec::new();
        TarSplit::new(record, File::open(folder).unwrap(), folder.to_owned()).read_to_end(&mut tar)?;
        Ok(tar)
    }

    #[test]
    fn bytes_and_files_are_put_together_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/motd"), "hello").unwrap();
        std::fs::write(folder.path().join(OsStr::from_bytes(b"\xff")), "raw").unwrap();
        let raw = r#"{"type":1,"name_raw":"/w==","size":3,"payload":null,"position":1}"#;
        let lines = [
            segment(b"<"),
            r#"{"type":1,"name":"etc/","payload":null,"position":1}"#.to_owned(),
            file("./etc/motd", 5),
            segment(b""),
            raw.to_owned(),
            file("/etc/motd", 5),
            segment(b">"),
        ];
        assert_eq!(read(folder.path(), &record(&lines)).unwrap(), b"<hellorawhello>");
        assert_eq!(read(folder.path(), &record(&[])).unwrap(), b"");
    }

    #[test]
    fn no_name_leads_out_of_the_layer() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "outer").unwrap();
        let folder = outside.path().join("layer");
        std::fs::create_dir(&folder).unwrap();
        let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        link(outside.path(), "absolute");
        link(Path::new(".."), "relative");
        link(Path::new("/proc/self/root"), "magic");
        let path = format!("magic{}/secret", outside.path().display());
        for name in ["../secret", "absolute/secret", "relative/secret", &path] {
            let error = read(&folder, &record(&[file(name, 5)])).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}: {error}");
        }
        // In the layer the link leads to the layer's own file.
        std::fs::write(folder.join("secret"), "inner").unwrap();
        assert_eq!(read(&folder, &record(&[file("relative/secret", 5)])).unwrap(), b"inner");
    }

    #[test]
    fn what_is_not_as_expected_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("short"), "1234").unwrap();
        let cut = |record: Vec<u8>| record[..record.len() - 9].to_vec();
        for (record, words) in [
            (record(&[file("short", 5)]), "is not the file of 5 bytes"),
            (record(&[file(".", 5)]), "is not the file of 5 bytes"),
            (record(&[file("absent", 5)]), "absent: No such file"),
            (record(&[r#"{"type":1,"size":5}"#.to_owned()]), "a file has no name"),
            (record(&[r#"{"type":3}"#.to_owned()]), "a line of type 3"),
            (record(&[r#"{"type":1,"name":"short","size":-1}"#.to_owned()]), "not as expected"),
            (record(&[r#"{"type":2,"payload":"#.to_owned()]), "not as expected"),
            (record(&[r#"{"type":2,"payload":"*"}"#.to_owned()]), "not as expected"),
            (cut(record(&[segment(&[0; 1000])])), ""),
            (b"no gzip".to_vec(), ""),
        ] {
            let error = read(folder.path(), &record).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    proptest! {
        /// Whatever the record, reading it ends, without a panic and within the layer.
        #[test]
        fn any_record_is_read_or_refused(lines in proptest::collection::vec("[ -~\u{0}\u{e9}]{0,40}|\\{\"type\":[12],\"name\":\"[./a]{0,6}\",\"size\":[0-9]{1,20},\"payload\":\"[A-Za-z=]{0,8}\"\\}", 0..6)) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("a"), "content").unwrap();
            if let Ok(tar) = read(folder.path(), &record(&lines)) {
                prop_assert!(tar.len() < 1000);
            }
        }
    }
}
