//! Which builds a list shows, as queries that indexes answer.

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
    /// `None` for all; else only these, each of which is asked by itself.
    pub namespaces: Option<Vec<String>>,
    pub app: Option<(Namespace, AppName)>,
    pub namespace: Option<Namespace>,
    /// With an app, a commit or a deploy: no index has the services, or the refs, of all.
    pub service: Option<String>,
    pub state: Option<BuildState>,
    /// A full ref, or the name of a branch or tag; as the service.
    pub git_ref: Option<String>,
    /// The beginning of a commit's id, in lower-case hex.
    pub commit: Option<String>,
    pub deploy_id: Option<String>,
    /// Only those before this one, by time and id.
    pub before: Option<Place>,
}

/// A part of a selection: what one index has in the order of time.
#[derive(Debug, Clone, Default)]
struct Branch {
    namespace: Option<String>,
    state: Option<(&'static str, Lease)>,
    git_ref: Option<String>,
}

/// What else must hold for a kept state to be shown as the wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Any,
    Live,
    Over,
    /// Over, and the end was asked for.
    OverAndCancelled,
}

impl Selection {
    /// The queries that together find it, each of which an index answers from its newest build on; with the columns
    /// and tables of `select`, where `b` are the builds.
    pub(super) fn queries(
        &self,
        select: &'static str,
        most: usize,
        now: OffsetDateTime,
    ) -> Vec<QueryBuilder<Sqlite>> {
        self.branches().iter().map(|branch| self.query(branch, select, most, now)).collect()
    }

    fn branches(&self) -> Vec<Branch> {
        let one = self.namespace.is_some() || self.app.is_some();
        let namespaces: Vec<Option<String>> = match &self.namespaces {
            // One by one, however many they are: what others have is not walked through.
            Some(names) if !one => names.iter().cloned().map(Some).collect(),
            _ => vec![None],
        };
        let refs: Vec<Option<String>> = match &self.git_ref {
            None => vec![None],
            Some(full) if full.starts_with("refs/") => vec![Some(full.clone())],
            Some(short) => ["refs/heads/", "refs/tags/", "refs/"]
                .iter()
                .map(|prefix| Some(format!("{prefix}{short}")))
                .collect(),
        };
        let mut branches = Vec::new();
        for namespace in &namespaces {
            for state in kept_as(self.state) {
                for git_ref in &refs {
                    let (namespace, git_ref) = (namespace.clone(), git_ref.clone());
                    branches.push(Branch { namespace, state, git_ref });
                }
            }
        }
        branches
    }

    fn query(
        &self,
        branch: &Branch,
        select: &'static str,
        most: usize,
        now: OffsetDateTime,
    ) -> QueryBuilder<Sqlite> {
        let mut query = QueryBuilder::<Sqlite>::new(select);
        // In the order of the services' own index, which has few rows where a service has few builds; but for what
        // is rare among a service's builds there are better ones.
        let usual = branch.git_ref.is_none() && self.state.is_none_or(|state| state == BuildState::Published);
        let by_service = self.app.as_ref().zip(self.service.as_ref()).filter(|_| usual);
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
        if branch.namespace.is_none() {
            // What is asked for has its index; `|| ''` is no other's.
            only(&mut query, "b.namespace || ''", self.namespaces.as_deref());
        }
        let mut equal = |column: &str, value: Option<String>| {
            if let Some(value) = value {
                query.push(" AND b.").push(column).push(" = ").push_bind(value);
            }
        };
        equal("namespace", branch.namespace.clone());
        equal("namespace", self.namespace.as_ref().map(ToString::to_string));
        equal("namespace", self.app.as_ref().map(|(namespace, _)| namespace.to_string()));
        equal("app", self.app.as_ref().map(|(_, app)| app.to_string()));
        equal("deploy_id", self.deploy_id.clone());
        equal("git_ref", branch.git_ref.clone());
        equal("state", branch.state.map(|(state, _)| state.to_owned()));
        match branch.state.map_or(Lease::Any, |(_, lease)| lease) {
            Lease::Any => {}
            Lease::Live => {
                query.push(" AND b.lease_until > ").push_bind(millis(now));
            }
            lease => {
                query.push(" AND coalesce(b.lease_until, 0) <= ").push_bind(millis(now));
                query.push(" AND b.cancel_requested_at IS ").push(match lease {
                    Lease::OverAndCancelled => "NOT NULL",
                    _ => "NULL",
                });
            }
        }
        if let (Some(service), None) = (&self.service, by_service) {
            query
                .push(" AND EXISTS (SELECT 1 FROM build_services s WHERE s.build_id = b.id AND s.service = ");
            query.push_bind(service.clone()).push(")");
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
        // Few builds are of one commit or deploy: they are found by that, and put in order.
        let found = self.commit.is_some() || self.deploy_id.is_some();
        let (time, text) = if found { (" + 0", " || ''") } else { ("", "") };
        query.push(format!(" ORDER BY {column}{time} DESC, {id_column}{text} DESC LIMIT "));
        query.push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        query
    }
}

/// How builds are kept that are shown in this state; `None`: in any.
fn kept_as(shown: Option<BuildState>) -> Vec<Option<(&'static str, Lease)>> {
    use BuildState as S;
    let running = |lease| {
        let running = [S::Claimed, S::Fetching, S::Building, S::Publishing];
        running.map(|state| Some((state.as_str(), lease))).to_vec()
    };
    match shown {
        None => vec![None],
        // Not a state that is kept, but one that has ceased to be true.
        Some(S::Interrupted) => running(Lease::Over),
        Some(S::Cancelled) => {
            let mut kept = running(Lease::OverAndCancelled);
            kept.push(Some((S::Cancelled.as_str(), Lease::Any)));
            kept
        }
        Some(state) => {
            vec![Some((state.as_str(), if state.is_running() { Lease::Live } else { Lease::Any }))]
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::db::Database;

    /// What SQLite does for a selection, step by step.
    async fn plan(database: &Database, selection: &Selection) -> Vec<String> {
        let select = "EXPLAIN QUERY PLAN SELECT b.* FROM builds b";
        let mut plan = Vec::new();
        for mut query in selection.queries(select, 41, OffsetDateTime::now_utc()) {
            let rows: Vec<(i64, i64, i64, String)> =
                query.build_query_as().fetch_all(&database.readers).await.unwrap();
            plan.extend(rows.into_iter().map(|(.., step)| step));
        }
        plan
    }

    #[tokio::test]
    async fn no_list_walks_through_the_history_or_sorts_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        let of_app = Selection {
            app: Some(("acme".parse().unwrap(), "shop".parse().unwrap())),
            ..Selection::default()
        };
        let namespaces = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
        let before = Some((7, "b-1".to_owned()));
        let mut asked = vec![
            of_app.clone(),
            Selection { service: Some("web".to_owned()), ..of_app.clone() },
            Selection { git_ref: Some("main".to_owned()), ..of_app.clone() },
            Selection { git_ref: Some("refs/tags/v1".to_owned()), before: before.clone(), ..of_app.clone() },
            Selection::default(),
            Selection { namespaces: namespaces(&["acme", "smoke"]), before, ..Selection::default() },
        ];
        let many: Vec<String> = (0..40).map(|number| format!("n-{number}")).collect();
        asked.push(Selection { namespaces: Some(many.clone()), ..Selection::default() });
        for &state in BuildState::ALL {
            let state = Some(state);
            asked.push(Selection { state, namespaces: Some(many.clone()), ..Selection::default() });
            asked.push(Selection { state, ..of_app.clone() });
            asked.push(Selection { state, git_ref: Some("main".to_owned()), ..of_app.clone() });
            asked.push(Selection { state, service: Some("web".to_owned()), ..of_app.clone() });
            asked.push(Selection { state, ..Selection::default() });
            asked.push(Selection { state, namespaces: namespaces(&["acme"]), ..Selection::default() });
            asked.push(Selection { state, namespace: "acme".parse().ok(), ..Selection::default() });
        }
        for selection in asked {
            let plan = plan(&database, &selection).await;
            // The newest of all builds are the beginning of an index.
            let all = selection.namespaces.is_none() && selection.namespace.is_none();
            let all = all && selection.app.is_none() && selection.state.is_none();
            let bad = |step: &String| {
                step.contains("TEMP B-TREE")
                    || (step.starts_with("SCAN b") && !(all && step.contains("builds_by_time")))
            };
            assert!(!plan.iter().any(bad), "{selection:?}: {plan:#?}");
            let by = |index: &str| plan.iter().all(|step| !step.contains(" b ") || step.contains(index));
            let rare = selection.state.is_some_and(|state| state != BuildState::Published);
            if rare && selection.git_ref.is_none() {
                assert!(by("state="), "{selection:?}: {plan:#?}");
            }
            if selection.git_ref.is_some() {
                assert!(by("git_ref="), "{selection:?}: {plan:#?}");
            }
        }
        // Few builds are of one deploy, and a commit's digits leave few: those may be sorted.
        let commit = Selection { commit: Some("abcd".to_owned()), ..of_app };
        let plan = plan(&database, &commit).await;
        assert!(plan[0].contains("commit_id>"), "{plan:#?}");
        database.close().await;
    }
}
