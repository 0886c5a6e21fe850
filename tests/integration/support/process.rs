//! Programs that a test runs to their end.

use std::process::{Command, Stdio};

/// What a program wrote, both outputs together, and whether it succeeded.
pub struct Ran {
    pub success: bool,
    pub output: String,
}

/// Runs a program with `input`, on a thread that may block.
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
