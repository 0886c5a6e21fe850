//! `buildgrid up` on a data directory and ports of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use buildgrid::timeline::protocol::{BuildDetail, BuildState};
use buildgrid::up::Announcement;
use reqwest::Method;

use super::address::free_address;
use super::patience::{in_time, until};
use super::process::buildgrid;

/// One data directory, and addresses for what runs on it.
pub struct Machine {
    pub folder: tempfile::TempDir,
    pub registry: String,
}

/// A running `buildgrid up`; killed when the test ends.
pub struct Up {
    child: Child,
    pub announcement: Announcement,
    /// What it said.
    greeting: PathBuf,
}

impl Machine {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let marks = "[disk]\nhigh = \"100%\"\nlow = \"99%\"\n";
        std::fs::write(folder.path().join("worker-config.toml"), marks).unwrap();
        Self { folder, registry: free_address().to_string() }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A command on this machine.
    pub fn command_of(&self, name: &str) -> Command {
        let mut command = buildgrid(&self.folder.path().join("worker-config.toml"));
        command.arg(name).env("BUILDGRID_UP__DATA_DIR", self.data_dir());
        command
    }

    pub fn command(&self) -> Command {
        let mut command = self.command_of("up");
        command.env("BUILDGRID_ENGINE__HOST", "none");
        command.env("BUILDGRID_REGISTRY__HOST", &self.registry);
        command.env("BUILDGRID_REGISTRY__LISTEN", &self.registry);
        command.env("BUILDGRID_TIMELINE__LISTEN", "127.0.0.1:0");
        command.env("BUILDGRID_WORKER__STATUS_LISTEN", "127.0.0.1:0");
        command
    }

    /// Runs one that must not come up.
    pub fn refused(&self, address: (&str, &str)) -> Output {
        self.command().env(address.0, address.1).output().unwrap()
    }

    /// Starts it, and waits until it is ready.
    pub async fn start(&self) -> Up {
        self.start_as(self.command()).await
    }

    /// As [`start`](Self::start), by this command.
    pub async fn start_as(&self, mut command: Command) -> Up {
        let greeting = self.folder.path().join("greeting");
        let said = std::fs::File::create(&greeting).unwrap();
        let child = command.stdout(said).stderr(Stdio::inherit()).spawn().unwrap();
        let mut found = None;
        until("it says where it is", || {
            found = Announcement::read(&self.data_dir()).unwrap().filter(|found| found.pid == child.id());
            found.is_some()
        })
        .await;
        let up = Up { child, announcement: found.unwrap(), greeting };
        let page = format!("http://{}/readyz", up.announcement.status);
        in_time("it is ready", async {
            while !reqwest::get(&page).await.is_ok_and(|answer| answer.status().is_success()) {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
        until("it has said so", || up.said().contains("Try it")).await;
        up
    }
}

impl Up {
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.greeting).unwrap()
    }

    /// The password of the user `admin`, which it says at its first start.
    pub fn password(&self) -> String {
        let said = self.said();
        let password = said.split("admin, password ").nth(1).unwrap_or_else(|| panic!("{said}"));
        password.split_whitespace().next().unwrap().to_owned()
    }

    /// What commands on this machine ask.
    pub async fn call(&self, method: Method, path: &str, body: String) -> reqwest::Response {
        let token = std::fs::read_to_string(&self.announcement.token_file).unwrap();
        let url = format!("{}/api/v1/{path}", self.announcement.url);
        let call = reqwest::Client::new().request(method, url).bearer_auth(token.trim()).body(body).send();
        in_time("an answer", call).await.unwrap()
    }

    pub async fn enqueue(&self, event: String) {
        assert_eq!(self.call(Method::POST, "builds", event).await.status().as_u16(), 202);
    }

    pub async fn until(&self, id: &str, wanted: impl Fn(&BuildDetail) -> bool) -> BuildDetail {
        in_time("the build is as it should be", async {
            loop {
                let answer = self.call(Method::GET, &format!("builds/{id}"), String::new()).await;
                let build: BuildDetail = answer.json().await.unwrap();
                if wanted(&build) {
                    return build;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await
    }

    pub async fn published(&self, id: &str) -> BuildDetail {
        self.until(id, |build| build.build.state == BuildState::Published).await
    }

    /// Sends a signal, waits for the end, and answers the exit code.
    pub async fn end(&mut self, signal: &str) -> Option<i32> {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        until("it ends", || self.child.try_wait().unwrap().is_some()).await;
        self.child.wait().unwrap().code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
