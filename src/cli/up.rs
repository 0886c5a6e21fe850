//! `buildgrid up`: everything in one process.

use std::io::Write;

use anyhow::Context;
use sd_notify::NotifyState;
use secrecy::{ExposeSecret, SecretString};

use super::daemon::{Stop, bind, configured};
use super::exit::{Exit, Failure};
use super::reload::{self, File};
use crate::config::Config;
use crate::telemetry::watchdog::tell;
use crate::up::{self, ADMIN, Greeting, Listeners};
use crate::worker::daemon::Shutdown;
use crate::worker::secrets::Secrets;

/// Start everything on this machine: worker, registry, timeline and queue; only Docker is needed
///
/// What it keeps lies in one directory. `buildgrid enqueue`, `builds` and `logs` find it by themselves.
#[derive(clap::Args)]
#[command(after_help = "\
The first start makes a login for the pages, and shows its password once. Ends at Ctrl-C or SIGTERM once
its running builds have ended; a second one gives them back to its queue, for the next start. SIGHUP
reads the configuration again; what of it can change meanwhile stands in the README.

Examples:
  buildgrid up
  BUILDGRID_UP__DATA_DIR=/srv/buildgrid BUILDGRID_REGISTRY__HOST=registry.example.com buildgrid up")]
pub struct Args {}

pub async fn run(_: Args, config: &Config, file: File) -> Result<Exit, Failure> {
    configured(&Secrets::new(config))?;
    let listeners = listeners(config).await.context(
        "another `buildgrid up`, or a worker, registry or timeline of an installation, may be running here",
    )?;
    let stop = Stop::at_signals(
        "stopping: running builds go on to their end; a second signal gives them back to the queue",
    )?;
    let live = reload::at_sighup(file, config, reload::ALL, &stop)?;
    let shutdown = Shutdown { drain: stop.first, abort: stop.second };
    let made_admin = |password: &SecretString| say(&login(password));
    let ready = |greeting: Greeting| {
        say(&words(&greeting));
        tell(&[NotifyState::Ready]);
    };
    up::run(live, listeners, shutdown, made_admin, ready).await?;
    Ok(Exit::Done)
}

/// On standard output. Whoever has started it may have closed the terminal.
fn say(words: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(words.as_bytes()).and_then(|()| out.flush());
}

async fn listeners(config: &Config) -> anyhow::Result<Listeners> {
    Ok(Listeners {
        registry: bind("registry.listen", config.registry.listen).await?,
        timeline: bind("timeline.listen", config.timeline.listen).await?,
        status: bind("worker.status_listen", config.worker.status_listen).await?,
    })
}

/// What is said of the login of a first start. The password is on standard output alone, never in the log.
fn login(password: &SecretString) -> String {
    format!(
        "A login for the pages was made: {ADMIN}, password {}\n  \
         it is shown this once\n",
        password.expose_secret()
    )
}

/// What is said once it is ready.
fn words(greeting: &Greeting) -> String {
    let mut words = format!(
        "BuildGrid is up\n  pages     {}\n  registry  {}\n  data      {}\n",
        greeting.url,
        greeting.registry,
        greeting.data_dir.display()
    );
    // Elsewhere than in its usual place, commands have to be told of it.
    let place = match greeting.is_usual {
        true => String::new(),
        false => format!("BUILDGRID_UP__DATA_DIR={} ", greeting.data_dir.display()),
    };
    if greeting.has_admin {
        words.push_str(&format!(
            "  login     {ADMIN}; for a new password: {place}buildgrid user password {ADMIN} --generate\n"
        ));
    }
    words.push_str(&format!("Try it: {place}buildgrid enqueue --fake --log-lines 10 --follow\n"));
    words
}
