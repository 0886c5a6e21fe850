//! `buildgrid timeline`: the timeline service.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use super::daemon::{Stop, beside_status_pages, bind, notify};
use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::telemetry::status::{Condition, Readiness};
use crate::web::db::Database;
use crate::web::{self, Enqueuer, Timeline};

/// Keep the record and log of every build, decide which worker builds what, and show it all
#[derive(clap::Args)]
#[command(after_help = "\
Its pages are for people (`buildgrid user add`), /api/v1 is for workers, Maestro and commands
(`buildgrid token add`).

Example:
  buildgrid --config /etc/buildgrid/worker-config.toml timeline")]
pub struct Args {}

/// How often the database is looked at for `/readyz`.
const LOOK: Duration = Duration::from_secs(5);

pub async fn run(_: Args, config: &Config) -> Result<Exit, Failure> {
    let listener = bind("timeline.listen", config.timeline.listen).await?;
    let status = bind("timeline.status_listen", config.timeline.status_listen).await?;
    let database = Database::open(&config.timeline.data_dir).await;
    let database = database.map_err(|error| Failure::new(Exit::Configuration, error))?;
    let stop = Stop::at_signals("stopping: running requests go on to their end; a second signal cuts them")?;
    let queue = Enqueuer::on_demand(config.queue.clone());
    let readiness = watch_database(database.clone());
    let timeline = Timeline::new(&config.timeline, database, queue, stop.first.clone()).await?;
    notify(NotifyState::Ready);
    beside_status_pages(status, readiness, &stop, web::serve(listener, Arc::new(timeline))).await
}

/// Looks at the database from time to time: a disk that hangs must not hold up who asks.
pub(super) fn watch_database(database: Database) -> Readiness {
    let (fault, watched) = watch::channel(None);
    tokio::spawn(async move {
        while !fault.is_closed() {
            let found = match tokio::time::timeout(LOOK, database.check()).await {
                Ok(checked) => checked.err().map(|error| error.to_string()),
                Err(_) => Some(format!("it does not answer within {LOOK:?}")),
            };
            if *fault.borrow() != found {
                match &found {
                    Some(error) => tracing::error!(error, "the timeline's database cannot be read"),
                    None => tracing::info!("the timeline's database can be read again"),
                }
                fault.send_replace(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    Arc::new(move || vec![Condition { name: "database", fault: watched.borrow().clone() }])
}
