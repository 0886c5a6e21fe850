//! What `docker save` gives.

use std::fs::File;
use std::io::{Read as _, Write as _};

use buildgrid::build::docker::open_archive;
use buildgrid::store::digest::Digest;

/// The length of a header, and of what contents are filled up to, in bytes.
const BLOCK: usize = 512;
/// A compressed layer may be without end.
const MOST: u64 = 1 << 20;

/// An archive is refused, or has a layer for each that its configuration names, which is the one that it names itself, and
/// each is read to its end or refused.
pub fn check(bytes: &[u8]) {
    // Else nothing would come past the first check but what was never changed.
    let archive = with_right_sums(bytes);
    let Ok(image) = open_archive(file(&archive)) else { return };
    let digest = Digest::of(&image.config);
    assert!(is_within(&archive, digest.hex().as_bytes()), "a configuration that the archive does not name");
    assert!(is_within(&archive, &image.config), "a configuration that is not in the archive");
    for index in 0..image.diff_ids.len() {
        if let Ok(layer) = image.open_layer(index) {
            let _ = layer.take(MOST).read_to_end(&mut Vec::new());
        }
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn is_within(all: &[u8], part: &[u8]) -> bool {
    part.is_empty() || all.windows(part.len()).any(|window| window == part)
}

/// The same archive, in which each header has the sum that it should.
fn with_right_sums(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..).and_then(|rest| rest.get_mut(..BLOCK)) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        let is_end = block.iter().all(|&byte| byte == 0);
        if !is_end {
            block.copy_from_slice(header.as_bytes());
        }
        let length = header.entry_size().ok().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        at = at.saturating_add(BLOCK).saturating_add(length.div_ceil(BLOCK).saturating_mul(BLOCK));
    }
    archive
}
