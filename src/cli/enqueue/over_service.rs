//! Enqueueing through the timeline service, and following what becomes of it there.

use std::io::Write;

use anyhow::anyhow;
use futures::{StreamExt, TryStreamExt};

use super::{Args, IN_FLIGHT, Prepared, tell, within};
use crate::cli::exit::{Exit, Failure};
use crate::cli::follow;
use crate::cli::progress::Progress;
use crate::cli::service::explain;
use crate::timeline::client::{CallError, TimelineClient};

/// Hands the events to `client`; a followed log goes to `progress`, everything else to `out`.
pub async fn execute(
    args: Args,
    client: &TimelineClient,
    out: &mut (dyn Write + Send),
    progress: &mut Progress,
) -> Result<Exit, Failure> {
    let events = args.events.read().await?;
    if args.follow {
        let [Prepared { event, .. }] = events.as_slice() else {
            let many = anyhow!("{} builds cannot be followed at once; --wait takes any number", events.len());
            return Err(Failure::new(Exit::Usage, many));
        };
        enqueue(client, &events).await?;
        progress.note(&format!("build {} of {}", event.id, event.image()));
        let end = follow::to_the_end(client, &event.id, progress, out, args.json);
        return within(args.wait_timeout, end).await;
    }
    enqueue(client, &events).await?;
    tell(&events, args.json, out)?;
    if !args.wait {
        return Ok(Exit::Done);
    }
    let ids = events.iter().map(|prepared| prepared.event.id.clone());
    let json = args.json;
    let ended = follow::states(client, ids, |build| match json {
        true => writeln!(out, "{}", serde_json::to_string(build)?),
        false => write!(out, "{}", follow::words(build)),
    });
    within(args.wait_timeout, ended).await
}

async fn enqueue(client: &TimelineClient, events: &[Prepared]) -> Result<(), Failure> {
    let enqueue = async |Prepared { body, .. }: &Prepared| client.enqueue(body.clone()).await.map(drop);
    let all = futures::stream::iter(events).map(enqueue).buffer_unordered(IN_FLIGHT);
    all.try_collect().await.map_err(|error: CallError| {
        // The event is at fault: it would be rejected, or its id is another event's.
        let rejected = error.problem().is_some_and(|problem| matches!(problem.status, 409 | 413 | 422));
        let failure = explain(error);
        if rejected { Failure { exit: Exit::Rejected, ..failure } } else { failure }
    })
}
