//! Deploys, as Maestro reports them: the other column of the timeline.

use std::collections::{BTreeSet, HashMap};

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};
use time::OffsetDateTime;

use super::logs::{self, LogId};
use super::open::Database;
use super::row::{self, damaged};
use super::selection::{LAST, Place, only};
use super::{millis, time_of};
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::{DeployReport, DeployState};

/// A deploy as it was reported last, and when.
#[derive(Clone)]
pub(in crate::web) struct DeployRow {
    pub id: String,
    pub report: DeployReport,
    pub reported_at: OffsetDateTime,
}

/// A deploy with its place in a timeline.
pub(in crate::web) struct Placed {
    pub deploy: DeployRow,
    /// By when it was first reported.
    pub place: Place,
}

/// The service of a deploy that names none: it is for all.
const EVERY: &str = "";
/// Services of an app that are told apart.
const SERVICES: usize = 256;

const SELECT: &str = "SELECT d.id, d.report, d.reported_at, d.created_at FROM deploys d";

pub(super) fn read(row: &SqliteRow) -> sqlx::Result<DeployRow> {
    let report: String = row.try_get("report")?;
    Ok(DeployRow {
        id: row.try_get("id")?,
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
    // By the index of deploys, which an app would keep from being used.
    let apps = "SELECT DISTINCT app FROM builds WHERE namespace = $1 AND deploy_id = $2";
    let apps = sqlx::query_scalar::<_, String>(apps).bind(report.namespace.as_str()).bind(id);
    let alone = !apps.fetch_all(&mut *connection).await?.iter().any(|app| app == report.app.as_str());
    let upsert =
        "INSERT INTO deploys (namespace, id, app, state, report, reported_at, created_at, image, alone)
        VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8)
        ON CONFLICT (namespace, id) DO UPDATE SET app = excluded.app, state = excluded.state,
            report = excluded.report, reported_at = excluded.reported_at, image = excluded.image,
            alone = excluded.alone";
    let json = row::json(report)?;
    sqlx::query(upsert)
        .bind(report.namespace.as_str())
        .bind(id)
        .bind(report.app.as_str())
        .bind(report.state.as_str())
        .bind(json)
        .bind(millis(now))
        .bind(report.image.as_deref())
        .bind(i64::from(alone))
        .execute(&mut *connection)
        .await?;
    name_services(connection, id, report, now).await?;
    logs::create(connection, &LogId::of_deploy(report.namespace.as_str(), id)).await
}

/// Keeps which services a deploy is for, and since when it is done.
async fn name_services(
    connection: &mut SqliteConnection,
    id: &str,
    report: &DeployReport,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let delete = "DELETE FROM deploy_services WHERE namespace = $1 AND deploy_id = $2";
    sqlx::query(delete).bind(report.namespace.as_str()).bind(id).execute(&mut *connection).await?;
    let done_at = (report.state == DeployState::Done).then(|| millis(report.finished_at.unwrap_or(now)));
    let named: BTreeSet<&str> = match report.services.is_empty() {
        true => BTreeSet::from([EVERY]),
        false => report.services.iter().map(String::as_str).collect(),
    };
    for service in named {
        let insert = "INSERT INTO deploy_services (namespace, deploy_id, app, service, created_at, done_at)
            SELECT namespace, id, app, $3, created_at, $4 FROM deploys WHERE namespace = $1 AND id = $2";
        let insert = sqlx::query(insert).bind(report.namespace.as_str()).bind(id).bind(service);
        insert.bind(done_at).execute(&mut *connection).await?;
    }
    Ok(())
}

/// A build of the app is for this deploy, should it have been reported.
pub(in crate::web) async fn joined(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    app: &AppName,
    id: &str,
) -> sqlx::Result<()> {
    let update = "UPDATE deploys SET alone = 0 WHERE namespace = $1 AND id = $2 AND app = $3";
    let update = sqlx::query(update).bind(namespace.as_str()).bind(id).bind(app.as_str());
    update.execute(connection).await.map(drop)
}

impl Database {
    /// The deploys that are called `id`: one for each namespace that has one.
    pub(in crate::web) async fn deploys(&self, id: &str) -> sqlx::Result<Vec<DeployRow>> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE d.id = ").push_bind(id.to_owned()).push(" ORDER BY d.namespace");
        self.read_deploys(query).await
    }

    /// A deploy of this namespace.
    pub(in crate::web) async fn deploy(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> sqlx::Result<Option<DeployRow>> {
        Ok(self.deploys_called(namespace, &[id.to_owned()]).await?.pop())
    }

    /// The deploys of a namespace that have one of these ids.
    pub(in crate::web) async fn deploys_called(
        &self,
        namespace: &Namespace,
        ids: &[String],
    ) -> sqlx::Result<Vec<DeployRow>> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE d.namespace = ").push_bind(namespace.to_string());
        only(&mut query, "d.id", Some(ids));
        self.read_deploys(query).await
    }

    /// What serves each of these services of an app now, and each that its last builds and the deploys since then
    /// name: the deploy that was done last. A service that the app has no more serves nothing, though retention
    /// (`in_use.rs`) keeps its image.
    pub(in crate::web) async fn serving(
        &self,
        namespace: &Namespace,
        app: &AppName,
        services: &[String],
    ) -> sqlx::Result<HashMap<String, DeployRow>> {
        let named = self.services(namespace, app, true, SERVICES).await?;
        let services: BTreeSet<&String> = services.iter().chain(&named).collect();
        let for_all = self.done_last(namespace, app, EVERY).await?;
        let mut serving: HashMap<String, String> = HashMap::new();
        for service in services {
            let own = self.done_last(namespace, app, service).await?;
            // One of either kind may be the later.
            if let Some((_, id)) = own.max(for_all.clone()) {
                serving.insert(service.clone(), id);
            }
        }
        let ids: BTreeSet<&String> = serving.values().collect();
        let ids: Vec<String> = ids.into_iter().cloned().collect();
        let rows = self.deploys_called(namespace, &ids).await?;
        let row_of = |id: &String| rows.iter().find(|row| row.id == *id).cloned();
        Ok(serving.iter().filter_map(|(service, id)| Some((service.clone(), row_of(id)?))).collect())
    }

    /// The deploy for a service that was done last, and when.
    async fn done_last(
        &self,
        namespace: &Namespace,
        app: &AppName,
        service: &str,
    ) -> sqlx::Result<Option<(i64, String)>> {
        let select = "SELECT done_at, deploy_id FROM deploy_services WHERE namespace = $1 AND app = $2
            AND service = $3 AND done_at IS NOT NULL ORDER BY done_at DESC, deploy_id DESC LIMIT 1";
        let select = sqlx::query_as(select).bind(namespace.as_str()).bind(app.as_str()).bind(service);
        select.fetch_optional(&self.readers).await
    }

    /// Deploys whose ids begin with `text`, of these namespaces (`None`: all).
    pub(in crate::web) async fn deploys_like(
        &self,
        text: &str,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<DeployRow>> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE d.id >= ").push_bind(text.to_owned());
        query.push(" AND d.id < ").push_bind(format!("{text}{LAST}"));
        only(&mut query, "d.namespace", namespaces);
        query.push(" ORDER BY d.id LIMIT ").push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        self.read_deploys(query).await
    }

    /// The deploys that were reported to run this image, newest first.
    pub(in crate::web) async fn deploys_of_image(
        &self,
        namespace: &Namespace,
        image: &str,
        most: usize,
    ) -> sqlx::Result<Vec<DeployRow>> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE d.namespace = ").push_bind(namespace.to_string());
        query.push(" AND d.image = ").push_bind(image.to_owned());
        query.push(" ORDER BY d.created_at DESC, d.id DESC LIMIT ");
        query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        self.read_deploys(query).await
    }

    /// The app's deploys that no build is for, of this service or all, between two places in its timeline: newest first, before the one
    /// and after the other.
    pub(in crate::web) async fn deploys_alone(
        &self,
        namespace: &Namespace,
        app: &AppName,
        service: Option<&str>,
        (before, after): (Option<&Place>, Option<&Place>),
        most: usize,
    ) -> sqlx::Result<Vec<Placed>> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE d.namespace = ").push_bind(namespace.to_string());
        query.push(" AND d.app = ").push_bind(app.to_string());
        for (comparison, place) in [("<", before), (">", after)] {
            if let Some((at, id)) = place {
                query.push(format!(" AND (d.created_at, d.id) {comparison} (")).push_bind(*at);
                query.push(", ").push_bind(id.clone()).push(")");
            }
        }
        query.push(" AND d.alone = 1");
        if let Some(service) = service {
            query.push(" AND EXISTS (SELECT 1 FROM deploy_services s WHERE s.namespace = d.namespace");
            query.push(" AND s.deploy_id = d.id AND s.service IN (").push_bind(EVERY);
            query.push(", ").push_bind(service.to_owned()).push("))");
        }
        query.push(" ORDER BY d.created_at DESC, d.id DESC LIMIT ");
        query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(&self.readers).await?;
        let placed = |row: &SqliteRow| {
            let deploy = read(row)?;
            Ok(Placed { place: (row.try_get("created_at")?, deploy.id.clone()), deploy })
        };
        rows.iter().map(placed).collect()
    }

    async fn read_deploys(&self, mut query: QueryBuilder<Sqlite>) -> sqlx::Result<Vec<DeployRow>> {
        query.build().fetch_all(&self.readers).await?.iter().map(read).collect()
    }
}
