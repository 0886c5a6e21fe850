//! What a service manager hears: a test listens on the socket that programs send their words to.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

use super::patience::until;

pub struct Systemd {
    folder: tempfile::TempDir,
    heard: Arc<Mutex<Vec<String>>>,
    listening: JoinHandle<()>,
}

impl Systemd {
    /// Needs a tokio runtime.
    pub fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let words = heard.clone();
        let listening = tokio::spawn(async move {
            let mut datagram = [0; 8192];
            while let Ok(length) = socket.recv(&mut datagram).await {
                let text = String::from_utf8_lossy(&datagram[..length]);
                words.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Self { folder, heard, listening }
    }

    /// Lets a program that is about to be started talk to it, and expects a word in every `watchdog`.
    pub fn starts(&self, command: &mut Command, watchdog: Duration) {
        command.env("NOTIFY_SOCKET", self.socket()).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        command.env_remove("WATCHDOG_PID");
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// Everything that was said, in its order.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    pub fn count(&self, word: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|heard| heard.contains(word)).count()
    }

    /// Waits until something with `word` in it is said, `more` times from now on.
    pub async fn hears(&self, word: &str, more: usize) {
        let before = self.count(word);
        until(&format!("the program says {word:?}"), || self.count(word) >= before + more).await;
    }

    /// Waits until something with `word` in it has been said.
    pub async fn has_heard(&self, word: &str) {
        until(&format!("the program says {word:?}; so far {:?}", self.heard()), || self.count(word) > 0)
            .await;
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
