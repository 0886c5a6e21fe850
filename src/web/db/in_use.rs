//! The images that deploys run, or are about to: what the store must keep.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::TryStreamExt as _;
use sqlx::Row;

use super::deploys::DeployRow;
use super::open::Database;
use crate::event::result::ResultEvent;
use crate::publish::name::AppName;
use crate::timeline::protocol::{DeployState, ImagesInUse};

/// What of one app's deploys counts. It keeps also what serves a service that the app has no more; what the pages show
/// as serving is in `deploys.rs` (`serving`).
#[derive(Default)]
struct OfApp {
    done: Vec<DeployRow>,
    /// Those that are not over.
    open: Vec<DeployRow>,
}

impl OfApp {
    /// The images of those that are not over, and of each service and repository that of the newest one that is done.
    fn in_use(mut self, built: &HashMap<String, Vec<String>>) -> BTreeSet<String> {
        let images = |row: &DeployRow| {
            let built = built.get(&row.id).cloned().unwrap_or_default();
            row.report.image.clone().into_iter().chain(built)
        };
        let mut in_use: BTreeSet<_> = self.open.iter().flat_map(images).collect();
        self.done.sort_by_key(|row| std::cmp::Reverse(row.report.finished_at.unwrap_or(row.reported_at)));
        let mut served = HashSet::new();
        for row in &self.done {
            let mut of_row = HashSet::new();
            for image in images(row) {
                let repository = repository_of(&image);
                // One that names no services is for some that are not known: it ends the search for no other.
                let services = match row.report.services.is_empty() {
                    true => vec![None],
                    false => row.report.services.iter().cloned().map(Some).collect(),
                };
                let keys = services.into_iter().map(|service| (service, repository.to_owned()));
                let fresh: Vec<_> = keys.filter(|key| !served.contains(key)).collect();
                if !fresh.is_empty() {
                    in_use.insert(image);
                    of_row.extend(fresh);
                }
            }
            served.extend(of_row);
        }
        in_use
    }
}

/// An image URL without tag and digest.
fn repository_of(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

impl Database {
    /// What the newest deploys run that are done, of each service and repository, and those that are not over: image
    /// URLs, with the digest where it is known; and the apps of which one is done. Reads all deploys, namespace by
    /// namespace: meant for a few times a day.
    pub(in crate::web) async fn images_in_use(&self) -> sqlx::Result<ImagesInUse> {
        let namespaces = sqlx::query_scalar::<_, String>("SELECT DISTINCT namespace FROM deploys");
        let (mut images, mut known) = (BTreeSet::new(), BTreeSet::new());
        for namespace in namespaces.fetch_all(&self.readers).await? {
            let built = self.images_of_deploys(&namespace).await?;
            for (app, of_app) in self.deploys_of_apps(&namespace).await? {
                if !of_app.done.is_empty() {
                    known.insert(format!("{namespace}/{app}"));
                }
                images.extend(of_app.in_use(&built));
            }
        }
        Ok(ImagesInUse { images: images.into_iter().collect(), apps: known.into_iter().collect() })
    }

    async fn deploys_of_apps(&self, namespace: &str) -> sqlx::Result<HashMap<AppName, OfApp>> {
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
        Ok(apps)
    }

    /// What was built for each deploy.
    async fn images_of_deploys(&self, namespace: &str) -> sqlx::Result<HashMap<String, Vec<String>>> {
        let select = "SELECT deploy_id, result FROM builds
            WHERE namespace = $1 AND deploy_id IS NOT NULL AND result IS NOT NULL";
        let mut rows = sqlx::query(select).bind(namespace).fetch(&self.readers);
        let mut images: HashMap<String, Vec<String>> = HashMap::new();
        while let Some(row) = rows.try_next().await? {
            let json: String = row.try_get("result")?;
            let result: ResultEvent = serde_json::from_str(&json)
                .map_err(|error| super::row::damaged("result", &error.to_string()))?;
            let Some(image) = result.image else { continue };
            images.entry(row.try_get("deploy_id")?).or_default().push(match result.digest {
                Some(digest) => format!("{image}@{digest}"),
                None => image,
            });
        }
        Ok(images)
    }
}
