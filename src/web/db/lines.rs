//! Lines of images: those of one repository under one variant, each with the build that made it and the image
//! before it.

use sqlx::{QueryBuilder, Sqlite};

use super::builds::{BuildRow, SELECT, read};
use super::millis;
use super::open::Database;
use crate::publish::name::ImageName;
use crate::store::digest::Digest;
use crate::timeline::protocol::Build;

/// Digits of a commit, with which a tag begins; the variant is what follows.
const COMMIT: usize = 40;

/// The builds that ended with an image of this name.
fn of_name(name: &ImageName) -> QueryBuilder<Sqlite> {
    let tag = name.tag.as_str();
    let (commit, variant) = (tag.get(..COMMIT).unwrap_or_default(), tag.get(COMMIT..).unwrap_or_default());
    let mut query = QueryBuilder::<Sqlite>::new(SELECT);
    query.push(" WHERE b.namespace = ").push_bind(name.repository.namespace.to_string());
    query.push(" AND b.app = ").push_bind(name.repository.app.to_string());
    query.push(" AND b.commit_id = ").push_bind(commit.to_owned());
    // By the commit, of which there are fewer builds than of the line: `|| ''` is no index's.
    query.push(" AND b.repository || '' = ").push_bind(name.repository.repository.to_string());
    query.push(" AND b.variant || '' = ").push_bind(variant.to_owned());
    query
}

impl Database {
    /// The builds that ended with an image of this name, newest first.
    pub(in crate::web) async fn builds_of_image(
        &self,
        name: &ImageName,
        most: usize,
    ) -> sqlx::Result<Vec<BuildRow>> {
        let mut query = of_name(name);
        query.push(" ORDER BY b.created_at DESC, b.id DESC LIMIT ");
        query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        query.build().fetch_all(&self.readers).await?.iter().map(read).collect()
    }

    /// The build that made the image of this name: the first that did not find it there, of those with this digest
    /// where it is known.
    pub(in crate::web) async fn maker(
        &self,
        name: &ImageName,
        digest: Option<Digest>,
    ) -> sqlx::Result<Option<BuildRow>> {
        let mut query = of_name(name);
        query.push(" AND b.reused = 0");
        if let Some(digest) = digest {
            query.push(" AND b.digest = ").push_bind(digest.to_string());
        }
        query.push(" ORDER BY b.created_at, b.id LIMIT 1");
        query.build().fetch_optional(&self.readers).await?.as_ref().map(read).transpose()
    }

    /// The newest build before `made` with another image of its line than `made` has, and than `digest`.
    pub(in crate::web) async fn predecessor(
        &self,
        made: &Build,
        variant: &str,
        digest: Option<Digest>,
    ) -> sqlx::Result<Option<BuildRow>> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE b.namespace = ").push_bind(made.namespace.to_string());
        query.push(" AND b.app = ").push_bind(made.app.to_string());
        query.push(" AND b.repository = ").push_bind(made.repository.to_string());
        query.push(" AND b.variant = ").push_bind(variant.to_owned());
        query.push(" AND (b.created_at, b.id) < (").push_bind(millis(made.created_at));
        query.push(", ").push_bind(made.id.to_string()).push(")");
        for other in made.digest.into_iter().chain(digest) {
            query.push(" AND b.digest <> ").push_bind(other.to_string());
        }
        query.push(" AND b.state = 'published' ORDER BY b.created_at DESC, b.id DESC LIMIT 1");
        query.build().fetch_optional(&self.readers).await?.as_ref().map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_image_is_found_by_its_commit() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        let name =
            ImageName { repository: "acme/shop.fake".parse().unwrap(), tag: "a".repeat(40).parse().unwrap() };
        let query = of_name(&name).into_sql();
        let plan = sqlx::AssertSqlSafe(format!(
            "EXPLAIN QUERY PLAN {} ORDER BY b.created_at DESC, b.id DESC",
            query.as_str()
        ));
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(plan).fetch_all(&database.readers).await.unwrap();
        assert!(plan[0].3.contains("builds_by_app_and_commit"), "{plan:?}");
        assert!(!plan.iter().any(|step| step.3.contains("TEMP B-TREE")), "{plan:?}");
        database.close().await;
    }
}
