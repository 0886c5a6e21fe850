//! Deploys, as Maestro reports them: the other column of the timeline.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use super::logs::{self, LogId};
use super::open::Database;
use super::row::{self, damaged};
use super::{millis, time_of};
use crate::publish::name::Namespace;
use crate::timeline::protocol::DeployReport;

/// A deploy as it was reported last, and when.
pub(in crate::web) struct DeployRow {
    pub report: DeployReport,
    pub reported_at: OffsetDateTime,
}

fn read(row: &SqliteRow) -> sqlx::Result<DeployRow> {
    let report: String = row.try_get("report")?;
    Ok(DeployRow {
        report: serde_json::from_str(&report).map_err(|error| damaged("report", &error.to_string()))?,
        reported_at: time_of(row.try_get("reported_at")?),
    })
}

/// Keeps a report in the place of what was reported before.
pub(in crate::web) async fn put(
    connection: &mut SqliteConnection,
    id: &str,
    report: &DeployReport,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let upsert = "INSERT INTO deploys (namespace, id, app, state, report, reported_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (namespace, id) DO UPDATE SET app = excluded.app, state = excluded.state,
            report = excluded.report, reported_at = excluded.reported_at";
    let json = row::json(report)?;
    sqlx::query(upsert)
        .bind(report.namespace.as_str())
        .bind(id)
        .bind(report.app.as_str())
        .bind(report.state.as_str())
        .bind(json)
        .bind(millis(now))
        .execute(&mut *connection)
        .await?;
    logs::create(connection, &LogId::of_deploy(report.namespace.as_str(), id)).await
}

impl Database {
    /// The deploys that are called `id`: one for each namespace that has one.
    pub(in crate::web) async fn deploys(&self, id: &str) -> sqlx::Result<Vec<DeployRow>> {
        let select = "SELECT report, reported_at FROM deploys WHERE id = $1 ORDER BY namespace";
        let rows = sqlx::query(select).bind(id).fetch_all(&self.readers).await?;
        rows.iter().map(read).collect()
    }

    /// A deploy of this namespace.
    pub(in crate::web) async fn deploy(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> sqlx::Result<Option<DeployRow>> {
        let select = "SELECT report, reported_at FROM deploys WHERE namespace = $1 AND id = $2";
        let select = sqlx::query(select).bind(namespace.as_str()).bind(id);
        select.fetch_optional(&self.readers).await?.as_ref().map(read).transpose()
    }
}
