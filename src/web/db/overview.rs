//! What is going on: counts over the namespaces of a login, and the last builds of an app in a few words each.

use serde::Deserialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};
use time::OffsetDateTime;

use super::builds::shown_state;
use super::open::Database;
use super::row::{damaged, parsed};
use super::selection::only;
use super::{millis, time_of};
use crate::event::result::Kind;
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::BuildState;

/// Counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overview {
    pub apps: u64,
    pub namespaces: u64,
    /// Builds that a worker has now, and those that wait for one.
    pub running: u64,
    pub waiting: u64,
    /// Since midnight (UTC).
    pub published_today: u64,
    pub failed_today: u64,
}

/// A build among the last ones of its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// As it is shown.
    pub state: BuildState,
    pub kind: Option<Kind>,
    pub reused: bool,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
}

/// Counts builds that ended so, from a time on. What begins with `|| ''` is no index's: those of a day are few, and those
/// of a state are nearly all.
fn ended(state: &str) -> String {
    format!("SELECT count(*) FROM builds WHERE state || '' = '{state}' AND finished_at >= ")
}

/// What counts of a result.
#[derive(Deserialize)]
struct Ended {
    kind: Option<Kind>,
}

impl Database {
    /// Counts over these namespaces (`None`: all).
    pub(in crate::web) async fn overview(
        &self,
        namespaces: Option<&[String]>,
        now: OffsetDateTime,
    ) -> sqlx::Result<Overview> {
        let midnight = now.replace_time(time::Time::MIDNIGHT);
        let apps = "SELECT count(*) FROM apps WHERE 1 = 1";
        let different = "SELECT count(DISTINCT namespace) FROM apps WHERE 1 = 1";
        let running =
            "SELECT count(*) FROM builds WHERE state IN ('claimed', 'fetching', 'building', 'publishing')
            AND lease_until > ";
        let waiting = "SELECT count(*) FROM builds WHERE state IN ('queued', 'retrying')";
        Ok(Overview {
            apps: self.count(apps, None, namespaces).await?,
            namespaces: self.count(different, None, namespaces).await?,
            running: self.count(running, Some(now), namespaces).await?,
            waiting: self.count(waiting, None, namespaces).await?,
            published_today: self.count(&ended("published"), Some(midnight), namespaces).await?,
            failed_today: self.count(&ended("failed"), Some(midnight), namespaces).await?,
        })
    }

    async fn count(
        &self,
        select: &str,
        since: Option<OffsetDateTime>,
        namespaces: Option<&[String]>,
    ) -> sqlx::Result<u64> {
        let mut query = QueryBuilder::<Sqlite>::new(select);
        if let Some(since) = since {
            query.push_bind(millis(since));
        }
        only(&mut query, "namespace || ''", namespaces);
        let count: i64 = query.build_query_scalar().fetch_one(&self.readers).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// The last builds of an app, newest first.
    pub(in crate::web) async fn recent(
        &self,
        namespace: &Namespace,
        app: &AppName,
        most: usize,
        now: OffsetDateTime,
    ) -> sqlx::Result<Vec<Recent>> {
        let select = "SELECT state, reused, result, lease_until, cancel_requested_at, started_at, finished_at
            FROM builds WHERE namespace = $1 AND app = $2 ORDER BY created_at DESC, id DESC LIMIT $3";
        let select = sqlx::query(select).bind(namespace.as_str()).bind(app.as_str());
        let rows = select.bind(i64::try_from(most).unwrap_or(i64::MAX)).fetch_all(&self.readers).await?;
        rows.iter().map(|row| recent(row, now)).collect()
    }
}

fn recent(row: &SqliteRow, now: OffsetDateTime) -> sqlx::Result<Recent> {
    let at = |column: &str| -> sqlx::Result<Option<OffsetDateTime>> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(time_of))
    };
    let result: Option<String> = row.try_get("result")?;
    let result: Option<Ended> = result.and_then(|json| serde_json::from_str(&json).ok());
    let kept: BuildState = parsed(row, "state").map_err(|_| damaged("state", "it is not known"))?;
    let lease = at("lease_until")?;
    let interrupted = kept.is_running() && lease.is_none_or(|until| until <= now);
    let state = shown_state(kept, interrupted, at("cancel_requested_at")?.is_some());
    Ok(Recent {
        state,
        kind: result.and_then(|result| result.kind),
        reused: row.try_get::<i64, _>("reused")? != 0,
        started_at: at("started_at")?,
        finished_at: match state {
            BuildState::Cancelled if interrupted => lease,
            _ => at("finished_at")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_ended_today_is_counted_without_the_days_before() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        for namespaces in [None, Some(["acme".to_owned()].as_slice())] {
            let mut query = QueryBuilder::<Sqlite>::new(format!("EXPLAIN QUERY PLAN {}", ended("published")));
            query.push_bind(7_i64);
            only(&mut query, "namespace || ''", namespaces);
            let plan: Vec<(i64, i64, i64, String)> =
                query.build_query_as().fetch_all(&database.readers).await.unwrap();
            assert!(plan[0].3.contains("COVERING INDEX builds_by_end (finished_at>"), "{plan:?}");
        }
        database.close().await;
    }
}
