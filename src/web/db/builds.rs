//! Builds: one row for each event, with the attempt that counts; taken down, read, and listed.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};
use time::OffsetDateTime;

use super::apps;
use super::deploys;
use super::line::PATIENCE;
use super::open::Database;
use super::row::{damaged, optional, parsed};
use super::selection::{Selection, only};
use super::{millis, time_of};
use crate::event::deploy::{BuildId, DeployEvent, Work};
use crate::event::result::ResultEvent;
use crate::publish::name::{AppName, Namespace};
use crate::queue::retry_after;
use crate::store::digest::Digest;
use crate::timeline::protocol::{Build, BuildState, CommitInfo};

/// Published builds whose times make the usual one.
const USUAL_OF: i64 = 11;

/// A build as it is kept, its state as it was last reported.
pub(in crate::web) struct BuildRow {
    pub build: Build,
    /// The digest of the event's text.
    pub body: Digest,
    pub event: String,
    pub lease_until: Option<OffsetDateTime>,
    pub requeued: Option<String>,
    pub result: Option<ResultEvent>,
    /// When it came: at first, or out of the dead letters since then. Its place in line.
    pub arrived_at: OffsetDateTime,
    /// When it was last heard of that it waits; none where it is not in line.
    pub in_line_at: Option<OffsetDateTime>,
}

impl BuildRow {
    /// Whether an attempt holds a lease.
    pub(in crate::web) fn is_leased(&self, now: OffsetDateTime) -> bool {
        self.lease_until.is_some_and(|until| until > now)
    }

    /// When it was last told to wait, if it is in line for that.
    pub(in crate::web) fn put_off_at(&self) -> Option<OffsetDateTime> {
        self.in_line_at.filter(|_| self.build.waiting.is_some())
    }

    /// The build as it is shown: one whose lease is over is never running, and has ended if that was asked
    /// for. That it waits is said while it is heard of.
    pub(in crate::web) fn shown(self, base: &str, now: OffsetDateTime) -> Build {
        let waits = self.in_line_at.is_some_and(|at| at + PATIENCE > now);
        let interrupted = self.build.state.is_running() && !self.is_leased(now);
        let mut build = self.build;
        build.state = shown_state(build.state, interrupted, build.cancel_requested_at.is_some());
        if interrupted && build.state == BuildState::Cancelled {
            build.finished_at = self.lease_until;
        }
        build.waiting = build.waiting.filter(|_| waits && !build.state.is_final());
        build.retry_at = build.retry_at.filter(|_| build.waiting.is_none());
        build.url = format!("{base}/builds/{}", build.id);
        build
    }
}

/// How a build is shown that is kept as `state`; `interrupted`: it should be running, and its lease is over.
pub(super) fn shown_state(state: BuildState, interrupted: bool, cancel_requested: bool) -> BuildState {
    match (interrupted, cancel_requested) {
        (true, true) => BuildState::Cancelled,
        (true, false) => BuildState::Interrupted,
        (false, _) => state,
    }
}

/// Everything of a build, and of the attempt that counts.
pub(super) const SELECT: &str =
    "SELECT b.*, a.number AS attempt_number, a.worker AS attempt_worker, a.ended_at AS attempt_ended_at
    FROM builds b LEFT JOIN attempts a ON a.id = b.attempt";

pub(super) fn read(row: &SqliteRow) -> sqlx::Result<BuildRow> {
    let at = |column: &str| -> sqlx::Result<Option<OffsetDateTime>> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(time_of))
    };
    let event: String = row.try_get("event")?;
    let result: Option<String> = row.try_get("result")?;
    let result: Option<ResultEvent> = result
        .map(|json| serde_json::from_str(&json).map_err(|error| damaged("result", &error.to_string())))
        .transpose()?;
    let services: String = row.try_get("services")?;
    let commit_info = match (row.try_get::<Option<String>, _>("subject")?, at("committed_at")?) {
        (Some(subject), Some(at)) => Some(CommitInfo {
            subject,
            author: row.try_get::<Option<String>, _>("author")?.unwrap_or_default(),
            at,
        }),
        _ => None,
    };
    let number: Option<i64> = row.try_get("attempt_number")?;
    let number = number.and_then(|number| u32::try_from(number).ok());
    let state: BuildState = parsed(row, "state").map_err(|_| damaged("state", "it is not known"))?;
    let retry_at = match (state, number, at("attempt_ended_at")?) {
        (BuildState::Retrying, Some(number), Some(ended)) => Some(ended + retry_after(number)),
        _ => None,
    };
    let created_at = at("created_at")?.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // What is known of how it went, even where another attempt follows.
    let told = result.as_ref();
    let build = Build {
        id: parsed(row, "id")?,
        namespace: parsed(row, "namespace")?,
        app: parsed(row, "app")?,
        services: serde_json::from_str(&services).map_err(|error| damaged("services", &error.to_string()))?,
        repository: parsed(row, "repository")?,
        commit: parsed(row, "commit_id")?,
        git_ref: row.try_get("git_ref")?,
        deploy_id: row.try_get("deploy_id")?,
        requested_by: row.try_get("requested_by")?,
        fake: row.try_get::<i64, _>("fake")? != 0,
        rebuild: row.try_get::<i64, _>("rebuild")? != 0,
        state,
        kind: told.and_then(|result| result.kind),
        reused: told.is_some_and(|result| result.reused),
        image: told.and_then(|result| result.image.clone()),
        digest: told.and_then(|result| result.digest),
        size: told.and_then(|result| result.size),
        reason: match told {
            Some(result) => result.reason.clone(),
            None => row.try_get("ended_because")?,
        },
        step: told.and_then(|result| result.step.clone()),
        location: told.and_then(|result| result.location.clone()),
        advice: told.and_then(|result| result.advice.clone()),
        excerpt: told.map(|result| result.excerpt.clone()).unwrap_or_default(),
        commit_info,
        attempt: optional(row, "attempt")?,
        number,
        worker: row.try_get("attempt_worker")?,
        heard_at: at("heard_at")?,
        cancel_requested_at: at("cancel_requested_at")?,
        waiting: row.try_get("waiting")?,
        retry_at,
        created_at,
        started_at: at("started_at")?,
        finished_at: at("finished_at")?,
        url: String::new(),
    };
    Ok(BuildRow {
        body: Digest::of(event.as_bytes()),
        event,
        lease_until: at("lease_until")?,
        requeued: row.try_get("requeued")?,
        result,
        arrived_at: at("arrived_at")?.unwrap_or(created_at),
        in_line_at: at("in_line_at")?,
        build,
    })
}

/// A build, if it is there.
pub(in crate::web) async fn get(
    connection: &mut SqliteConnection,
    id: &BuildId,
) -> sqlx::Result<Option<BuildRow>> {
    let mut query = QueryBuilder::<Sqlite>::new(SELECT);
    query.push(" WHERE b.id = ").push_bind(id.as_str());
    query.build().fetch_optional(connection).await?.as_ref().map(read).transpose()
}

/// Takes a build down as queued, unless it is there; says whether it is new.
pub(in crate::web) async fn insert(
    connection: &mut SqliteConnection,
    event: &DeployEvent,
    text: &str,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let build = "INSERT INTO builds (id, namespace, app, event, deploy_id, services, repository, commit_id,
            git_ref, requested_by, fake, state, created_at, in_line_at, rebuild)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $14) ON CONFLICT (id) DO NOTHING";
    let inserted = sqlx::query(build)
        .bind(event.id.as_str())
        .bind(event.namespace.as_str())
        .bind(event.app.as_str())
        .bind(text)
        .bind(event.deploy_id.as_deref())
        .bind(serde_json::Value::from(event.services.clone()).to_string())
        .bind(event.repository.as_str())
        .bind(event.commit.as_str())
        .bind(event.git_ref.as_deref())
        .bind(event.requested_by.as_deref())
        .bind(i64::from(matches!(event.work, Work::Fake(_))))
        .bind(BuildState::Queued.as_str())
        .bind(millis(now))
        .bind(i64::from(event.options.rebuild))
        .execute(&mut *connection)
        .await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(deploy) = &event.deploy_id {
        deploys::joined(connection, &event.namespace, &event.app, deploy).await?;
    }
    if let Some(git_ref) = &event.git_ref {
        apps::built(connection, event, git_ref, now).await?;
    }
    let app = "INSERT INTO apps (namespace, app) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    sqlx::query(app)
        .bind(event.namespace.as_str())
        .bind(event.app.as_str())
        .execute(&mut *connection)
        .await?;
    for service in &event.services {
        let insert = "INSERT INTO build_services (build_id, namespace, app, service, created_at)
            VALUES ($1, $2, $3, $4, $5)";
        sqlx::query(insert)
            .bind(event.id.as_str())
            .bind(event.namespace.as_str())
            .bind(event.app.as_str())
            .bind(service)
            .bind(millis(now))
            .execute(&mut *connection)
            .await?;
    }
    Ok(true)
}

/// Keeps what the commit says of itself.
pub(in crate::web) async fn describe(
    connection: &mut SqliteConnection,
    id: &BuildId,
    commit: &CommitInfo,
) -> sqlx::Result<()> {
    let update = "UPDATE builds SET subject = $2, author = $3, committed_at = $4 WHERE id = $1";
    sqlx::query(update)
        .bind(id.as_str())
        .bind(&commit.subject)
        .bind(&commit.author)
        .bind(millis(commit.at))
        .execute(connection)
        .await
        .map(drop)
}

impl Database {
    pub(in crate::web) async fn build(&self, id: &BuildId) -> sqlx::Result<Option<BuildRow>> {
        let mut reader = self.readers.acquire().await?;
        get(&mut reader, id).await
    }

    /// The newest builds of a selection, at most `most`.
    pub(in crate::web) async fn builds(
        &self,
        selection: &Selection,
        most: usize,
        now: OffsetDateTime,
    ) -> sqlx::Result<Vec<BuildRow>> {
        let mut found: Vec<BuildRow> = Vec::new();
        let mut queries = selection.queries(SELECT, most, now);
        for query in &mut queries {
            let rows = query.build().fetch_all(&self.readers).await?;
            found.extend(rows.iter().map(read).collect::<sqlx::Result<Vec<_>>>()?);
        }
        if queries.len() > 1 {
            let place = |row: &BuildRow| (row.build.created_at, row.build.id.clone());
            found.sort_by_cached_key(|row| std::cmp::Reverse(place(row)));
            found.truncate(most);
        }
        Ok(found)
    }

    /// The builds of a namespace that are for one of these deploys, newest first.
    pub(in crate::web) async fn builds_of_deploys(
        &self,
        namespace: &Namespace,
        deploys: &[String],
        most: usize,
    ) -> sqlx::Result<Vec<BuildRow>> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE b.namespace = ").push_bind(namespace.to_string());
        only(&mut query, "b.deploy_id", Some(deploys));
        query.push(" ORDER BY b.created_at DESC, b.id DESC LIMIT ");
        query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        query.build().fetch_all(&self.readers).await?.iter().map(read).collect()
    }

    /// What a build of the app usually takes, in seconds: the median of the last ones that made an image.
    pub(in crate::web) async fn usual(
        &self,
        namespace: &Namespace,
        app: &AppName,
    ) -> sqlx::Result<Option<f64>> {
        let select = "SELECT finished_at - started_at AS took FROM builds
            WHERE namespace = $1 AND app = $2 AND state = 'published' AND reused = 0
                AND started_at IS NOT NULL AND finished_at IS NOT NULL
            ORDER BY created_at DESC, id DESC LIMIT $3";
        let select = sqlx::query_scalar(select).bind(namespace.as_str()).bind(app.as_str()).bind(USUAL_OF);
        let mut took: Vec<i64> = select.fetch_all(&self.readers).await?;
        took.sort_unstable();
        Ok(took.get(took.len() / 2).map(|&millis| millis as f64 / 1000.0))
    }
}
