//! One pass over a layer: hash the tar, compress it on all cores, hash what comes out, write it into the store.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc;

use libdeflater::{CompressionLvl, Compressor};
use oci_spec::image::MediaType;
use tokio_util::sync::CancellationToken;

use super::config::{Compression, PublishConfig};
use crate::store::digest::{Digest, Digesting};

/// What is compressed as one, in bytes: large enough that little is lost by beginning anew. The same on every
/// machine, as then the bytes are.
const PIECE: usize = 512 << 10;
/// Pieces of one layer that are on their way at a time: with what becomes of them 16 MiB at most, on however many
/// cores.
const AHEAD: usize = 16;

/// A layer that has passed through.
pub struct Compressed<W> {
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    pub writer: W,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    compression: Compression,
    level: u32,
}

impl Format {
    pub fn of(config: &PublishConfig) -> Self {
        let level = match config.compression {
            Compression::Gzip => config.gzip_level,
            Compression::Zstd => config.zstd_level,
        };
        Self { compression: config.compression, level }
    }

    pub fn media_type(self) -> MediaType {
        match self.compression {
            Compression::Gzip => MediaType::ImageLayerGzip,
            Compression::Zstd => MediaType::ImageLayerZstd,
        }
    }

    /// Whether a layer of this media type can be pulled by all who can pull what this makes.
    pub fn is_at_least(self, media_type: &MediaType) -> bool {
        *media_type == MediaType::ImageLayerGzip || *media_type == self.media_type()
    }

    /// A whole gzip member, or zstd frame. A row of them is read as one (RFC 1952, 2.2; RFC 8878, 3).
    fn pack(self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self.compression {
            Compression::Gzip => {
                let level = i32::try_from(self.level).ok().and_then(|level| CompressionLvl::new(level).ok());
                let level = level.ok_or_else(|| io::Error::other("that is no level of gzip"))?;
                let mut packer = Compressor::new(level);
                let mut packed = vec![0; packer.gzip_compress_bound(piece.len())];
                // Its header carries no name and no time.
                let length = packer.gzip_compress(piece, &mut packed).map_err(io::Error::other)?;
                packed.truncate(length);
                packed.shrink_to_fit();
                Ok(packed)
            }
            Compression::Zstd => {
                zstd::bulk::compress(piece, i32::try_from(self.level).map_err(io::Error::other)?)
            }
        }
    }
}

/// Compresses the tar from `layer` into `writer`. The same layer gives the same bytes everywhere, on however many
/// cores, and is stored once. Ends with [`io::ErrorKind::Interrupted`] soon after `cancel` is cancelled.
pub fn compress<W: Write>(
    layer: impl Read,
    mut writer: W,
    format: Format,
    cancel: &CancellationToken,
) -> io::Result<Compressed<W>> {
    let mut layer = Digesting::new(layer);
    // In their order: the first is the next to be written.
    let mut pieces: VecDeque<mpsc::Receiver<io::Result<Vec<u8>>>> = VecDeque::with_capacity(AHEAD);
    let mut is_empty = true;
    loop {
        if cancel.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
        }
        let mut piece = Vec::with_capacity(PIECE);
        layer.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        // Of nothing, one piece all the same: no bytes would be no gzip.
        if piece.is_empty() && !is_empty {
            break;
        }
        is_empty = false;
        if pieces.len() == AHEAD {
            write_next(&mut pieces, &mut writer)?;
        }
        let (done, packed) = mpsc::sync_channel(1);
        pieces.push_back(packed);
        rayon::spawn(move || {
            // Nobody waits for it where the layer was given up.
            let _ = done.send(format.pack(&piece));
        });
    }
    while !pieces.is_empty() {
        write_next(&mut pieces, &mut writer)?;
    }
    let (diff_id, _, _) = layer.finish();
    Ok(Compressed { diff_id, writer })
}

fn write_next(
    pieces: &mut VecDeque<mpsc::Receiver<io::Result<Vec<u8>>>>,
    writer: &mut impl Write,
) -> io::Result<()> {
    let Some(next) = pieces.pop_front() else { return Ok(()) };
    writer.write_all(&next.recv().map_err(io::Error::other)??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::MultiGzDecoder;

    const GZIP: Format = Format { compression: Compression::Gzip, level: 6 };
    const ZSTD: Format = Format { compression: Compression::Zstd, level: 3 };

    fn run(tar: &[u8], format: Format) -> Compressed<Vec<u8>> {
        compress(tar, Vec::new(), format, &CancellationToken::new()).unwrap()
    }

    fn unpack(packed: &[u8], format: Format) -> Vec<u8> {
        let mut tar = Vec::new();
        match format.compression {
            Compression::Gzip => MultiGzDecoder::new(packed).read_to_end(&mut tar).unwrap(),
            Compression::Zstd => zstd::Decoder::new(packed).unwrap().read_to_end(&mut tar).unwrap(),
        };
        tar
    }

    #[test]
    fn gives_the_same_bytes_each_time_and_the_tar_back() {
        let tar: Vec<u8> = (0..5_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for format in [GZIP, ZSTD] {
            for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, tar.len()] {
                let tar = &tar[..length];
                let (first, second) = (run(tar, format), run(tar, format));
                assert_eq!(first.writer, second.writer);
                assert_eq!(first.diff_id, Digest::of(tar));
                assert!(unpack(&first.writer, format) == tar, "{format:?} {length}");
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_how_the_layer_is_read_or_on_the_cores() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let most = buffer.len().min(7_777);
                self.0.read(&mut buffer[..most])
            }
        }
        let tar: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let whole = run(&tar, GZIP).writer;
        let slow = compress(Slow(&tar), Vec::new(), GZIP, &CancellationToken::new()).unwrap().writer;
        assert_eq!(slow, whole);
        let alone: Vec<u8> = tar.chunks(PIECE).flat_map(|piece| GZIP.pack(piece).unwrap()).collect();
        assert_eq!(alone, whole);
    }

    #[test]
    fn stops_when_cancelled() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let error = compress(io::repeat(0), io::sink(), GZIP, &cancel).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn faults_of_reader_and_writer_end_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the layer is gone"))
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let cancel = CancellationToken::new();
        let error = compress(Broken, Vec::new(), GZIP, &cancel).err().unwrap();
        assert_eq!(error.to_string(), "the layer is gone");
        let error = compress(io::repeat(0).take(20 << 20), Broken, GZIP, &cancel).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
