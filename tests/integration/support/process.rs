//! Programs that a test runs to their end.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The program, blind to the configuration of the machine and to the environment's.
pub fn buildgrid(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buildgrid"));
    command.arg("--config").arg(config).stdin(Stdio::null()).env_remove("JOURNAL_STREAM");
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"BUILDGRID_"))
    {
        command.env_remove(name);
    }
    command
}

/// A command that runs as root: by this user where it is root, else through sudo, which keeps nothing of
/// the environment.
pub fn as_root(program: &str) -> Command {
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

/// Runs a command that must succeed and answers what it printed, trimmed.
#[track_caller]
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("this test needs {command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a program wrote, both outputs together, and whether it succeeded.
pub struct Ran {
    pub success: bool,
    pub output: String,
}

/// Runs a command with `input`, however it ends, on a thread that may block.
pub async fn run(mut command: Command, input: &str) -> Ran {
    let input = input.to_owned();
    let run = move || {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs {name}: {error}"));
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let output = [done.stdout, done.stderr].concat();
        Ran { success: done.status.success(), output: String::from_utf8_lossy(&output).into_owned() }
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

impl Ran {
    /// The output of a program that must succeed.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert!(self.success, "{}", self.output);
        self.output
    }

    /// The output of a program that must fail.
    #[track_caller]
    pub fn failed(self) -> String {
        assert!(!self.success, "{}", self.output);
        self.output
    }
}

/// A server that a test starts, in a session of its own. It ends with the test, however that ends: its
/// shell, which may run as another user, is told by the end of its standard input.
pub struct Server(Child);

const SERVE: &str = r#"
    log=$1
    shift
    setsid "$@" </dev/null >>"$log" 2>&1 &
    cat >/dev/null
    kill -s KILL -- -$!
    wait
"#;

impl Server {
    /// Starts a command by `sh` (which [`as_root`] may make root's). What it says is appended to `log`.
    pub fn start(mut sh: Command, log: &std::path::Path, command: &[&str]) -> Self {
        sh.args(["-c", SERVE, "sh"]).arg(log).args(command);
        // A test that is ended from outside is ended with its process group, of which this must not be.
        sh.process_group(0);
        Self(sh.stdin(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it and all its children at once, as a crash of the machine does.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
