//! `buildgrid cancel`: asks for the end of a build.

use std::io::Write;

use anyhow::anyhow;

use super::exit::{Exit, Failure};
use super::follow;
use super::service::{self, explain_build};
use crate::config::Config;
use crate::event::deploy::BuildId;
use crate::timeline::client::TimelineClient;
use crate::timeline::protocol::{Build, BuildState};

/// End a build
///
/// A build that no worker has ends at once; a worker is told within seconds. One that is cancelled already is a
/// success; one that has ended in another way cannot be cancelled: exit code 2. With --wait, 0 means that it is
/// cancelled.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  buildgrid cancel 0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11 --wait")]
pub struct Args {
    /// The build's id, in full
    id: BuildId,
    /// Wait until it has ended
    #[arg(long)]
    wait: bool,
    /// Print JSON: the build, once more at its end with --wait
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    execute(args, &service::needed(config).await?, &mut super::output::stdout()).await
}

/// As [`run`], asking `client` and writing to `out`.
pub async fn execute(
    Args { id, wait, json }: Args,
    client: &TimelineClient,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let mut last = client.cancel(&id).await.map_err(explain_build)?;
    tell(&last, json, out)?;
    if wait && !last.state.is_final() {
        follow::states(client, [id.clone()], |build| {
            last = build.clone();
            Ok(())
        })
        .await?;
        tell(&last, json, out)?;
    }
    match last.state {
        state if state.is_final() && state != BuildState::Cancelled => {
            let ended = anyhow!("build {id} has ended before it could be cancelled: it is {state}");
            Err(Failure::new(Exit::Usage, ended))
        }
        _ => Ok(Exit::Done),
    }
}

fn tell(build: &Build, json: bool, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    match json {
        true => writeln!(out, "{}", serde_json::to_string(build)?)?,
        false if build.state.is_final() => writeln!(out, "{}  {}", build.id, build.state)?,
        false => writeln!(out, "{}  {}, to be cancelled", build.id, build.state)?,
    }
    out.flush()?;
    Ok(())
}
