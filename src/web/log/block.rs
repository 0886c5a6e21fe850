//! Blocks: a run of lines, compressed, with a summary that says what they can hold, so that a reader
//! skips what cannot match.

use std::collections::BTreeSet;
use std::io;

use super::batch::Batch;
use super::outline::Outline;

/// The size a block grows to, in bytes without compression: small enough that any range is read quickly,
/// large enough to compress well.
const BLOCK: usize = 256 << 10;
/// zstd's fastest level: a log is written once, and mostly never read.
const LEVEL: i32 = 1;
/// Values that a summary lists, and their bytes altogether; with more, it says nothing.
const MAX_VALUES: usize = 64;
const MAX_VALUE_BYTES: usize = 8 << 10;

/// All values of a field within a block; `None` where there are too many to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::web) struct Values(Option<BTreeSet<Option<String>>>);

impl Values {
    pub(super) fn of(values: impl Iterator<Item = Option<String>>) -> Self {
        Self::bounded(values.collect())
    }

    fn bounded(values: BTreeSet<Option<String>>) -> Self {
        let bytes: usize = values.iter().flatten().map(String::len).sum();
        Self((values.len() <= MAX_VALUES && bytes <= MAX_VALUE_BYTES).then_some(values))
    }

    fn join(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(mut ours), Some(theirs)) => {
                ours.extend(theirs);
                Self::bounded(ours)
            }
            _ => Self(None),
        }
    }

    /// Whether a line of the block can have the value, or, with `or_none`, none.
    pub(super) fn may_hold(&self, value: &str, or_none: bool) -> bool {
        self.0.as_ref().is_none_or(|values| {
            values.contains(&Some(value.to_owned())) || (or_none && values.contains(&None))
        })
    }

    /// As the database keeps it.
    pub(in crate::web) fn to_json(&self) -> Option<String> {
        self.0.as_ref().and_then(|values| serde_json::to_string(values).ok())
    }

    /// What cannot be read says nothing.
    pub(in crate::web) fn from_json(json: Option<&str>) -> Self {
        Self(json.and_then(|json| serde_json::from_str(json).ok()))
    }
}

/// What the lines of a block can hold. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::web) struct Summary {
    pub first_at: i64,
    pub last_at: i64,
    pub steps: Values,
    pub servers: Values,
    pub services: Values,
    pub pods: Values,
}

impl Summary {
    fn join(self, other: Self) -> Self {
        Self {
            first_at: self.first_at.min(other.first_at),
            last_at: self.last_at.max(other.last_at),
            steps: self.steps.join(other.steps),
            servers: self.servers.join(other.servers),
            services: self.services.join(other.services),
            pods: self.pods.join(other.pods),
        }
    }
}

/// A block without its data.
#[derive(Debug, Clone)]
pub(in crate::web) struct Head {
    pub first_seq: u64,
    pub entries: u64,
    /// Without compression.
    pub bytes: u64,
    pub summary: Summary,
}

impl Head {
    pub(in crate::web) fn end_seq(&self) -> u64 {
        self.first_seq + self.entries
    }

    /// Whether lines may be added to it.
    pub(in crate::web) fn has_room(&self) -> bool {
        self.bytes < BLOCK as u64 / 2
    }
}

#[derive(Debug)]
pub(in crate::web) struct Block {
    pub head: Head,
    /// Compressed with zstd.
    pub data: Vec<u8>,
}

/// A block with what stands beside it in the database.
#[derive(Debug)]
pub(in crate::web) struct Packed {
    pub block: Block,
    /// None of a block that an older version has stored.
    pub outline: Option<Outline>,
}

/// Packs the lines of `batch` from `from` (a seq) on. `tail` is the log's last block, which grows as long
/// as it has room; the first block of the answer then takes its place. Blocking: it compresses.
pub(in crate::web) fn pack(batch: &Batch, from: u64, tail: Option<Packed>) -> io::Result<Vec<Packed>> {
    let mut packed = Vec::new();
    // Never beyond the end: the caller drops what overlaps, and no more.
    let mut line = usize::try_from(from - batch.first_seq).map_err(io::Error::other)?;
    let mut open = tail.map(Growing::again).transpose()?;
    while line < batch.len() || open.is_some() {
        let room = BLOCK - open.as_ref().map_or(0, |open| open.raw.len()).min(BLOCK);
        // A line that is longer than a block has one for itself.
        let least = usize::from(open.is_none());
        let end = line + batch.fitting(line, room).max(least);
        let mut growing = match open.take() {
            Some(open) if line == end => {
                packed.push(open.seal()?);
                continue;
            }
            Some(mut open) => {
                open.head.summary = open.head.summary.join(batch.summary(line..end));
                open
            }
            None => {
                let first_seq = batch.first_seq + line as u64;
                let head = Head { first_seq, entries: 0, bytes: 0, summary: batch.summary(line..end) };
                Growing { head, outline: Outline::default(), raw: Vec::new() }
            }
        };
        batch.outline(line..end, &mut growing.outline);
        growing.raw.extend_from_slice(batch.bytes(line..end));
        growing.head.entries += (end - line) as u64;
        packed.push(growing.seal()?);
        line = end;
    }
    Ok(packed)
}

/// A block that lines are added to.
struct Growing {
    head: Head,
    outline: Outline,
    raw: Vec<u8>,
}

impl Growing {
    fn again(Packed { block, outline }: Packed) -> io::Result<Self> {
        let raw = unpack(&block.head, &block.data)?;
        Ok(Self { outline: outline.unwrap_or_else(|| Outline::of(&raw)), head: block.head, raw })
    }

    fn seal(self) -> io::Result<Packed> {
        let data = zstd::bulk::compress(&self.raw, LEVEL)?;
        let head = Head { bytes: self.raw.len() as u64, ..self.head };
        Ok(Packed { block: Block { head, data }, outline: Some(self.outline) })
    }
}

/// The lines of a block, each with its line feed. Blocking.
pub(in crate::web) fn unpack(head: &Head, data: &[u8]) -> io::Result<Vec<u8>> {
    let capacity = usize::try_from(head.bytes).map_err(io::Error::other)?;
    let raw = zstd::bulk::decompress(data, capacity)?;
    match raw.len() == capacity {
        true => Ok(raw),
        false => Err(io::Error::other("a block of the log has not the length that it should")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Encoding;
    use super::super::batch::tests::line;
    use super::*;

    fn batch(first: u64, count: u64) -> Batch {
        let lines: String = (first..first + count)
            .map(|seq| line(seq, Some(&format!("s{}", seq % 3)), "text") + "\n")
            .collect();
        Batch::read(lines.as_bytes(), Encoding::Identity).unwrap()
    }

    #[test]
    fn small_appends_grow_a_block_and_large_ones_are_cut() {
        let mut blocks: Vec<Packed> = Vec::new();
        let mut next = 0;
        for count in [1, 1, 2000, 3, 5000] {
            let tail = blocks.pop_if(|packed| packed.block.head.has_room());
            blocks.extend(pack(&batch(next, count), next, tail).unwrap());
            next += count;
        }
        assert!(blocks.len() > 2);
        let (mut seq, mut whole) = (0, Vec::new());
        for Packed { block, .. } in &blocks {
            assert_eq!(block.head.first_seq, seq);
            assert!(block.head.bytes <= BLOCK as u64);
            whole.extend(unpack(&block.head, &block.data).unwrap());
            seq = block.head.end_seq();
        }
        assert_eq!(seq, next);
        let expected: String =
            (0..next).map(|seq| line(seq, Some(&format!("s{}", seq % 3)), "text") + "\n").collect();
        assert!(whole == expected.as_bytes(), "the lines are not those that were appended");
        let services = &blocks[0].block.head.summary.services;
        assert!(services.may_hold("s1", false) && !services.may_hold("s3", true));
    }

    #[test]
    fn overlap_is_dropped_and_many_values_say_nothing() {
        let blocks = pack(&batch(10, 5), 13, None).unwrap();
        let head = &blocks[0].block.head;
        assert_eq!((head.first_seq, head.entries), (13, 2));
        let many = Values::of((0..100).map(|n| Some(n.to_string())));
        assert!(many.may_hold("anything", false) && many.to_json().is_none());
        let few = Values::of([None, Some("a".to_owned())].into_iter());
        assert_eq!(Values::from_json(few.to_json().as_deref()), few);
        assert!(few.may_hold("b", true) && !few.may_hold("b", false));
    }
}
