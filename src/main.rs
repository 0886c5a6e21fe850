//! Parses the command line, runs the command, ends with its exit code.

use std::process::ExitCode;

use buildgrid::cli::exit::{Exit, Failure};
use buildgrid::cli::{self, Cli};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = prepare().and_then(|runtime| runtime.block_on(cli::run(cli)));
    match ended {
        Ok(exit) => exit.into(),
        Err(Failure { exit, error }) => {
            eprintln!("error: {error:#}");
            exit.into()
        }
    }
}

/// What must be done before the first thread starts.
fn prepare() -> Result<tokio::runtime::Runtime, Failure> {
    // One TLS stack for broker, engine, git and web; it must be chosen before its first use.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err(Failure::new(Exit::Internal, anyhow::anyhow!("another TLS provider is installed")));
    }
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
