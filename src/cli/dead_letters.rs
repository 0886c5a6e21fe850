//! `buildgrid dead-letters`: look at the events that could not be handled, put them back, throw them away.

use std::io::Write;

use anyhow::anyhow;

use crate::cli::exit::{Exit, Failure};
use crate::config::Config;
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::{BrokerError, Letter, LetterError, Queue, QueueError, Selection};
use crate::telemetry::printable::printable;
use crate::up;

/// The longest reason in a listing, in characters; `show` has all of it.
const REASON: usize = 120;

const EXAMPLES: &str = "\
A letter is called by its name, the beginning of its name (4 characters or more), or its event's id.

Examples:
  buildgrid dead-letters list
  buildgrid dead-letters show 0193b2d6-6c1e
  buildgrid dead-letters show 0193b2d6-6c1e --body > event.json
  buildgrid dead-letters requeue --all
  buildgrid dead-letters drop 0193b2d6-6c1e";

/// Events that could not be handled
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the letters, oldest first, with their reasons
    List {
        /// How many at most
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
        /// Print JSON, one letter a line
        #[arg(long)]
        json: bool,
    },
    /// Show one letter whole
    Show {
        letter: String,
        /// Print the event's bytes, unchanged, and nothing else
        #[arg(long)]
        body: bool,
        /// Print JSON
        #[arg(long, conflicts_with = "body")]
        json: bool,
    },
    /// Put letters back into the queue, as a first attempt
    Requeue {
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        letters: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Throw letters away, for ever
    Drop {
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        letters: Vec<String>,
        /// All of them; needs --yes
        #[arg(long, requires = "yes")]
        all: bool,
        #[arg(long)]
        yes: bool,
    },
}

/// On the broker, or on the queue of `buildgrid up`.
pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let queue = match up::adopted(config) {
        None => Queue::amqp(&config.queue, "dead-letters"),
        Some(config) => {
            let directory = up::queue_directory(&config.up.data_dir);
            let attached = EmbeddedQueue::attach(&directory, "dead-letters").await;
            attached.map_err(|error| Failure::new(Exit::Configuration, error))?.into()
        }
    };
    let done = execute(args, &queue, &mut super::output::stdout()).await;
    queue.close().await;
    done
}

/// As [`run`], on any queue, writing to `out`.
pub async fn execute(args: Args, queue: &Queue, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    queue.ready().await.map_err(|error| explain(error.into()))?;
    match args.action {
        Action::List { limit, json } => {
            let found = queue.dead_letters(limit).await.map_err(|error| explain(error.into()))?;
            match json {
                true => found.letters.iter().try_for_each(|letter| {
                    writeln!(out, "{}", serde_json::to_string(letter).map_err(std::io::Error::from)?)
                })?,
                false => table(&found.letters, out)?,
            }
            if found.more > 0 {
                tracing::warn!(
                    listed = found.letters.len(),
                    more = found.more,
                    "not all letters are listed; raise --limit"
                );
            }
        }
        Action::Show { letter, body, json } => {
            let (letter, bytes) = queue.dead_letter_named(&letter).await.map_err(explain)?;
            match (body, json) {
                (true, _) => out.write_all(&bytes)?,
                (_, true) => {
                    let event = String::from_utf8_lossy(&bytes);
                    writeln!(out, "{}", serde_json::json!({"letter": letter, "event": event}))?;
                }
                _ => show(&letter, &bytes, out)?,
            }
        }
        Action::Requeue { letters, all } => {
            let mut written = Ok(());
            let done = |letter: &Letter| say(&mut written, out, "requeued", letter);
            queue.requeue_letters(&selection(letters, all), done).await.map_err(explain)?;
            written?;
        }
        Action::Drop { letters, all, yes: _ } => {
            let mut written = Ok(());
            let done = |letter: &Letter| say(&mut written, out, "dropped", letter);
            queue.drop_letters(&selection(letters, all), done).await.map_err(explain)?;
            written?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn selection(letters: Vec<String>, all: bool) -> Selection {
    match all {
        true => Selection::All,
        false => Selection::Named(letters),
    }
}

/// A reader that went away does not stop what was begun; it is told at the end.
fn say(written: &mut std::io::Result<()>, out: &mut (dyn Write + Send), verb: &str, letter: &Letter) {
    if written.is_ok() {
        let id = letter.id.as_ref().map_or("-", |id| id.as_str());
        *written = writeln!(out, "{verb} {}  event {id}", letter.name);
    }
}

fn table(letters: &[Letter], out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    if letters.is_empty() {
        return writeln!(out, "no dead letters");
    }
    let name = letters.iter().map(|letter| letter.name.len()).max().unwrap_or_default().max(6);
    let app = letters.iter().map(|letter| app(letter).len()).max().unwrap_or_default().max(3);
    writeln!(out, "{:name$}  {:24}  {:app$}  {:>3}  REASON", "LETTER", "AT", "APP", "TRY")?;
    for letter in letters {
        let at = letter.at.as_deref().map_or("-".to_owned(), printable);
        let mut reason: String = printable(&letter.reason).chars().take(REASON).collect();
        if reason.len() < letter.reason.len() {
            reason.push('…');
        }
        writeln!(
            out,
            "{:name$}  {at:24}  {:app$}  {:>3}  {reason}",
            letter.name,
            self::app(letter),
            letter.attempt
        )?;
    }
    Ok(())
}

fn app(letter: &Letter) -> String {
    match (&letter.namespace, &letter.app) {
        (Some(namespace), Some(app)) => format!("{namespace}/{app}"),
        (Some(namespace), None) => format!("{namespace}/?"),
        _ => "-".to_owned(),
    }
}

fn show(letter: &Letter, body: &[u8], out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let or_none = |text: Option<&str>| text.map_or("-".to_owned(), printable);
    writeln!(out, "letter   {}", letter.name)?;
    writeln!(out, "event    {}", or_none(letter.id.as_ref().map(|id| id.as_str())))?;
    writeln!(out, "app      {}", app(letter))?;
    writeln!(out, "reason   {}", printable(&letter.reason))?;
    writeln!(out, "attempt  {}", letter.attempt)?;
    writeln!(out, "worker   {}", or_none(letter.worker.as_deref()))?;
    writeln!(out, "at       {}", or_none(letter.at.as_deref()))?;
    writeln!(out, "bytes    {}\n", letter.bytes)?;
    for line in String::from_utf8_lossy(body).lines() {
        writeln!(out, "{}", printable(line))?;
    }
    Ok(())
}

fn explain(error: LetterError) -> Failure {
    match error {
        LetterError::Unknown(_) | LetterError::Ambiguous { .. } => Failure::new(Exit::Usage, error),
        LetterError::Queue(QueueError::Broker(BrokerError::Missing(detail))) => Failure::unavailable(
            anyhow!("there is no queue of dead letters yet, a worker makes it when it starts: {detail}"),
        ),
        LetterError::Queue(error @ QueueError::Broker(BrokerError::Settings(_))) => {
            Failure::new(Exit::Configuration, error)
        }
        LetterError::Queue(error) => Failure::unavailable(error),
    }
}
