//! Logs: appending to one, sealing it, and fetching its blocks.

use std::fmt;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use super::open::Database;
use super::row::{count, number};
use super::time_of;
use super::writer::WriteError;
use crate::store::digest::Digest;
use crate::timeline::protocol::AttemptId;
use crate::web::log::batch::Batch;
use crate::web::log::block::{Block, Head, Packed, Summary, Values, pack};
use crate::web::log::outline::Outline;

/// The name of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogId(String);

impl LogId {
    pub fn of_attempt(attempt: AttemptId) -> Self {
        Self(format!("a:{attempt}"))
    }

    pub fn of_deploy(namespace: &str, deploy: &str) -> Self {
        Self(format!("d:{namespace}:{deploy}"))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    pub next_seq: u64,
    /// The checksum that its writer has confirmed it by; nothing comes after that.
    pub checksum: Option<Digest>,
    /// When its lines were removed, if they were.
    pub removed_at: Option<OffsetDateTime>,
}

/// A block by its outline; none where it must be made of the lines.
pub(in crate::web) struct Outlined {
    pub first_seq: u64,
    pub entries: u64,
    pub outline: Option<Outline>,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::web) enum Appended {
    /// All of it is stored, or was before.
    Stored { next_seq: u64 },
    /// Entries before it are missing.
    Gap { next_seq: u64 },
    /// The log was sealed before, or is no longer kept.
    Sealed,
}

/// Makes a log, if it is not there.
pub(in crate::web) async fn create(connection: &mut SqliteConnection, log: &LogId) -> sqlx::Result<()> {
    let insert = "INSERT INTO logs (id, next_seq, bytes) VALUES ($1, 0, 0) ON CONFLICT (id) DO NOTHING";
    sqlx::query(insert).bind(&log.0).execute(connection).await.map(drop)
}

const STATE: &str = "SELECT next_seq, checksum, removed_at FROM logs WHERE id = $1";

fn state_of(row: Option<SqliteRow>) -> sqlx::Result<LogState> {
    let Some(row) = row else { return Ok(LogState::default()) };
    let checksum: Option<String> = row.try_get("checksum")?;
    let checksum = checksum.and_then(|text| text.parse().ok());
    let removed_at = row.try_get::<Option<i64>, _>("removed_at")?.map(time_of);
    Ok(LogState { next_seq: count(&row, "next_seq")?, checksum, removed_at })
}

/// How far a log is; one that is not there has nothing.
pub(in crate::web) async fn state(connection: &mut SqliteConnection, log: &LogId) -> sqlx::Result<LogState> {
    state_of(sqlx::query(STATE).bind(&log.0).fetch_optional(connection).await?)
}

/// Appends what is new in `batch`.
pub(in crate::web) async fn append(
    connection: &mut SqliteConnection,
    log: &LogId,
    batch: Batch,
) -> Result<Appended, WriteError> {
    let LogState { next_seq, checksum, removed_at } = state(connection, log).await?;
    if batch.is_empty() || batch.end_seq() <= next_seq {
        return Ok(Appended::Stored { next_seq });
    }
    if checksum.is_some() || removed_at.is_some() {
        return Ok(Appended::Sealed);
    }
    if batch.first_seq > next_seq {
        return Ok(Appended::Gap { next_seq });
    }
    let end = batch.end_seq();
    let tail = last_block(connection, log).await?;
    let packed = tokio::task::spawn_blocking(move || pack(&batch, next_seq, tail));
    let blocks = packed.await.map_err(|error| WriteError::Database(error.to_string()))?;
    let blocks = blocks.map_err(|error| WriteError::Database(format!("a block of the log: {error}")))?;
    let mut bytes = 0;
    for packed in blocks {
        bytes += packed.block.head.bytes;
        put(connection, log, packed).await?;
    }
    let update = "UPDATE logs SET next_seq = $2, bytes = bytes + $3 WHERE id = $1";
    sqlx::query(update).bind(&log.0).bind(number(end)).bind(number(bytes)).execute(connection).await?;
    Ok(Appended::Stored { next_seq: end })
}

/// The last block, if lines may be added to it.
async fn last_block(connection: &mut SqliteConnection, log: &LogId) -> sqlx::Result<Option<Packed>> {
    let select = "SELECT * FROM log_blocks WHERE log_id = $1 ORDER BY first_seq DESC LIMIT 1";
    let Some(row) = sqlx::query(select).bind(&log.0).fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let head = head(&row)?;
    if !head.has_room() {
        return Ok(None);
    }
    let select = "SELECT outline FROM log_outlines WHERE log_id = $1 AND first_seq = $2";
    let select = sqlx::query_scalar(select).bind(&log.0).bind(number(head.first_seq));
    let outline: Option<String> = select.fetch_optional(connection).await?;
    let outline = Outline::from_json(outline.as_deref());
    Ok(Some(Packed { block: Block { head, data: row.try_get("data")? }, outline }))
}

async fn put(connection: &mut SqliteConnection, log: &LogId, packed: Packed) -> sqlx::Result<()> {
    if let Some(outline) = &packed.outline {
        let upsert = "INSERT INTO log_outlines (log_id, first_seq, outline) VALUES ($1, $2, $3)
            ON CONFLICT (log_id, first_seq) DO UPDATE SET outline = excluded.outline";
        let insert = sqlx::query(upsert).bind(&log.0).bind(number(packed.block.head.first_seq));
        insert.bind(outline.to_json()).execute(&mut *connection).await?;
    }
    let upsert = "INSERT INTO log_blocks
            (log_id, first_seq, entries, bytes, first_at, last_at, steps, servers, services, pods, data)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (log_id, first_seq) DO UPDATE SET entries = excluded.entries, bytes = excluded.bytes,
            first_at = excluded.first_at, last_at = excluded.last_at, steps = excluded.steps,
            servers = excluded.servers, services = excluded.services, pods = excluded.pods,
            data = excluded.data";
    let Block { head: Head { first_seq, entries, bytes, summary }, data } = packed.block;
    sqlx::query(upsert)
        .bind(&log.0)
        .bind(number(first_seq))
        .bind(number(entries))
        .bind(number(bytes))
        .bind(summary.first_at)
        .bind(summary.last_at)
        .bind(summary.steps.to_json())
        .bind(summary.servers.to_json())
        .bind(summary.services.to_json())
        .bind(summary.pods.to_json())
        .bind(data)
        .execute(connection)
        .await
        .map(drop)
}

/// Seals a log: its writer has confirmed it by `checksum`.
pub(in crate::web) async fn seal(
    connection: &mut SqliteConnection,
    log: &LogId,
    checksum: &Digest,
) -> sqlx::Result<()> {
    let update = "UPDATE logs SET checksum = $2 WHERE id = $1";
    sqlx::query(update).bind(&log.0).bind(checksum.to_string()).execute(connection).await.map(drop)
}

fn head(row: &SqliteRow) -> sqlx::Result<Head> {
    let values = |column: &str| -> sqlx::Result<Values> {
        let json: Option<String> = row.try_get(column)?;
        Ok(Values::from_json(json.as_deref()))
    };
    Ok(Head {
        first_seq: count(row, "first_seq")?,
        entries: count(row, "entries")?,
        bytes: count(row, "bytes")?,
        summary: Summary {
            first_at: row.try_get("first_at")?,
            last_at: row.try_get("last_at")?,
            steps: values("steps")?,
            servers: values("servers")?,
            services: values("services")?,
            pods: values("pods")?,
        },
    })
}

impl Database {
    /// How far a log is; one that is not there has nothing.
    pub async fn log_state(&self, log: &LogId) -> sqlx::Result<LogState> {
        state_of(sqlx::query(STATE).bind(&log.0).fetch_optional(&self.readers).await?)
    }

    /// The heads of up to `most` blocks, in order, from the one that has the entry `from` on.
    pub(in crate::web) async fn log_heads(
        &self,
        log: &LogId,
        from: u64,
        most: u32,
    ) -> sqlx::Result<Vec<Head>> {
        // The last block that begins at or before `from` is the only one that can have it.
        let select = "SELECT first_seq, entries, bytes, first_at, last_at, steps, servers, services, pods
            FROM log_blocks WHERE log_id = $1 AND first_seq >= coalesce(
                (SELECT max(first_seq) FROM log_blocks WHERE log_id = $1 AND first_seq <= $2), 0)
            ORDER BY first_seq LIMIT $3";
        let select = sqlx::query(select).bind(&log.0).bind(number(from)).bind(i64::from(most));
        let rows = select.fetch_all(&self.readers).await?;
        let heads = rows.iter().map(head).collect::<sqlx::Result<Vec<_>>>()?;
        Ok(heads.into_iter().filter(|head| head.end_seq() > from).collect())
    }

    /// The outlines of up to `most` blocks, in order, from the one that has the entry `from` on.
    pub(in crate::web) async fn log_outlines(
        &self,
        log: &LogId,
        from: u64,
        most: u32,
    ) -> sqlx::Result<Vec<Outlined>> {
        let select = "SELECT b.first_seq, b.entries, o.outline FROM log_blocks b
            LEFT JOIN log_outlines o ON o.log_id = b.log_id AND o.first_seq = b.first_seq
            WHERE b.log_id = $1 AND b.first_seq >= coalesce(
                (SELECT max(first_seq) FROM log_blocks WHERE log_id = $1 AND first_seq <= $2), 0)
            ORDER BY b.first_seq LIMIT $3";
        let select = sqlx::query(select).bind(&log.0).bind(number(from)).bind(i64::from(most));
        let outlined = |row: &SqliteRow| -> sqlx::Result<Outlined> {
            let json: Option<String> = row.try_get("outline")?;
            Ok(Outlined {
                first_seq: count(row, "first_seq")?,
                entries: count(row, "entries")?,
                outline: Outline::from_json(json.as_deref()),
            })
        };
        select.fetch_all(&self.readers).await?.iter().map(outlined).collect()
    }

    /// Keeps the outlines of blocks that had none: for each its first seq, how many entries it has, and the outline.
    /// Those of blocks that have grown since, or are gone, are left out.
    pub(in crate::web) async fn keep_outlines(
        &self,
        log: &LogId,
        outlines: Vec<(u64, u64, Outline)>,
    ) -> Result<(), WriteError> {
        let log = log.clone();
        self.write(Box::new(move |connection| {
            Box::pin(async move {
                for (first_seq, entries, outline) in outlines {
                    let insert = "INSERT INTO log_outlines (log_id, first_seq, outline)
                        SELECT log_id, first_seq, $4 FROM log_blocks
                        WHERE log_id = $1 AND first_seq = $2 AND entries = $3
                        ON CONFLICT (log_id, first_seq) DO NOTHING";
                    let insert =
                        sqlx::query(insert).bind(&log.0).bind(number(first_seq)).bind(number(entries));
                    insert.bind(outline.to_json()).execute(&mut *connection).await?;
                }
                Ok(())
            })
        }))
        .await
    }

    /// A block as it is now: it may have grown since its head was read.
    pub(in crate::web) async fn log_block(&self, log: &LogId, first_seq: u64) -> sqlx::Result<Option<Block>> {
        let select = "SELECT * FROM log_blocks WHERE log_id = $1 AND first_seq = $2";
        let select = sqlx::query(select).bind(&log.0).bind(number(first_seq));
        let row = select.fetch_optional(&self.readers).await?;
        row.map(|row| Ok(Block { head: head(&row)?, data: row.try_get("data")? })).transpose()
    }
}
