//! The images that deploys run, or are about to: what the store must keep.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::TryStreamExt as _;
use sqlx::Row;

use super::deploys::DeployRow;
use super::open::Database;
use crate::event::result::ResultEvent;
use crate::publish::name::AppName;
use crate::timeline::protocol::DeployState;

/// What of one app's deploys counts, of which the newest that is done serves each service.
#[derive(Default)]
struct OfApp {
    done: Vec<DeployRow>,
    /// Those that are not over.
    open: Vec<DeployRow>,
}

impl OfApp {
    fn in_use(mut self) -> Vec<DeployRow> {
        self.done.sort_by_key(|row| std::cmp::Reverse(row.report.finished_at.unwrap_or(row.reported_at)));
        let mut services = HashSet::new();
        let mut in_use = self.open;
        for row in self.done {
            // One that names no services is for all of them.
            let is_for_all = row.report.services.is_empty();
            let is_new = row.report.services.iter().any(|service| !services.contains(service));
            services.extend(row.report.services.iter().cloned());
            if is_new || is_for_all {
                in_use.push(row);
            }
            if is_for_all {
                break;
            }
        }
        in_use
    }
}

impl Database {
    /// What the newest deploys run that are done, of each service, and those that are not over: image URLs, with the
    /// digest where it is known. Reads all deploys, namespace by namespace: meant for once a day.
    pub(in crate::web) async fn images_in_use(&self) -> sqlx::Result<BTreeSet<String>> {
        let namespaces = sqlx::query_scalar::<_, String>("SELECT DISTINCT namespace FROM deploys");
        let mut images = BTreeSet::new();
        for namespace in namespaces.fetch_all(&self.readers).await? {
            for deploy in self.deploys_in_use(&namespace).await? {
                images.extend(deploy.report.image);
                images.extend(self.images_of_deploy(&namespace, &deploy.id).await?);
            }
        }
        Ok(images)
    }

    async fn deploys_in_use(&self, namespace: &str) -> sqlx::Result<Vec<DeployRow>> {
        let mut apps: HashMap<AppName, OfApp> = HashMap::new();
        let select = "SELECT d.id, d.report, d.reported_at, d.created_at FROM deploys d
            WHERE d.namespace = $1 AND d.state IN ('done', 'running', 'waiting')";
        let mut rows = sqlx::query(select).bind(namespace).fetch(&self.readers);
        while let Some(row) = rows.try_next().await? {
            let row = super::deploys::read(&row)?;
            let app = apps.entry(row.report.app.clone()).or_default();
            match row.report.state {
                DeployState::Done => app.done.push(row),
                _ => app.open.push(row),
            }
        }
        Ok(apps.into_values().flat_map(OfApp::in_use).collect())
    }

    async fn images_of_deploy(&self, namespace: &str, id: &str) -> sqlx::Result<Vec<String>> {
        let select =
            "SELECT result FROM builds WHERE namespace = $1 AND deploy_id = $2 AND result IS NOT NULL";
        let rows = sqlx::query(select).bind(namespace).bind(id).fetch_all(&self.readers).await?;
        let mut images = Vec::new();
        for row in rows {
            let json: String = row.try_get("result")?;
            let result: ResultEvent = serde_json::from_str(&json)
                .map_err(|error| super::row::damaged("result", &error.to_string()))?;
            let Some(image) = result.image else { continue };
            images.push(match result.digest {
                Some(digest) => format!("{image}@{digest}"),
                None => image,
            });
        }
        Ok(images)
    }
}
