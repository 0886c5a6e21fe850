//! `buildgrid store du`: who takes how much of the disk.

use std::io::Write;

use super::{all_read, ls, size, with_store};
use crate::cli::exit::{Exit, Failure};
use crate::config::Config;
use crate::store::{DiskUsage, Level, Listing, Store};

/// Show who takes how much of the disk, by namespace, app and repository
///
/// SIZE is all that the images are made of, each blob once. OWN is what images of nobody else need of it, and would be
/// free without them. Layers that several share, such as a common base image, are nobody's own. Where something cannot be
/// read, the rest is shown, without what no image needs, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  buildgrid store du
  buildgrid store du --json | jq -r 'select(.level == \"namespace\") | [.own, .name] | @tsv' | sort -rn")]
pub struct Args {
    /// Print JSON, one row a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, config: &Config, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let usage = with_store(&config.store, Store::open_read_only, |store| store.disk_usage());
    let Listing { rows, unread } = usage.await?;
    let text = if args.json { ls::lines(&rows)? } else { table(&rows) };
    out.write_all(text.as_bytes())?;
    all_read(&unread)
}

fn table(rows: &[DiskUsage]) -> String {
    let indented = |row: &DiskUsage| {
        let depth = match row.level {
            Level::Namespace | Level::Store | Level::Garbage => 0,
            Level::App => 2,
            Level::Repository => 4,
        };
        format!("{:depth$}{}", "", row.name)
    };
    let width = rows.iter().map(|row| indented(row).len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>7}  {:>10}  {:>10}\n", "", "IMAGES", "SIZE", "OWN");
    for row in rows {
        let name = indented(row);
        let (bytes, own) = (size(row.bytes), size(row.own));
        text += &match row.level {
            Level::Garbage => format!("{name:width$}  {:>7}  {bytes:>10}\n", ""),
            Level::Store => format!("{name:width$}  {:>7}  {bytes:>10}\n", row.images),
            _ => format!("{name:width$}  {:>7}  {bytes:>10}  {own:>10}\n", row.images),
        };
    }
    text
}
