//! Attempts: who tried a build, how far each came, and when it entered its stages.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use super::logs::{self, LogId};
use super::open::Database;
use super::row::{count, damaged, parsed};
use super::{millis, time_of};
use crate::event::deploy::BuildId;
use crate::timeline::protocol::{Attempt, AttemptId, AttemptState, StageTime};

/// An attempt, as far as a report to it must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::web) struct AttemptRow {
    pub id: AttemptId,
    pub state: AttemptState,
    pub fenced: bool,
}

/// Takes an attempt down, with its log.
pub(in crate::web) async fn insert(
    connection: &mut SqliteConnection,
    build: &BuildId,
    attempt: AttemptId,
    number: u32,
    worker: &str,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let insert = "INSERT INTO attempts (id, build_id, number, worker, state, claimed_at)
        VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(insert)
        .bind(attempt.to_string())
        .bind(build.as_str())
        .bind(i64::from(number))
        .bind(worker)
        .bind(AttemptState::Claimed.as_str())
        .bind(millis(now))
        .execute(&mut *connection)
        .await?;
    logs::create(connection, &LogId::of_attempt(attempt)).await
}

/// An attempt at this build.
pub(in crate::web) async fn get(
    connection: &mut SqliteConnection,
    build: &BuildId,
    attempt: AttemptId,
) -> sqlx::Result<Option<AttemptRow>> {
    let select = "SELECT state, fenced_at FROM attempts WHERE id = $1 AND build_id = $2";
    let select = sqlx::query(select).bind(attempt.to_string()).bind(build.as_str());
    let Some(row) = select.fetch_optional(connection).await? else { return Ok(None) };
    Ok(Some(AttemptRow {
        id: attempt,
        state: state(&row)?,
        fenced: row.try_get::<Option<i64>, _>("fenced_at")?.is_some(),
    }))
}

/// Whether the id is another build's.
pub(in crate::web) async fn is_foreign(
    connection: &mut SqliteConnection,
    build: &BuildId,
    attempt: AttemptId,
) -> sqlx::Result<bool> {
    let select = "SELECT count(*) FROM attempts WHERE id = $1 AND build_id <> $2";
    let select = sqlx::query_scalar::<_, i64>(select).bind(attempt.to_string()).bind(build.as_str());
    Ok(select.fetch_one(connection).await? > 0)
}

/// Another attempt takes the place of this one, unless it has ended.
pub(in crate::web) async fn fence(
    connection: &mut SqliteConnection,
    attempt: AttemptId,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let update = "UPDATE attempts SET fenced_at = $2 WHERE id = $1 AND ended_at IS NULL";
    sqlx::query(update).bind(attempt.to_string()).bind(millis(now)).execute(connection).await.map(drop)
}

/// Keeps that an attempt has entered `state`.
pub(in crate::web) async fn enter(
    connection: &mut SqliteConnection,
    attempt: AttemptId,
    state: AttemptState,
    at: OffsetDateTime,
) -> sqlx::Result<()> {
    let update = "UPDATE attempts SET state = $2, ended_at = $3 WHERE id = $1";
    sqlx::query(update)
        .bind(attempt.to_string())
        .bind(state.as_str())
        .bind(state.is_end().then(|| millis(at)))
        .execute(&mut *connection)
        .await?;
    let stage =
        "INSERT INTO attempt_stages (attempt_id, state, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    sqlx::query(stage)
        .bind(attempt.to_string())
        .bind(state.as_str())
        .bind(millis(at))
        .execute(connection)
        .await
        .map(drop)
}

fn state(row: &SqliteRow) -> sqlx::Result<AttemptState> {
    parsed(row, "state").map_err(|_| damaged("state", "it is not known"))
}

impl Database {
    /// The attempts at a build, oldest first.
    pub(in crate::web) async fn attempts(&self, build: &BuildId) -> sqlx::Result<Vec<Attempt>> {
        let select = "SELECT a.*, l.next_seq, l.checksum, l.removed_at FROM attempts a JOIN logs l ON l.id = 'a:' || a.id
            WHERE a.build_id = $1 ORDER BY a.claimed_at, a.id";
        let rows = sqlx::query(select).bind(build.as_str()).fetch_all(&self.readers).await?;
        let mut attempts = Vec::with_capacity(rows.len());
        for row in &rows {
            let id: AttemptId = parsed(row, "id")?;
            let number: i64 = row.try_get("number")?;
            attempts.push(Attempt {
                id,
                number: u32::try_from(number).map_err(|error| damaged("number", &error.to_string()))?,
                worker: row.try_get("worker")?,
                state: state(row)?,
                fenced: row.try_get::<Option<i64>, _>("fenced_at")?.is_some(),
                stages: self.stages(id).await?,
                entries: count(row, "next_seq")?,
                complete: row.try_get::<Option<String>, _>("checksum")?.is_some(),
                log_removed_at: row.try_get::<Option<i64>, _>("removed_at")?.map(time_of),
                claimed_at: time_of(row.try_get("claimed_at")?),
                ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(time_of),
            });
        }
        Ok(attempts)
    }

    async fn stages(&self, attempt: AttemptId) -> sqlx::Result<Vec<StageTime>> {
        let select = "SELECT state, at FROM attempt_stages WHERE attempt_id = $1";
        let rows = sqlx::query(select).bind(attempt.to_string()).fetch_all(&self.readers).await?;
        let stage = |row: &SqliteRow| Ok(StageTime { state: state(row)?, at: time_of(row.try_get("at")?) });
        let mut stages = rows.iter().map(stage).collect::<sqlx::Result<Vec<_>>>()?;
        stages.sort_by_key(|stage| (stage.state.rank(), stage.at));
        Ok(stages)
    }
}
