//! Apps by their names, with the namespaces, services and refs that there are.

use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};
use time::OffsetDateTime;

use super::millis;
use super::open::Database;
use super::row::parsed;
use super::selection::{LAST, only};
use crate::event::deploy::DeployEvent;
use crate::publish::name::{AppName, Namespace};

/// The last builds of an app that say which services it has: one that none of them names is no longer its.
const RECENT: i64 = 50;

/// Keeps that a ref of an app is built.
pub(super) async fn built(
    connection: &mut SqliteConnection,
    event: &DeployEvent,
    git_ref: &str,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let upsert = "INSERT INTO refs (namespace, app, git_ref, built_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (namespace, app, git_ref) DO UPDATE SET built_at = excluded.built_at";
    let upsert = sqlx::query(upsert).bind(event.namespace.as_str()).bind(event.app.as_str());
    upsert.bind(git_ref).bind(millis(now)).execute(connection).await.map(drop)
}

impl Database {
    /// Apps in the order of their names, those of `namespaces` (`None`: all) whose name contains
    /// `contained`, after `after`.
    pub(in crate::web) async fn apps(
        &self,
        namespaces: Option<&[String]>,
        contained: Option<&str>,
        after: Option<&(String, String)>,
        most: usize,
    ) -> sqlx::Result<Vec<(Namespace, AppName)>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT namespace, app FROM apps WHERE 1 = 1");
        only(&mut query, "namespace", namespaces);
        if let Some(contained) = contained {
            let literal = contained.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            query.push(" AND app LIKE ").push_bind(format!("%{literal}%")).push(" ESCAPE '\\'");
        }
        if let Some((namespace, app)) = after {
            query.push(" AND (namespace, app) > (").push_bind(namespace.clone());
            query.push(", ").push_bind(app.clone()).push(")");
        }
        query.push(" ORDER BY namespace, app LIMIT ");
        query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((parsed(row, "namespace")?, parsed(row, "app")?))).collect()
    }

    /// The namespaces that have apps, of `among` (`None`: all), by name.
    pub(in crate::web) async fn namespaces(
        &self,
        among: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<String>> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT DISTINCT namespace FROM apps WHERE 1 = 1");
        only(&mut query, "namespace", among);
        query.push(" ORDER BY namespace LIMIT ").push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        query.build_query_scalar().fetch_all(&self.readers).await
    }

    /// The services that builds and deploys of the app were for, by name; with `recent`, of its last builds and of
    /// the deploys since then alone.
    pub(in crate::web) async fn services(
        &self,
        namespace: &Namespace,
        app: &AppName,
        recent: bool,
        most: usize,
    ) -> sqlx::Result<Vec<String>> {
        let oldest = "SELECT created_at FROM builds WHERE namespace = $1 AND app = $2
            ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET $3";
        let since: Option<i64> = match recent {
            true => {
                let oldest = sqlx::query_scalar(oldest).bind(namespace.as_str()).bind(app.as_str());
                oldest.bind(RECENT - 1).fetch_optional(&self.readers).await?
            }
            false => None,
        };
        let mut services = Vec::new();
        for table in ["build_services", "deploy_services"] {
            // From one name to the next: there are few of them, and many rows of each.
            let of_app = format!("FROM {table} WHERE namespace = $1 AND app = $2");
            let select = sqlx::AssertSqlSafe(format!(
                "WITH RECURSIVE known (service) AS (
                    SELECT min(service) {of_app} AND service > ''
                    UNION ALL
                    SELECT (SELECT min(service) {of_app} AND service > known.service)
                    FROM known WHERE service IS NOT NULL
                )
                SELECT service FROM known WHERE service IS NOT NULL
                    AND (SELECT max(created_at) {of_app} AND service = known.service) >= $3 LIMIT $4"
            ));
            let select = sqlx::query_scalar(select).bind(namespace.as_str()).bind(app.as_str());
            let select = select.bind(since.unwrap_or_default()).bind(i64::try_from(most).unwrap_or(i64::MAX));
            services.extend(select.fetch_all(&self.readers).await?);
        }
        services.sort_unstable();
        services.dedup();
        services.truncate(most);
        Ok(services)
    }

    /// Refs that begin with `text`, or whose branch or tag does, of these namespaces (`None`: all).
    pub(in crate::web) async fn refs_like(
        &self,
        text: &str,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<(Namespace, AppName, String)>> {
        let mut found = Vec::new();
        for prefix in ["refs/heads/", "refs/tags/", ""] {
            // Without what all of them begin with, all would be found.
            if prefix.is_empty() && !text.starts_with("refs/") {
                continue;
            }
            let mut query =
                QueryBuilder::<Sqlite>::new("SELECT namespace, app, git_ref FROM refs WHERE git_ref >= ");
            query.push_bind(format!("{prefix}{text}"));
            query.push(" AND git_ref < ").push_bind(format!("{prefix}{text}{LAST}"));
            only(&mut query, "namespace", namespaces);
            query.push(" ORDER BY git_ref, namespace, app LIMIT ");
            query.push_bind(i64::try_from(most - found.len()).unwrap_or(i64::MAX));
            for row in query.build().fetch_all(&self.readers).await? {
                found.push((parsed(&row, "namespace")?, parsed(&row, "app")?, row.try_get("git_ref")?));
            }
        }
        Ok(found)
    }

    /// The refs of the app that were built last, latest first.
    pub(in crate::web) async fn refs(
        &self,
        namespace: &Namespace,
        app: &AppName,
        most: usize,
    ) -> sqlx::Result<Vec<String>> {
        let select = "SELECT git_ref FROM refs WHERE namespace = $1 AND app = $2
            ORDER BY built_at DESC LIMIT $3";
        let select = sqlx::query_scalar(select).bind(namespace.as_str()).bind(app.as_str());
        select.bind(i64::try_from(most).unwrap_or(i64::MAX)).fetch_all(&self.readers).await
    }
}
