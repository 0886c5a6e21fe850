//! One pass over a layer: hash the tar, compress it, hash what comes out, write it into the store.

use std::io::{self, Read, Write};

use flate2::{Compression, GzBuilder};
use tokio_util::sync::CancellationToken;

use crate::store::digest::{Digest, Digesting};

/// What is read from a layer at a time. Larger gains nothing; it is all the memory a layer costs.
const CHUNK: usize = 256 * 1024;

/// A layer that has passed through.
pub struct Compressed<W> {
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    pub writer: W,
}

/// Compresses the tar from `layer` into `writer`, as gzip.
///
/// The gzip header carries no name and no time, so that the same layer gives the same bytes
/// everywhere, and is stored once. gzip and not zstd, because Docker before version 23 cannot pull
/// zstd layers. Ends with [`io::ErrorKind::Interrupted`] soon after `cancel` is cancelled.
pub fn compress<W: Write>(
    layer: impl Read,
    writer: W,
    level: u32,
    cancel: &CancellationToken,
) -> io::Result<Compressed<W>> {
    let mut layer = Digesting::new(layer);
    let mut encoder = GzBuilder::new().write(writer, Compression::new(level));
    let mut chunk = vec![0; CHUNK];
    loop {
        if cancel.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
        }
        match layer.read(&mut chunk)? {
            0 => break,
            count => encoder.write_all(&chunk[..count])?,
        }
    }
    let writer = encoder.finish()?;
    let (diff_id, _, _) = layer.finish();
    Ok(Compressed { diff_id, writer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::MultiGzDecoder;

    #[test]
    fn gives_the_same_bytes_each_time_and_the_tar_back() {
        let tar: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let run = || compress(&tar[..], Vec::new(), 6, &CancellationToken::new()).unwrap();
        let (first, second) = (run(), run());
        assert_eq!(first.writer, second.writer);
        assert_eq!(first.diff_id, Digest::of(&tar));
        let mut back = Vec::new();
        MultiGzDecoder::new(&first.writer[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, tar);
    }

    #[test]
    fn stops_when_cancelled() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let error = compress(io::repeat(0), io::sink(), 6, &cancel).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
