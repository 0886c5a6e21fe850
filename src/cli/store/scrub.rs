//! `buildgrid store scrub`: reads everything and compares it with its digests.

use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::{count, failure, size, with_store};
use crate::cli::exit::{Exit, Failure};
use crate::cli::permission;
use crate::config::Config;
use crate::store::{BrokenOff, DamagedBlob, DamagedImage, MENDS, Part, Scrubbed, Store};

/// Verify the store: every blob by its digest, every link and tag, and that images have all their parts
///
/// A blob that is not what its digest says is moved to buildgrid/quarantine below the store and never served again.
/// Building a commit again that has it puts it anew. Links are mended.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 all is whole; 1 something is damaged, or cannot be read; 14 another scrub goes on; 69 the object store does
not answer.

Examples:
  buildgrid store scrub
  buildgrid store scrub --subset 1/30
  buildgrid store scrub --json | jq -r '.damaged[].images[] | select(.replaced | not) | .build // empty' | sort -u |
      xargs -rn 1 buildgrid rebuild")]
pub struct Args {
    /// Only one of so many parts of the blobs, such as 1/30
    #[arg(long, value_name = "N/T", default_value_t = Part::ALL)]
    subset: Part,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let Args { subset, json } = args;
    permission::refuse_other_owner(&config.store)?;
    // A part that somebody asks for is not the workers' turn, which goes on.
    let is_turn = subset == Part::ALL;
    let scrubbed = with_store(&config.store, Store::open_existing, move |store| {
        Ok(BrokenOff::apart(store.scrub(subset, is_turn, &CancellationToken::new())))
    });
    let (scrubbed, ended) = scrubbed.await?;
    // What is in quarantine is told, however it ended: nobody else finds it.
    if ended.is_none() || scrubbed.is_damaged() || scrubbed.mended > 0 {
        let text = match json {
            true => serde_json::to_string(&scrubbed)? + "\n",
            false => told(&scrubbed),
        };
        out.write_all(text.as_bytes())?;
    }
    match ended {
        Some(error) => Err(failure(error)),
        None if scrubbed.is_damaged() => Ok(Exit::Internal),
        None => Ok(Exit::Done),
    }
}

fn told(scrubbed: &Scrubbed) -> String {
    let mut text = String::new();
    for DamagedBlob { digest, reason, quarantine, in_place, images } in &scrubbed.damaged {
        text += &format!("{digest}: {reason}\n");
        if let Some(place) = quarantine {
            text += &format!("  it is in quarantine: {place}\n");
        }
        if *in_place {
            text += &format!("  {MENDS}\n");
        }
        for image in images {
            text += &format!("  {}\n", remedy(image));
        }
        if images.is_empty() {
            text += "  no image has it\n";
        }
    }
    for tag in &scrubbed.lost_tags {
        text += &format!("{tag}: the tag is damaged and in quarantine; send the event of its commit again\n");
    }
    for one in &scrubbed.unread {
        text += &format!("{one}\n  {MENDS}\n");
    }
    let Scrubbed { part, blobs, bytes, images, links, mended, damaged, .. } = scrubbed;
    text += &format!(
        "read {} ({}) of part {part}, {} and {}; mended {}, {}\n",
        count(*blobs, "blob"),
        size(*bytes),
        count(*links, "link"),
        count(*images, "image"),
        count(*mended, "link"),
        match (damaged.len(), scrubbed.unread.len()) {
            (0, 0) => "all is whole".to_owned(),
            (0, 1) => "1 link or folder cannot be read".to_owned(),
            (0, number) => format!("{number} links and folders cannot be read"),
            (number, _) => format!("{} damaged", count(number as u64, "blob")),
        }
    );
    text
}

/// The image, and what makes it whole again.
fn remedy(DamagedImage { image, digest, replaced, build }: &DamagedImage) -> String {
    match (build, replaced) {
        (_, true) => {
            format!("{image} as it was before ({digest}): it was replaced, and cannot be built again")
        }
        (Some(build), false) => format!("{image}: buildgrid rebuild {build}"),
        (None, false) => format!("{image}: send the event of its commit again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Unread;
    use crate::store::digest::Digest;

    #[test]
    fn names_images_and_what_mends_them() {
        let digest = Digest::of(b"");
        let image = |build: Option<&str>, replaced| DamagedImage {
            image: "acme/shop.storefront:v1".to_owned(),
            digest,
            replaced,
            build: build.map(str::to_owned),
        };
        let damaged = DamagedBlob {
            digest,
            reason: "it is not there".to_owned(),
            quarantine: None,
            in_place: false,
            images: vec![image(Some("b-1"), false), image(None, false), image(Some("b-0"), true)],
        };
        let scrubbed =
            Scrubbed { part: "1/1".to_owned(), damaged: vec![damaged], blobs: 1, ..Scrubbed::default() };
        let text = told(&scrubbed);
        for part in [
            "acme/shop.storefront:v1: buildgrid rebuild b-1\n",
            "acme/shop.storefront:v1: send the event of its commit again\n",
            "cannot be built again\n",
            "read 1 blob (0 B) of part 1/1, 0 links and 0 images; mended 0 links, 1 blob damaged\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let stays = DamagedBlob { in_place: true, ..Scrubbed::clone(&scrubbed).damaged.pop().unwrap() };
        let text = told(&Scrubbed { damaged: vec![stays], ..Scrubbed::default() });
        assert!(text.starts_with(&format!("{digest}: it is not there\n  {MENDS}\n  acme/")), "{text}");
        let link = Unread { path: "/store/link".to_owned(), reason: "it cannot be read: a loop".to_owned() };
        let scrubbed = Scrubbed { unread: vec![link], ..Scrubbed::default() };
        let text = told(&scrubbed);
        assert!(text.starts_with(&format!("/store/link: it cannot be read: a loop\n  {MENDS}\n")), "{text}");
        assert!(text.ends_with("1 link or folder cannot be read\n") && scrubbed.is_damaged(), "{text}");
    }
}
