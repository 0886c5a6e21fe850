//! `buildgrid logs`: a build's log, whole or live.

use std::io::Write;

use futures::TryStreamExt;

use super::exit::{Exit, Failure};
use super::follow;
use super::progress::Progress;
use super::service::{self, explain, explain_build};
use crate::config::Config;
use crate::event::deploy::BuildId;
use crate::timeline::client::{LogFilter, TimelineClient};
use crate::timeline::entry::{LogEntry, Stream};
use crate::timeline::protocol::AttemptId;

/// Show the log of a build
///
/// Without --follow, what is there is printed, and the exit code is 0. With it, the log is shown until the
/// build ends, also over a lost connection, and the exit code is the build's: 0 published, 10 failed,
/// 11 rejected, 12 cancelled, 13 infrastructure.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  buildgrid logs 0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11 --follow
  buildgrid logs 0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11 -q error
  buildgrid logs 0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11 --json | jq -r .text")]
pub struct Args {
    /// The build's id, in full
    id: BuildId,
    /// Show the log live, to the build's end
    #[arg(short, long)]
    follow: bool,
    /// The log of this attempt; by default of the one that counts
    #[arg(long, value_name = "ID")]
    attempt: Option<AttemptId>,
    /// Only lines that this worker or node wrote
    #[arg(long)]
    server: Option<String>,
    /// Only lines of this service, and those of the build itself
    #[arg(long)]
    service: Option<String>,
    /// Only lines of this pod
    #[arg(long)]
    pod: Option<String>,
    /// Only lines of this step, as the log names it: "[2/4] RUN make"
    #[arg(long)]
    step: Option<String>,
    /// Only lines of stdout, of stderr, or BuildGrid's own (status)
    #[arg(long, value_parser = stream)]
    stream: Option<Stream>,
    /// Only lines that have these words, whatever their case
    #[arg(short = 'q', long = "search", value_name = "WORDS")]
    words: Option<String>,
    /// Only lines after the one with this seq
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Print JSON, one log entry a line
    #[arg(long)]
    json: bool,
}

fn stream(text: &str) -> Result<Stream, String> {
    serde_json::from_value(text.into()).map_err(|_| "there are stdout, stderr and status".to_owned())
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let client = service::needed(config).await?;
    // The log is what was asked for; beside JSON, words would not be JSON.
    let mut progress = if args.json { Progress::on_stderr() } else { Progress::on_stdout() };
    execute(args, &client, &mut std::io::stdout(), &mut progress).await
}

/// As [`run`], asking `client`; JSON goes to `out`, everything else to `progress`.
pub async fn execute(
    args: Args,
    client: &TimelineClient,
    out: &mut (dyn Write + Send),
    progress: &mut Progress,
) -> Result<Exit, Failure> {
    let Args { id, follow, attempt, server, service, pod, step, stream, words, after, json } = args;
    let filter = LogFilter { attempt, server, service, pod, step, stream, words, after };
    let mut show = |progress: &mut Progress, entry: &LogEntry| -> std::io::Result<()> {
        match json {
            true => {
                let json = serde_json::to_string(entry)?;
                match writeln!(out, "{json}").and_then(|()| out.flush()) {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                        progress.leave();
                        Ok(())
                    }
                    written => written,
                }
            }
            false => {
                progress.entry(entry);
                Ok(())
            }
        }
    };
    if follow {
        let build = follow::log(client, &id, &filter, progress, show).await?;
        progress.whole()?;
        return Ok(Exit::of_build(build.state, build.kind));
    }
    let unknown = if filter.attempt.is_none() { explain_build } else { explain };
    let mut entries = std::pin::pin!(client.log(&id, &filter).await.map_err(unknown)?);
    while let Some(entry) = entries.try_next().await.map_err(explain)? {
        show(progress, &entry)?;
        if progress.is_gone() {
            break;
        }
    }
    progress.whole()?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn ids_and_streams_are_checked_before_anything_is_asked() {
        let parses = |line: &str| Program::try_parse_from(format!("logs {line}").split_whitespace());
        let args = parses("b-1 -f -q error --stream stderr --after 7").unwrap().args;
        assert!(args.follow && args.stream == Some(Stream::Stderr) && args.after == Some(7));
        for wrong in ["", "b/1", "b-1 --stream err", "b-1 --attempt 1", "b-1 --after x"] {
            assert!(parses(wrong).is_err(), "{wrong}");
        }
    }
}
