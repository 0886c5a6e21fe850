//! The connections that are served, each by a task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::task::{Id, JoinSet};

use super::visit::Visit;

/// How long nothing must have happened on a connection before it makes room for another: a request that has been sent
/// already is not to be lost.
const IDLE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Visits {
    tasks: JoinSet<()>,
    by_task: HashMap<Id, (IpNet, Arc<Visit>)>,
}

impl Visits {
    pub(super) fn begin<F>(&mut self, source: IpNet, serve: impl FnOnce(Arc<Visit>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let visit = Arc::new(Visit::new());
        let task = self.tasks.spawn(serve(visit.clone()));
        self.by_task.insert(task.id(), (source, visit));
    }

    /// Waits for one to end; answers its source. None if there is none.
    pub(super) async fn ended(&mut self) -> Option<IpNet> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.by_task.remove(&id).map(|(source, _)| source)
    }

    /// Those that have been idle for a while, the longest first, with those that are evicted and have not gone yet.
    pub(super) fn idle(&self) -> Vec<(IpNet, Arc<Visit>)> {
        let mut idle = Vec::new();
        for (source, visit) in self.by_task.values() {
            if let Some(since) = visit.idle_since().filter(|since| since.elapsed() >= IDLE) {
                idle.push((since, (*source, visit.clone())));
            }
        }
        idle.sort_by_key(|(since, _)| *since);
        idle.into_iter().map(|(_, visit)| visit).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Ends them all, wherever they are.
    pub(super) fn cut(&mut self) {
        self.tasks.abort_all();
    }
}
