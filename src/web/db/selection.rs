//! Which builds a list shows, as a query that an index answers.

use sqlx::{QueryBuilder, Sqlite};
use time::OffsetDateTime;

use super::millis;
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::BuildState;

/// Behind every character: the end of a range of texts with one beginning.
pub(super) const LAST: char = '\u{10ffff}';

/// Where something stands in a list: its time in milliseconds, then its id.
pub(in crate::web) type Place = (i64, String);

/// Which builds a list shows, newest first.
#[derive(Debug, Clone, Default)]
pub(in crate::web) struct Selection {
    /// `None` for all; else only these.
    pub namespaces: Option<Vec<String>>,
    pub app: Option<(Namespace, AppName)>,
    pub namespace: Option<Namespace>,
    pub service: Option<String>,
    pub state: Option<BuildState>,
    /// A full ref, or the name of a branch.
    pub git_ref: Option<String>,
    /// The beginning of a commit's id, in lower-case hex.
    pub commit: Option<String>,
    pub deploy_id: Option<String>,
    /// Only those before this one, by time and id.
    pub before: Option<Place>,
}

impl Selection {
    /// The query that takes its columns and tables from `select`, where `b` are the builds.
    pub(super) fn query(
        &self,
        select: &'static str,
        most: usize,
        now: OffsetDateTime,
    ) -> QueryBuilder<Sqlite> {
        let mut query = QueryBuilder::<Sqlite>::new(select);
        // In the order of the services' own index, which has few rows where a service has few builds.
        let by_service = self.app.as_ref().zip(self.service.as_ref());
        if by_service.is_some() {
            query.push(" JOIN build_services s ON s.build_id = b.id");
        }
        query.push(" WHERE 1 = 1");
        if let Some(((namespace, app), service)) = by_service {
            query.push(" AND s.namespace = ").push_bind(namespace.to_string());
            query.push(" AND s.app = ").push_bind(app.to_string());
            query.push(" AND s.service = ").push_bind(service.clone());
        }
        let (column, id_column) = match by_service {
            Some(_) => ("s.created_at", "s.build_id"),
            None => ("b.created_at", "b.id"),
        };
        only(&mut query, "b.namespace", self.namespaces.as_deref());
        let mut equal = |column: &str, value: Option<String>| {
            if let Some(value) = value {
                query.push(" AND b.").push(column).push(" = ").push_bind(value);
            }
        };
        equal("namespace", self.namespace.as_ref().map(ToString::to_string));
        equal("namespace", self.app.as_ref().map(|(namespace, _)| namespace.to_string()));
        equal("app", self.app.as_ref().map(|(_, app)| app.to_string()));
        equal("deploy_id", self.deploy_id.clone());
        match self.state {
            None => {}
            // Not a state that is kept, but one that has ceased to be true.
            Some(BuildState::Interrupted) => {
                query.push(" AND b.state IN ('claimed', 'fetching', 'building', 'publishing')");
                query.push(" AND coalesce(b.lease_until, 0) <= ").push_bind(millis(now));
                query.push(" AND b.cancel_requested_at IS NULL");
            }
            Some(BuildState::Cancelled) => {
                query.push(" AND (b.state = 'cancelled' OR (b.cancel_requested_at IS NOT NULL");
                query.push(" AND b.state IN ('claimed', 'fetching', 'building', 'publishing')");
                query.push(" AND coalesce(b.lease_until, 0) <= ").push_bind(millis(now)).push("))");
            }
            Some(state) => {
                query.push(" AND b.state = ").push_bind(state.as_str());
                if state.is_running() {
                    query.push(" AND b.lease_until > ").push_bind(millis(now));
                }
            }
        }
        if let (Some(service), None) = (&self.service, by_service) {
            query
                .push(" AND EXISTS (SELECT 1 FROM build_services s WHERE s.build_id = b.id AND s.service = ");
            query.push_bind(service.clone()).push(")");
        }
        match &self.git_ref {
            None => {}
            Some(full) if full.starts_with("refs/") => {
                query.push(" AND b.git_ref = ").push_bind(full.clone());
            }
            Some(short) => {
                query.push(" AND b.git_ref IN (").push_bind(short.clone());
                query.push(", ").push_bind(format!("refs/heads/{short}"));
                query.push(", ").push_bind(format!("refs/tags/{short}")).push(")");
            }
        }
        if let Some(commit) = &self.commit {
            query.push(" AND b.commit_id >= ").push_bind(commit.clone());
            // After every hex digit.
            query.push(" AND b.commit_id < ").push_bind(format!("{commit}g"));
        }
        if let Some((at, id)) = &self.before {
            query.push(format!(" AND ({column}, {id_column}) < (")).push_bind(*at);
            query.push(", ").push_bind(id.clone()).push(")");
        }
        query.push(format!(" ORDER BY {column} DESC, {id_column} DESC LIMIT "));
        query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        query
    }
}

/// Leaves only the rows of these namespaces; `None`: of all.
pub(super) fn only(query: &mut QueryBuilder<Sqlite>, column: &str, namespaces: Option<&[String]>) {
    let Some(namespaces) = namespaces else { return };
    query.push(" AND ").push(column).push(" IN (NULL");
    for namespace in namespaces {
        query.push(", ").push_bind(namespace.clone());
    }
    query.push(")");
}
