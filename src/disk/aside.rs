//! Work on file systems that may hang, on threads whose end nobody has to wait for.

use std::io;

use tokio::sync::oneshot;

/// Begins `work`, which may block for ever, on a thread of its own, called `name` (of which Linux keeps 15
/// bytes). The runtime's blocking threads will not do: it waits for them before the program ends. This one is cut
/// off then, wherever it is.
///
/// # Errors
/// Where the system gives no thread. What is received is one where `work` has panicked.
pub fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (tell, done) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || drop(tell.send(work())))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_runtime_ends_while_it_hangs() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        // A FIFO that nobody writes to keeps whoever opens it waiting, in the kernel, as a dead disk does.
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let opened = fifo.clone();
        let mut open = aside("hangs", || std::fs::File::open(opened)).unwrap();
        let began = Instant::now();
        drop(runtime);
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(open.try_recv().is_err(), "it still hangs");
        std::fs::File::options().write(true).open(&fifo).unwrap();
        open.blocking_recv().unwrap().unwrap();
    }

    #[test]
    fn a_panic_is_received() {
        assert!(aside("panics", || assert!(std::env::args().count() == 0)).unwrap().blocking_recv().is_err());
    }
}
