//! Git repositories made for a test, and the real git server (`scripts/git-serve`) they are fetched from.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::process::output;

/// The moment of every commit made here: 2026-01-02 03:04:05 UTC.
pub const COMMIT_TIME: i64 = 1_767_323_045;

/// A git server over smart HTTP on a free loopback port, and the folder it serves. Dropping it stops
/// the server and removes the repositories.
pub struct GitServer {
    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub url: String,
    child: Child,
    folder: TempDir,
}

impl GitServer {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further options of `scripts/git-serve`.
    pub fn with(options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let served = folder.path().join("served");
        std::fs::create_dir(&served).unwrap();
        let mut child = Command::new(project("scripts/git-serve"))
            .arg("--until-eof")
            .args(options)
            .arg(&served)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/git-serve starts (it needs python3)");
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        assert!(url.contains("://127.0.0.1:"), "scripts/git-serve said {url:?}");
        Self { url, child, folder }
    }

    /// The folder that repositories are served from.
    pub fn served(&self) -> PathBuf {
        self.folder.path().join("served")
    }

    /// A repository with one commit, the content of `fixtures/repos/<fixture>`, at `<url>/<fixture>.git`.
    pub fn fixture(&self, fixture: &str) -> Repository {
        let repository = self.empty(fixture);
        let source = project(&format!("fixtures/repos/{fixture}"));
        assert!(source.is_dir(), "{} is missing", source.display());
        output(Command::new("cp").arg("-a").arg(format!("{}/.", source.display())).arg(&repository.work));
        repository.commit(&format!("Add {fixture}"));
        repository
    }

    /// A repository without a commit, at `<url>/<name>.git`.
    pub fn empty(&self, name: &str) -> Repository {
        let work = self.folder.path().join("work").join(name);
        let bare = self.served().join(format!("{name}.git"));
        for (path, options) in [(&work, &["-q"][..]), (&bare, &["-q", "--bare"])] {
            std::fs::create_dir_all(path).unwrap();
            output(git(path).args(["init", "--initial-branch=main"]).args(options));
        }
        Repository { url: format!("{}/{name}.git", self.url), work, bare }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A repository on the server, with the working tree that its commits are made from.
pub struct Repository {
    pub url: String,
    /// The working tree: write files here, then [`commit`](Self::commit).
    pub work: PathBuf,
    /// The bare repository that is served.
    pub bare: PathBuf,
}

impl Repository {
    /// Commits the whole working tree with a fixed author and time, pushes it as `main` and returns
    /// the commit's id.
    pub fn commit(&self, subject: &str) -> String {
        self.git(&["add", "--all", "--force"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", subject]);
        self.push("HEAD:refs/heads/main");
        self.head()
    }

    /// Pushes a refspec to the served repository, by force.
    pub fn push(&self, refspec: &str) {
        self.git(&["push", "--quiet", "--force", self.bare.to_str().unwrap(), refspec]);
    }

    /// Makes a submodule of a commit of another repository, as far as the next commit here is concerned.
    pub fn submodule(&self, path: &str, url: &str, commit: &str) {
        self.link(path, commit);
        let modules = self.work.join(".gitmodules");
        let before = std::fs::read_to_string(&modules).unwrap_or_default();
        std::fs::write(modules, format!("{before}[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n"))
            .unwrap();
    }

    /// Puts a submodule's commit into the index.
    pub fn link(&self, path: &str, commit: &str) {
        std::fs::create_dir_all(self.work.join(path)).unwrap();
        self.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]);
    }

    /// The id of the working tree's commit.
    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// Writes a file into the working tree, folders included.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.work.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Whether the server gives out a commit by its id to a client of protocol version 0, as GitHub
    /// and GitLab do and git does not by default.
    pub fn serve_commits_by_id(&self, allowed: bool) {
        let value = if allowed { "true" } else { "false" };
        output(git(&self.bare).args(["config", "uploadpack.allowReachableSHA1InWant", value]));
    }

    /// Runs git in the working tree and returns what it printed, trimmed.
    pub fn git(&self, arguments: &[&str]) -> String {
        output(git(&self.work).args(arguments))
    }
}

/// git in a folder, blind to the configuration of the machine and its user.
pub fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "Ada Lovelace"), ("GIT_AUTHOR_EMAIL", "ada@example.com")])
        .envs([("GIT_COMMITTER_NAME", "Ada Lovelace"), ("GIT_COMMITTER_EMAIL", "ada@example.com")])
        .env("GIT_AUTHOR_DATE", format!("{COMMIT_TIME} +0000"))
        .env("GIT_COMMITTER_DATE", format!("{COMMIT_TIME} +0000"));
    command
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
