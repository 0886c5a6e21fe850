//! `buildgrid rebuild`: builds the commit of an earlier build again.

use std::io::Write;

use super::exit::{Exit, Failure};
use super::follow;
use super::progress::Progress;
use super::service::{self, explain_build};
use crate::config::Config;
use crate::event::deploy::BuildId;
use crate::timeline::client::TimelineClient;

/// Build the same commit again
///
/// A new build of the same event, which replaces the image at its name. With --follow the exit code is the
/// build's: 0 published, 10 failed, 11 rejected, 12 cancelled, 13 infrastructure.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The new build's id goes to standard output; with --follow the log goes to standard error, and the image's
URL alone to standard output.

Example:
  buildgrid rebuild 0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11 --follow")]
pub struct Args {
    /// The id of the build to repeat, in full
    id: BuildId,
    /// Show the new build's log live, to its end
    #[arg(short, long)]
    follow: bool,
    /// Print JSON: the new build, with --follow at its end
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let client = service::needed(config).await?;
    execute(args, &client, &mut super::output::stdout(), &mut Progress::on_stderr()).await
}

/// As [`run`], asking `client`; the log goes to `progress`, everything else to `out`.
pub async fn execute(
    Args { id, follow, json }: Args,
    client: &TimelineClient,
    out: &mut (dyn Write + Send),
    progress: &mut Progress,
) -> Result<Exit, Failure> {
    let build = client.rebuild(&id).await.map_err(explain_build)?;
    match (follow, json) {
        (true, _) => {
            progress.note(&format!("build {} of {}/{}", build.id, build.namespace, build.app));
            return follow::to_the_end(client, &build.id, progress, out, json).await;
        }
        (false, true) => writeln!(out, "{}", serde_json::to_string(&build)?)?,
        (false, false) => writeln!(out, "{}", build.id)?,
    }
    Ok(Exit::Done)
}
