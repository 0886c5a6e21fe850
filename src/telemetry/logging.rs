//! The log: journald with fields under systemd, readable text on a terminal, JSON on request.

use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use super::config::{Format, LoggingConfig};
use super::text::{BuildNames, Text};

/// The name under which the programs stand in the journal (`journalctl -t buildgrid`).
const IDENTIFIER: &str = "buildgrid";

/// The filter for `level`. Libraries stay at `warn` unless they are named: at `debug`, bollard logs
/// build arguments. lapin is silent: what it calls errors are lost connections, which the queue logs
/// once, in its own words.
pub(super) fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    let directives = match level.contains(['=', ',']) {
        true => format!("warn,lapin=off,{level}"),
        false => format!("warn,lapin=off,buildgrid={level}"),
    };
    EnvFilter::builder().parse(directives)
}

/// Starts the log for the whole program. A command that a person runs (`daemon` is false) speaks for
/// itself, and logs only warnings, as text. An error means that journald was asked for and is not there.
pub fn init(config: &LoggingConfig, daemon: bool) -> anyhow::Result<()> {
    let level = if daemon { config.level.as_str() } else { "warn" };
    let filter = filter(level).with_context(|| format!("logging.level {level:?}"))?;
    let format = match config.format {
        _ if !daemon => Format::Text,
        Format::Auto if output_is_journal() => Format::Journald,
        Format::Auto => Format::Text,
        chosen => chosen,
    };
    let layer = match format {
        Format::Journald => {
            // Without a prefix, so that the fields are named as documented: BUILD_ID, not F_BUILD_ID.
            let journald = tracing_journald::layer()
                .context("reach journald at /run/systemd/journal/socket")?
                .with_field_prefix(None)
                .with_syslog_identifier(IDENTIFIER.to_owned());
            journald.boxed()
        }
        Format::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            .boxed(),
        Format::Text | Format::Auto => tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_writer(std::io::stderr)
            .event_format(Text)
            .and_then(BuildNames)
            .boxed(),
    };
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().context("start the log")?;
    // The only one: a second start of the log has failed.
    let _ = FILTER.set(handle);
    Ok(())
}

/// What the running log shows.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Changes `logging.level` of the log that runs.
pub fn set_level(level: &str) -> anyhow::Result<()> {
    let filter = filter(level).with_context(|| format!("logging.level {level:?}"))?;
    let handle = FILTER.get().context("the log has not been started")?;
    handle.reload(filter).context("change logging.level")
}

/// Whether standard error is connected to the journal: systemd says so in `$JOURNAL_STREAM` with the
/// device and inode of the stream (systemd.exec(5)). The comparison matters, since children inherit
/// the variable but not always the stream.
fn output_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}

/// What is logged by `work` on this thread.
#[cfg(test)]
pub(crate) fn logged(work: impl FnOnce()) -> String {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let written = Written::default();
    let writer = written.clone();
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}
