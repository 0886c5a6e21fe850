//! An SSH server of a test's own: Debian's sshd on a loopback port, with one host key and one key that may log in.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::address::free_address;
use super::process::output;

pub struct Sshd {
    pub port: u16,
    /// Who may log in.
    pub user: String,
    child: Child,
    folder: TempDir,
}

impl Sshd {
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        for key in ["host", "user", "stranger"] {
            make_key(&folder.path().join(key), &["-t", "ed25519"]);
        }
        make_key(&folder.path().join("other-host"), &["-t", "ecdsa", "-b", "384"]);
        let port = free_address().port();
        let path = folder.path().display();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {path}/host\nHostKey {path}/other-host\n\
             AuthorizedKeysFile {path}/user.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\nSetEnv PATH={}\n",
            std::env::var("PATH").unwrap()
        );
        fs::write(folder.path().join("sshd_config"), config).unwrap();
        // sshd gives up its rights in there; a machine without systemd has made it only if its service ran.
        if !Path::new("/run/sshd").exists() {
            output(super::process::as_root("mkdir").args(["-p", "/run/sshd"]));
        }
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(folder.path().join("sshd_config"))
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .expect("sshd starts (package openssh-server)");
        let sshd = Self { port, user: output(Command::new("id").arg("-un")), child, folder };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "sshd does not listen: {}", sshd.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        sshd
    }

    /// The URL of a repository at an absolute path.
    pub fn url(&self, path: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", self.user, self.port, path.display())
    }

    /// A private key: `user`, which may log in, or `stranger`, which may not.
    pub fn key(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A line of known_hosts with the server's key `host`, or `other-host`, or another one.
    pub fn known(&self, key: &str) -> String {
        let public = fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        format!("[127.0.0.1]:{} {public}", self.port)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn make_key(path: &Path, kind: &[&str]) {
    output(Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "test"]).args(kind).arg("-f").arg(path));
}
