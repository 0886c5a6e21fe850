//! Gates before the intake: each can stop it, for a reason that operators are told.

use tokio::sync::watch;

/// What must be right for events to be taken.
#[derive(Clone)]
pub struct Gate {
    /// What it is about: the name of its line in `/readyz`.
    pub name: &'static str,
    fault: watch::Receiver<Option<String>>,
}

/// Opens and closes a gate.
pub struct Keeper(watch::Sender<Option<String>>);

impl Gate {
    /// A gate as it stands at the start: closed for `fault`, or open.
    pub fn new(name: &'static str, fault: Option<String>) -> (Keeper, Self) {
        let (keeper, fault) = watch::channel(fault);
        (Keeper(keeper), Self { name, fault })
    }

    /// Why it is closed, if it is.
    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// Resolves once it is open.
    pub async fn open(&mut self) {
        self.until(Option::is_none).await;
    }

    /// Resolves once it is closed.
    pub async fn closed(&mut self) {
        self.until(Option::is_some).await;
    }

    /// One whose keeper has gone stays as it is.
    async fn until(&mut self, state: impl FnMut(&Option<String>) -> bool) {
        if self.fault.wait_for(state).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Keeper {
    /// Closes the gate for a reason, or opens it. Says whether it has turned: another reason is no turn.
    pub fn set(&self, fault: Option<String>) -> bool {
        let mut turned = false;
        self.0.send_if_modified(|now| {
            turned = now.is_some() != fault.is_some();
            let changed = *now != fault;
            *now = fault;
            changed
        });
        turned
    }
}

/// Resolves once all of them are open.
pub async fn all_open(gates: &mut [Gate]) {
    loop {
        for gate in &mut *gates {
            gate.open().await;
        }
        // One may have closed while another was waited for.
        if gates.iter().all(|gate| gate.fault().is_none()) {
            return;
        }
    }
}

/// Resolves once one of them is closed.
pub async fn any_closed(gates: &mut [Gate]) {
    let mut closed: Vec<_> = gates.iter_mut().map(|gate| Box::pin(gate.closed())).collect();
    match closed.is_empty() {
        true => std::future::pending().await,
        false => drop(futures::future::select_all(&mut closed).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn the_way_is_open_when_every_gate_is() {
        let (engine, a) = Gate::new("engine", Some("not asked yet".to_owned()));
        let (disk, b) = Gate::new("disk", None);
        let mut gates = [a, b];
        assert!(all_open(&mut gates).now_or_never().is_none());
        any_closed(&mut gates).await;

        assert!(engine.set(None));
        all_open(&mut gates).await;
        assert!(any_closed(&mut gates).now_or_never().is_none());

        assert!(disk.set(Some("95 % used".to_owned())));
        assert!(!disk.set(Some("96 % used".to_owned())), "closed already");
        any_closed(&mut gates).await;
        assert_eq!(gates[1].fault().as_deref(), Some("96 % used"));
    }

    #[tokio::test]
    async fn nothing_closes_a_way_without_gates() {
        all_open(&mut []).await;
        assert!(any_closed(&mut []).now_or_never().is_none());
    }
}
