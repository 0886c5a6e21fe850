//! `buildgrid store gc`: one round of the collection of garbage.

use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::{count, failure, size, with_store};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{permission, service};
use crate::config::Config;
use crate::store::{BrokenOff, Collected, Collection, Going, ImageGone, MENDS, Store, Sum};
use crate::worker::keeper;

/// Collect what no image needs any more, and let images go that the section `retention` does not keep
///
/// What nobody needs is marked first, and removed by a round that comes keeping.gc_grace later, if it still is needed by
/// nobody. So nothing is taken from builds and pulls that go on meanwhile. The worker goes a round by itself every
/// keeping.gc_every; this one goes now.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 done; 1 done, but for what cannot be read or removed, or not done for another reason, which is said; 14
another collection goes on in this store; 69 the object store does not answer; 75 done, but [retention] lets nothing go
now, since it is not known what deploys run; 78 the store cannot be written to.

Examples:
  buildgrid store gc --dry-run
  buildgrid store gc
  buildgrid store gc --dry-run --json | jq -r '.retention[] | [.frees, .image, .rule] | @tsv'")]
pub struct Args {
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let Args { dry_run, json } = args;
    if !dry_run {
        permission::refuse_other_owner(&config.store)?;
    }
    let grace = config.keeping.gc_grace;
    let client = service::find(config).await.map_err(|failure| format!("{:#}", failure.error));
    let retention = keeper::retention(&config.retention, client).await;
    let open = if dry_run { Store::open_read_only } else { Store::open_existing };
    let collected = with_store(&config.store, open, move |store| {
        let cancel = CancellationToken::new();
        Ok(BrokenOff::apart(store.collect(&Collection { grace, dry_run, retention, cancel: &cancel })))
    });
    let (collected, ended) = collected.await?;
    // What has gone is told, and what could not be read, however it ended.
    if ended.is_none() || collected.removed != Sum::default() || !collected.unread.is_empty() {
        let text = match json {
            true => serde_json::to_string(&collected)? + "\n",
            false => told(&collected),
        };
        out.write_all(text.as_bytes())?;
    }
    match ended {
        Some(error) => Err(failure(error)),
        None => Ok(exit_of(&collected)),
    }
}

fn exit_of(collected: &Collected) -> Exit {
    match collected {
        Collected { unread, .. } if !unread.is_empty() => Exit::Internal,
        Collected { retention_paused: Some(_), .. } => Exit::Paused,
        _ => Exit::Done,
    }
}

fn told(collected: &Collected) -> String {
    let Collected { dry_run, retention, going, retention_paused, undeployed, unreadable, .. } = collected;
    let mut text = String::new();
    for ImageGone { image, digest, replaced, state, rule, frees } in retention {
        let what = match (state, dry_run) {
            (Going::Condemned, false) => "marked to go",
            (Going::Condemned, true) => "would be marked to go",
            (Going::Waiting, _) => "goes when its grace is over",
            (Going::Removed, false) => "removed",
            (Going::Removed, true) => "would be removed",
        };
        let name = if *replaced { format!("{image} as it was before ({digest})") } else { image.clone() };
        text += &format!("{name}: {what}, frees {}: {rule}\n", size(*frees));
    }
    if *going > retention.len() as u64 {
        text += &format!("and {} more images\n", going - retention.len() as u64);
    }
    if let Some(reason) = retention_paused {
        text += &format!("all images are kept for now: {reason}\n");
    }
    if !undeployed.is_empty() {
        let apps = undeployed.join(", ");
        text +=
            &format!("no deploy of these apps is known to be done, all of their images are kept: {apps}\n");
    }
    for one in unreadable {
        let manifest = one.manifest.map_or_else(String::new, |digest| format!(" {digest}"));
        text += &format!(
            "{}: the manifest{manifest} cannot be read ({}); all that the repository refers to is kept\n",
            one.repository, one.reason
        );
    }
    for one in &collected.unread {
        text += &format!("{one}; what it belongs to is kept as it is\n");
    }
    if collected.keeps_blobs {
        text += "all blobs are kept for now: any may be linked where nothing can be read\n";
    }
    if !collected.unread.is_empty() {
        text += &format!("{MENDS}\n");
    }
    let sum = |Sum { blobs, links, bytes }: Sum| {
        format!("{}, {}, {}", count(blobs, "blob"), count(links, "link"), size(bytes))
    };
    let (removed, marked) = if *dry_run { ("would remove ", "would mark") } else { ("removed", "marked") };
    text += &format!("in use      {}\n", count(collected.in_use, "blob"));
    text += &format!("{removed:12}{}\n", sum(collected.removed));
    text += &format!("{marked:12}{}\n", sum(collected.condemned));
    text += &format!("waiting     {}\n", sum(collected.waiting));
    if collected.left > 0 {
        text += &format!("left        {} for the next round\n", collected.left);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Unread;

    #[test]
    fn tells_what_goes_and_what_that_frees() {
        let image = ImageGone {
            image: "acme/shop.storefront:v1".to_owned(),
            digest: crate::store::digest::Digest::of(b""),
            replaced: false,
            state: Going::Condemned,
            rule: "not among the last 1 (retention.\"*\")".to_owned(),
            frees: 2048,
        };
        let collected = Collected {
            going: 1,
            retention: vec![image],
            removed: Sum { blobs: 1, links: 2, bytes: 1024 },
            ..Collected::default()
        };
        let text = told(&collected);
        for part in [
            "acme/shop.storefront:v1: marked to go, frees 2.0 KiB: not among the last 1 (retention.\"*\")\n",
            "removed     1 blob, 2 links, 1.0 KiB\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let text = told(&Collected { dry_run: true, ..collected });
        assert!(text.contains("would be marked to go"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_what_helps_and_by_the_exit_code() {
        let link = Unread { path: "/store/link".to_owned(), reason: "it cannot be read: a loop".to_owned() };
        let paused = Collected { retention_paused: Some("away".to_owned()), ..Collected::default() };
        assert_eq!([exit_of(&Collected::default()), exit_of(&paused)], [Exit::Done, Exit::Paused]);
        let mut collected = Collected { unread: vec![link], ..paused };
        assert_eq!(exit_of(&collected), Exit::Internal);
        let text = told(&collected);
        let named = "/store/link: it cannot be read: a loop; what it belongs to is kept as it is\n";
        assert!(text.contains(named) && text.contains(MENDS) && !text.contains("all blobs"), "{text}");
        collected.keeps_blobs = true;
        assert!(told(&collected).contains("all blobs are kept for now"));
    }
}
