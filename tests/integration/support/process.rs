//! Programs that a test runs to their end.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

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
