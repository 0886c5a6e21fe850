//! Walking over a stored log: from an entry on, past all blocks that cannot match, until enough lines are
//! found.

use std::io::{self, Write as _};
use std::ops::{ControlFlow, Range};
use std::pin::pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::block::{Head, unpack};
use super::filter::Matcher;
use super::line::Line;
use super::outline::{Outline, Part};
use crate::store::digest::Digesting;
use crate::timeline::protocol::LogSum;
use crate::web::db::Database;
use crate::web::db::logs::{LogId, Outlined};

/// Block heads fetched at once.
const HEADS: u32 = 256;
/// Blocks fetched and unpacked at a time, each on a thread of its own: enough to keep two cores busy while
/// one waits for the database, and fewer than the database has readers, so that others are served meanwhile.
const AT_ONCE: usize = 3;
/// The lines of one step of a stream, in bytes: what a slow reader keeps in memory.
const STEP: usize = 512 << 10;

#[derive(Debug, thiserror::Error)]
pub(in crate::web) enum ReadError {
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("a block of the log cannot be unpacked: {0}")]
    Block(io::Error),
}

/// Lines that were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::web) struct Found {
    /// The lines, each with its line feed.
    pub lines: Vec<u8>,
    pub count: usize,
    /// Where to go on: all before it has been looked at.
    pub next: u64,
    /// Whether there was more to look at.
    pub more: bool,
}

/// The first lines with a seq of `within` that match: at most `most`, and about [`STEP`] bytes.
pub(in crate::web) async fn find(
    database: &Database,
    log: &LogId,
    within: Range<u64>,
    most: usize,
    matcher: &Arc<Matcher>,
) -> Result<Found, ReadError> {
    let mut found = Found { next: within.start, ..Found::default() };
    while found.next < within.end {
        let heads = database.log_heads(log, found.next, HEADS).await?;
        let Some(last) = heads.last().map(Head::end_seq) else { return Ok(found) };
        let wanted = heads.into_iter().filter(|head| head.first_seq < within.end);
        let wanted = wanted.filter(|head| matcher.may_match(&head.summary));
        // A block may have grown since its head was read: what was found in it is not found again.
        let rest = found.next..within.end;
        let search = |head: Head| search(database, log, head.first_seq, rest.clone(), matcher.clone());
        let mut searched = pin!(stream::iter(wanted).map(search).buffered(AT_ONCE));
        while let Some(matches) = searched.next().await {
            let Matches { raw, lines, end } = matches?;
            for (seq, line) in lines {
                if found.count == most || (found.count > 0 && found.lines.len() + line.len() > STEP) {
                    found.more = true;
                    return Ok(found);
                }
                found.lines.extend_from_slice(&raw[line]);
                found.count += 1;
                found.next = seq + 1;
            }
            found.next = found.next.max(end);
        }
        // What the summaries rule out has been looked at, too.
        found.next = found.next.max(last);
    }
    Ok(found)
}

/// All lines with a seq of `within` that match, as far as they are stored, in pieces of about [`STEP`] bytes.
pub(in crate::web) fn all(
    database: Database,
    log: LogId,
    within: Range<u64>,
    matcher: Arc<Matcher>,
) -> impl Stream<Item = Result<Found, ReadError>> + Send {
    stream::try_unfold(Some(within.start), move |from| {
        let (database, log, matcher) = (database.clone(), log.clone(), matcher.clone());
        async move {
            let Some(from) = from else { return Ok(None) };
            let found = find(&database, &log, from..within.end, usize::MAX, &matcher).await?;
            let next = found.more.then_some(found.next);
            Ok(Some((found, next)))
        }
    })
}

/// What is stored of a log: the count of its entries, and the SHA-256 of their lines.
pub(in crate::web) async fn sum(database: &Database, log: &LogId) -> Result<LogSum, ReadError> {
    let (mut digesting, mut count) = (Digesting::new(io::sink()), 0);
    let mut pieces = pin!(all(database.clone(), log.clone(), 0..u64::MAX, Arc::new(Matcher::everything())));
    while let Some(found) = pieces.try_next().await? {
        count += found.count as u64;
        // Half a megabyte: a fraction of a millisecond.
        digesting.write_all(&found.lines).map_err(ReadError::Block)?;
    }
    Ok(LogSum { count, checksum: digesting.finish().0 })
}

/// Lines that match, by their seqs.
#[derive(Debug, Default)]
pub(in crate::web) struct Hits {
    pub count: u64,
    /// The first of them.
    pub seqs: Vec<u64>,
    /// Where to go on: all before it has been looked at.
    pub next: u64,
}

/// All lines with a seq of `within` that match, of which the first `most` are told.
pub(in crate::web) async fn hits(
    database: &Database,
    log: &LogId,
    within: Range<u64>,
    most: usize,
    matcher: &Arc<Matcher>,
) -> Result<Hits, ReadError> {
    let mut hits = Hits { next: within.start, ..Hits::default() };
    while hits.next < within.end {
        let heads = database.log_heads(log, hits.next, HEADS).await?;
        let Some(last) = heads.last().map(Head::end_seq) else { break };
        let wanted = heads.into_iter().filter(|head| head.first_seq < within.end);
        let wanted = wanted.filter(|head| matcher.may_match(&head.summary));
        let rest = hits.next..within.end;
        let search = |head: Head| search(database, log, head.first_seq, rest.clone(), matcher.clone());
        let mut searched = pin!(stream::iter(wanted).map(search).buffered(AT_ONCE));
        while let Some(matches) = searched.next().await {
            let Matches { lines, end, .. } = matches?;
            hits.count += lines.len() as u64;
            let room = most - hits.seqs.len();
            hits.seqs.extend(lines.into_iter().take(room).map(|(seq, _)| seq));
            hits.next = hits.next.max(end);
        }
        hits.next = hits.next.max(last);
    }
    // A block may go on behind what was asked for.
    hits.next = hits.next.min(within.end);
    Ok(hits)
}

/// A block by its outline, with how many lines of each part match.
pub(in crate::web) struct Counted {
    pub first_seq: u64,
    pub entries: u64,
    pub parts: Vec<(Part, u64)>,
}

/// A block that was counted, and its outline where it was made of the lines.
type Made = (Counted, Option<Outline>);

/// Gives `take` the outlines of all blocks that have entries of `within`, in order, until it answers that it has
/// enough. Lines are read only where an outline cannot tell; what is made of them is kept. Of `matcher` words are
/// not asked for.
pub(in crate::web) async fn outlines(
    database: &Database,
    log: &LogId,
    within: Range<u64>,
    matcher: &Arc<Matcher>,
    mut take: impl FnMut(Counted) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let mut from = within.start;
    while from < within.end {
        let outlined = database.log_outlines(log, from, HEADS).await?;
        let Some(end) = outlined.last().map(|last| last.first_seq + last.entries) else { return Ok(()) };
        // The last block that begins at or before `from` may end before it.
        let rest = from..within.end;
        let is_wanted = move |block: &Outlined| {
            block.first_seq + block.entries > rest.start && block.first_seq < rest.end
        };
        let wanted = outlined.into_iter().filter(is_wanted);
        let count = |block| count(database, log, block, matcher.clone());
        let mut counted = pin!(stream::iter(wanted).map(count).buffered(AT_ONCE));
        let (mut made, mut enough) = (Vec::new(), false);
        while let Some(block) = counted.next().await {
            let Some((block, outline)) = block? else { continue };
            made.extend(outline.map(|outline| (block.first_seq, block.entries, outline)));
            if take(block).is_break() {
                enough = true;
                break;
            }
        }
        if !made.is_empty()
            && let Err(error) = database.keep_outlines(log, made).await
        {
            // They are made anew the next time.
            tracing::debug!(%log, %error, "the outlines of a log could not be kept");
        }
        if enough || end <= from {
            break;
        }
        from = end;
    }
    Ok(())
}

/// Counts by the outline of a block, or its lines themselves.
async fn count(
    database: &Database,
    log: &LogId,
    outlined: Outlined,
    matcher: Arc<Matcher>,
) -> Result<Option<Made>, ReadError> {
    let Outlined { first_seq, entries, .. } = outlined;
    if let Some(outline) = &outlined.outline {
        let matching = outline.parts.iter().map(|part| part.matching(matcher.filter()));
        if let Some(counts) = matching.collect::<Option<Vec<u64>>>() {
            let parts = outline.parts.iter().cloned().zip(counts).collect();
            return Ok(Some((Counted { first_seq, entries, parts }, None)));
        }
    }
    let Some(block) = database.log_block(log, first_seq).await? else { return Ok(None) };
    let work = move || {
        let raw = unpack(&block.head, &block.data)?;
        // The block may have grown since its outline was read.
        let known = outlined.outline.filter(|_| block.head.entries == entries);
        let (outline, fresh) = match known {
            Some(outline) => (outline, None),
            None => {
                let outline = Outline::of(&raw);
                (outline.clone(), Some(outline))
            }
        };
        let mut counts = vec![0; outline.parts.len()];
        for (number, line) in matcher.find(&raw) {
            let Ok(line) = serde_json::from_slice::<Line<'_>>(&raw[line]) else { continue };
            counts[outline.part_of(first_seq + number as u64, line.step.as_deref())] += 1;
        }
        let parts = outline.parts.into_iter().zip(counts).collect();
        Ok(Some((Counted { first_seq, entries: block.head.entries, parts }, fresh)))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other).and_then(|counted| counted).map_err(ReadError::Block)
}

/// The matching lines of one block.
struct Matches {
    raw: Vec<u8>,
    /// Each with its seq and its place in `raw`.
    lines: Vec<(u64, Range<usize>)>,
    /// The seq after the block.
    end: u64,
}

async fn search(
    database: &Database,
    log: &LogId,
    first_seq: u64,
    within: Range<u64>,
    matcher: Arc<Matcher>,
) -> Result<Matches, ReadError> {
    // A block that is gone was pruned meanwhile, with its log.
    let Some(block) = database.log_block(log, first_seq).await? else {
        return Ok(Matches { raw: Vec::new(), lines: Vec::new(), end: first_seq });
    };
    let work = move || {
        let raw = unpack(&block.head, &block.data)?;
        let lines = matcher.find(&raw).into_iter().map(|(number, line)| (first_seq + number as u64, line));
        let lines = lines.filter(|(seq, _)| within.contains(seq)).collect();
        Ok(Matches { raw, lines, end: block.head.end_seq() })
    };
    let searched = tokio::task::spawn_blocking(work).await;
    searched.map_err(io::Error::other).and_then(|matches| matches).map_err(ReadError::Block)
}
