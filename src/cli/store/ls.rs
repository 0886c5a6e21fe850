//! `buildgrid store ls`: repositories, and the images of one.

use std::io::Write;

use anyhow::anyhow;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{all_read, size, with_store};
use crate::cli::exit::{Exit, Failure};
use crate::config::Config;
use crate::publish::name::{ImageRepository, Namespace};
use crate::store::{ImageEntry, Listing, RepositoryEntry, Store};

/// List repositories, or the images of one
///
/// An image that a rebuild has replaced is shown with the digest by which it can still be pulled. Where something cannot be
/// read, the rest is shown, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  buildgrid store ls
  buildgrid store ls acme
  buildgrid store ls acme/shop.storefront
  buildgrid store ls acme/shop.storefront --json | jq -r 'select(.size > 1e9) | .image'")]
pub struct Args {
    /// A namespace, whose repositories are listed; or a repository, whose images are
    #[arg(value_name = "NAMESPACE | REPOSITORY")]
    name: Option<String>,
    /// Print JSON, one repository or image a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let Args { name, json } = args;
    let (text, unread) = match name {
        Some(name) if name.contains('/') => {
            let name: ImageRepository = name.parse().map_err(Failure::usage)?;
            let wanted = name.clone();
            let images =
                with_store(&config.store, Store::open_read_only, move |store| store.list_images(&wanted))
                    .await?;
            let absent =
                || Failure::usage(anyhow!("there is no repository {name}; `buildgrid store ls` shows them"));
            let Listing { rows, unread } = images.ok_or_else(absent)?;
            (if json { lines(&rows)? } else { images_table(&rows) }, unread)
        }
        name => {
            let namespace: Option<Namespace> =
                name.map(|name| name.parse()).transpose().map_err(Failure::usage)?;
            let entries = with_store(&config.store, Store::open_read_only, move |store| {
                store.list_repositories(namespace.as_ref())
            });
            let Listing { rows, unread } = entries.await?;
            (if json { lines(&rows)? } else { repositories_table(&rows) }, unread)
        }
    };
    out.write_all(text.as_bytes())?;
    all_read(&unread)
}

/// JSON, one a line.
pub(super) fn lines<T: serde::Serialize>(entries: &[T]) -> Result<String, Failure> {
    let lines = entries.iter().map(|entry| Ok(serde_json::to_string(entry)? + "\n"));
    lines.collect()
}

fn repositories_table(entries: &[RepositoryEntry]) -> String {
    if entries.is_empty() {
        return "no images\n".to_owned();
    }
    let width = entries.iter().map(|entry| entry.repository.len()).max().unwrap_or(0).max(10);
    let mut text =
        format!("{:width$}  {:>7}  {:>8}  {:>10}  {}\n", "REPOSITORY", "TAGS", "REPLACED", "SIZE", "UPDATED");
    for entry in entries {
        let RepositoryEntry { repository, tags, replaced, bytes, updated_at } = entry;
        let updated = updated_at.map_or_else(|| "-".to_owned(), shown);
        text += &format!("{repository:width$}  {tags:>7}  {replaced:>8}  {:>10}  {updated}\n", size(*bytes));
    }
    text
}

fn images_table(images: &[ImageEntry]) -> String {
    if images.is_empty() {
        return "no images\n".to_owned();
    }
    let tag = |image: &ImageEntry| image.image.rsplit(':').next().unwrap_or_default().to_owned();
    let width = images.iter().map(|image| tag(image).len()).max().unwrap_or(0).max(3);
    let mut text = format!("{:width$}  {:>10}  {:20}  {}\n", "TAG", "SIZE", "PUBLISHED", "DIGEST");
    for image in images {
        let size = image.size.map_or_else(|| "unreadable".to_owned(), size);
        let replaced = if image.replaced { "  (replaced)" } else { "" };
        text += &format!(
            "{:width$}  {size:>10}  {:20}  {}{replaced}\n",
            tag(image),
            shown(image.put_at),
            image.digest
        );
    }
    text
}

fn shown(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}
