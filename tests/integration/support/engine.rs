//! A Docker engine of a test's own: it can be killed, frozen and started again, its disk be filled and its
//! cache pruned, which the engine that all tests share cannot.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::docker::BASE;
use super::patience::until;
use super::process::{as_root, output};

const OVERLAY2: &str = "--storage-driver=overlay2";
/// Where `scripts/setup` puts the engine of Debian 13.
const NEWER: &str = "/var/cache/buildgrid-test/debian-13";

/// In namespaces of its own, so that all of it (processes of steps, mounts, a bridge) is gone when its
/// first process is, which ends with its standard input, and so with the test. Each line of that is a start. With a
/// fourth argument, it is the engine that is installed in that directory.
const RUN: &str = r#"
    dockerd=dockerd
    if [ "$4" ]; then
        mount --make-rprivate /
        # A file system's root, as the engine expects to have.
        mount --bind "$4" "$4"
        for tree in proc sys dev; do mount --rbind "/$tree" "$4/$tree"; done
        mount -t tmpfs none "$4/run"
        # With the same name inside, since the engine says where its data is.
        mount -t tmpfs none "$4/tmp"
        mkdir -p "$4$1"
        mount --bind "$1" "$4$1"
        dockerd="chroot $4 dockerd"
    fi
    while read -r _; do
        $dockerd --data-root "$2" --exec-root "$1/run" --pidfile "$1/docker.pid" --host "unix://$1/docker.sock" \
            $3 --iptables=false --ip-forward=false --ip-masq=false \
            </dev/null >>"$1/log" 2>&1 &
        until [ -S "$1/docker.sock" ]; do sleep 0.05; done
        # For a test that is not root's.
        chmod 0666 "$1/docker.sock"
        echo >"$1/started"
    done
"#;

pub struct TestEngine {
    namespaces: Child,
    folder: TempDir,
    root: PathBuf,
}

impl TestEngine {
    /// Running, with the base image of the tests.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        Self::run(folder, &root, &[OVERLAY2], "").await
    }

    /// As [`start`](Self::start), with more options of dockerd, none of which has a space.
    pub async fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        Self::run(folder, &root, &[&[OVERLAY2], options].concat(), "").await
    }

    /// As [`start`](Self::start), on a disk of its own.
    pub async fn start_in(root: &Path) -> Self {
        Self::run(tempfile::tempdir().unwrap(), root, &[OVERLAY2], "").await
    }

    /// A newer engine than this machine's, of Debian 13, which keeps its images in containerd or has the storage driver
    /// overlay2.
    pub async fn start_newer(containerd: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        let config = folder.path().join("daemon.json");
        std::fs::write(&config, format!(r#"{{"features":{{"containerd-snapshotter":{containerd}}}}}"#))
            .unwrap();
        let config = format!("--config-file={}", config.display());
        let options = if containerd { vec![config.as_str()] } else { vec![config.as_str(), OVERLAY2] };
        Self::run(folder, &root, &options, NEWER).await
    }

    async fn run(folder: TempDir, root: &Path, options: &[&str], installed_in: &str) -> Self {
        let namespaces = as_root("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", RUN, "sh"])
            .arg(folder.path())
            .arg(root)
            .arg(options.join(" "))
            .arg(installed_in)
            .stdin(Stdio::piped())
            .spawn()
            .expect("unshare can be run");
        let mut engine = Self { namespaces, folder, root: root.to_owned() };
        engine.start_again().await;
        engine
    }

    /// Where it has its data.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The engine, as the configuration names it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Starts it with the data that it had, and waits until it has the base image of the tests.
    pub async fn start_again(&mut self) {
        let started = self.folder.path().join("started");
        let _ = std::fs::remove_file(&started);
        self.namespaces.stdin.as_mut().unwrap().write_all(b"start\n").unwrap();
        until("the engine has started", || started.exists()).await;
        let host = self.host();
        until("the engine answers", || {
            let version = Command::new("docker").env("DOCKER_HOST", &host).arg("version").output();
            version.unwrap().status.success()
        })
        .await;
        let base = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/base-image");
        output(Command::new(base).arg(BASE).env("DOCKER_HOST", &host));
    }

    /// Sends a signal to the engine alone, and not to what runs on it.
    pub fn signal(&self, signal: &str) {
        output(as_root("kill").args([signal, &self.id().to_string()]));
    }

    /// Kills the engine alone, and waits until it is gone.
    pub async fn kill(&self) {
        let process = format!("/proc/{}", self.id());
        self.signal("-KILL");
        output(as_root("rm").arg("-f").arg(self.socket()));
        until("the engine is gone", || {
            let state = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        })
        .await;
    }

    /// The process of dockerd, as this side of the namespaces knows it.
    fn id(&self) -> u32 {
        let socket = self.host();
        let processes = std::fs::read_dir("/proc").unwrap();
        let is_engine = |directory: &PathBuf| {
            let arguments = std::fs::read(directory.join("cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0);
            arguments.next() == Some(b"dockerd") && arguments.any(|one| one == socket.as_bytes())
        };
        let found = processes.flatten().map(|process| process.path()).find(is_engine);
        found.expect("the engine runs").file_name().unwrap().to_str().unwrap().parse().unwrap()
    }
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        drop(self.namespaces.stdin.take());
        let _ = self.namespaces.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the engine's last words:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        // Root's files.
        let _ = as_root("rm").arg("-rf").arg(self.folder.path()).status();
    }
}
