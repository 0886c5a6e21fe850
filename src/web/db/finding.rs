//! Builds by what somebody has of them: the beginning of a commit or digest, the id of a deploy. Each is looked for
//! within the namespaces of who asks, by an index, so that what others have neither slows nor hides anything.

use sqlx::{QueryBuilder, Sqlite};

use super::builds::{BuildRow, SELECT, read};
use super::open::Database;
use super::selection::only;

/// Images of a name, and of a variant (`None`: of any): what follows the commit in their tags.
pub(in crate::web) struct Line<'a> {
    pub app: &'a str,
    pub repository: &'a str,
    pub variant: Option<&'a str>,
}

/// The namespaces one by one, or all at once.
fn each(namespaces: Option<&[String]>) -> Vec<Option<&String>> {
    namespaces.map_or_else(|| vec![None], |names| names.iter().map(Some).collect())
}

/// Adds that a column begins with `prefix`, which ends in a hex digit.
fn begins(query: &mut QueryBuilder<Sqlite>, column: &str, prefix: &str) {
    query.push(format!(" {column} >= ")).push_bind(prefix.to_owned());
    // After every hex digit.
    query.push(format!(" AND {column} < ")).push_bind(format!("{prefix}g"));
}

impl Database {
    /// The first `most` commits that begin with `prefix`, in lower-case hex, of builds in these namespaces (`None`:
    /// all), in their order.
    pub(in crate::web) async fn commits_like(
        &self,
        prefix: &str,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<String>> {
        let mut commits: Vec<String> = Vec::new();
        for namespace in each(namespaces) {
            // From one commit to the next: one may have any number of builds.
            let mut after = String::new();
            for _ in 0..most {
                let mut query = QueryBuilder::<Sqlite>::new("SELECT min(commit_id) FROM builds WHERE");
                begins(&mut query, "commit_id", prefix);
                query.push(" AND commit_id > ").push_bind(after.clone());
                if let Some(namespace) = namespace {
                    query.push(" AND namespace = ").push_bind(namespace.clone());
                }
                let next: Option<String> = query.build_query_scalar().fetch_one(&self.readers).await?;
                let Some(next) = next else { break };
                commits.push(next.clone());
                after = next;
            }
        }
        commits.sort_unstable();
        commits.dedup();
        commits.truncate(most);
        Ok(commits)
    }

    /// The builds of a commit in these namespaces (`None`: all), newest first.
    pub(in crate::web) async fn builds_of_commit(
        &self,
        commit: &str,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<BuildRow>> {
        self.newest_where("b.commit_id", commit, None, namespaces, most).await
    }

    /// The builds of a commit that made an image of this line, as [`builds_of_commit`](Self::builds_of_commit): one
    /// commit of a repository with many apps has many others.
    pub(in crate::web) async fn images_of_commit(
        &self,
        commit: &str,
        line: &Line<'_>,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<BuildRow>> {
        self.newest_where("b.commit_id", commit, Some(line), namespaces, most).await
    }

    /// The builds that are for a deploy of this id, in these namespaces (`None`: all), newest first.
    pub(in crate::web) async fn builds_of_any_deploy(
        &self,
        deploy: &str,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<BuildRow>> {
        self.newest_where("b.deploy_id", deploy, None, namespaces, most).await
    }

    async fn newest_where(
        &self,
        column: &str,
        value: &str,
        line: Option<&Line<'_>>,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<BuildRow>> {
        let mut found = Vec::new();
        for namespace in each(namespaces) {
            let mut query = QueryBuilder::<Sqlite>::new(SELECT);
            query.push(format!(" WHERE {column} = ")).push_bind(value.to_owned());
            if let Some(namespace) = namespace {
                query.push(" AND b.namespace = ").push_bind(namespace.clone());
            }
            if let Some(line) = line {
                // By the commit: `|| ''` is no index's, and a line has the images of all commits.
                query.push(" AND b.variant IS NOT NULL AND b.app || '' = ").push_bind(line.app.to_owned());
                query.push(" AND b.repository || '' = ").push_bind(line.repository.to_owned());
                if let Some(variant) = line.variant {
                    query.push(" AND b.variant || '' = ").push_bind(variant.to_owned());
                }
            }
            query.push(" ORDER BY b.created_at DESC, b.id DESC LIMIT ");
            query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
            let rows = query.build().fetch_all(&self.readers).await?;
            found.extend(rows.iter().map(read).collect::<sqlx::Result<Vec<_>>>()?);
        }
        found.sort_by_cached_key(|row: &BuildRow| {
            std::cmp::Reverse((row.build.created_at, row.build.id.clone()))
        });
        found.truncate(most);
        Ok(found)
    }

    /// Builds in these namespaces (`None`: all) that ended with an image whose digest begins with `prefix`.
    pub(in crate::web) async fn builds_of_digest(
        &self,
        prefix: &str,
        namespaces: Option<&[String]>,
        most: usize,
    ) -> sqlx::Result<Vec<BuildRow>> {
        let mut found = Vec::new();
        for namespace in each(namespaces) {
            let mut query = QueryBuilder::<Sqlite>::new(SELECT);
            query.push(" WHERE");
            begins(&mut query, "b.digest", prefix);
            only(&mut query, "b.namespace", namespace.map(std::slice::from_ref));
            query.push(" ORDER BY b.digest, b.id LIMIT ");
            query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
            let rows = query.build().fetch_all(&self.readers).await?;
            found.extend(rows.iter().map(read).collect::<sqlx::Result<Vec<_>>>()?);
        }
        found.truncate(most);
        Ok(found)
    }
}
