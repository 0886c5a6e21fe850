//! An event on the command line: a file with its JSON, or flags that make it.

mod fields;

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, anyhow};

use self::fields::{Fields, Pretence};
use crate::cli::exit::{Exit, Failure};
use crate::event::deploy::{DeployEvent, MAX_EVENT};

/// The arguments that describe one event, or several fake ones.
#[derive(Debug, clap::Args)]
pub struct EventArgs {
    /// A file with the event as JSON, `-` for standard input
    #[arg(conflicts_with = "Fields", required_unless_present = "Fields")]
    event: Option<PathBuf>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    pretence: Pretence,
}

/// An event that a worker will accept.
pub struct Prepared {
    pub event: DeployEvent,
    pub body: Vec<u8>,
}

impl EventArgs {
    /// Reads the event, or makes those that the flags describe, and checks each exactly as a worker does.
    pub async fn read(&self) -> Result<Vec<Prepared>, Failure> {
        match &self.event {
            Some(path) => Ok(vec![prepare(read(path.clone()).await?)?]),
            None => self.fields.events(&self.pretence)?.into_iter().map(prepare).collect(),
        }
    }
}

/// Reads at most one byte more than an event may have: the parser says what is wrong with that.
async fn read(path: PathBuf) -> Result<Vec<u8>, Failure> {
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || {
        let source: Box<dyn Read> = match path.as_os_str() == "-" {
            true => Box::new(std::io::stdin().lock()),
            false => Box::new(std::fs::File::open(&path)?),
        };
        let mut bytes = Vec::new();
        source.take(MAX_EVENT as u64 + 1).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    });
    let bytes = read.await?.with_context(|| format!("read the event from {shown}"));
    bytes.map_err(|error| Failure::new(Exit::Usage, error))
}

fn prepare(body: Vec<u8>) -> Result<Prepared, Failure> {
    let (event, ignored) = DeployEvent::parse(&body).map_err(|rejected| {
        Failure::new(Exit::Rejected, anyhow!("the event would be rejected: {rejected}"))
    })?;
    for field in ignored {
        tracing::warn!(field, "workers ignore this field of the event");
    }
    Ok(Prepared { event, body })
}
