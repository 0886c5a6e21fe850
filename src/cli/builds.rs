//! `buildgrid builds`: what was built, newest first.

use std::io::Write;

use anyhow::anyhow;
use time::OffsetDateTime;

use super::exit::{Exit, Failure};
use super::progress::short_duration;
use super::service::{self, explain};
use crate::config::Config;
use crate::telemetry::printable::printable;
use crate::timeline::client::{BuildsFilter, MAX_PAGE, TimelineClient};
use crate::timeline::protocol::{Build, BuildState};

/// The longest reason in the table, in characters; the build's page and `--json` have all of it.
const REASON: usize = 120;
/// The longest ref in the table, in characters.
const REF: usize = 24;
/// Digits of a commit in the table: enough to ask for it by `--commit`.
const COMMIT: usize = 10;

/// List builds, newest first
///
/// Asks the timeline service that the configuration names, else a `buildgrid up` that runs here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  buildgrid builds --app acme/shop --ref main --limit 10
  buildgrid builds --state failed
  buildgrid builds --commit 9fceb02d --json | jq -r .image")]
pub struct Args {
    /// Only builds of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only builds of this app: its name, with --namespace, or NAMESPACE/APP
    #[arg(long)]
    app: Option<String>,
    /// Only builds for this service; with --app, --commit or --deploy
    #[arg(long)]
    service: Option<String>,
    /// Only builds in this state, such as queued, building, interrupted, published or failed
    #[arg(long, value_parser = state)]
    state: Option<BuildState>,
    /// Only builds on this ref, in full, or the name of a branch or tag; with --app, --commit or --deploy
    #[arg(long, value_name = "REF")]
    r#ref: Option<String>,
    /// Only builds of this commit: its id, or the first 4 digits or more
    #[arg(long, value_name = "ID")]
    commit: Option<String>,
    /// Only builds of this deploy
    #[arg(long, value_name = "ID")]
    deploy: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print JSON, one build a line
    #[arg(long)]
    json: bool,
}

fn state(text: &str) -> Result<BuildState, String> {
    text.parse().map_err(|()| format!("there are {}", BuildState::list()))
}

impl Args {
    fn filter(&self) -> Result<BuildsFilter, Failure> {
        let usage = |text: &str| Failure::new(Exit::Usage, anyhow!("{text}"));
        let (namespace, app) = match (self.namespace.clone(), self.app.as_deref()) {
            (namespace, None) => (namespace, None),
            (Some(namespace), Some(app)) if !app.contains('/') => (Some(namespace), Some(app.to_owned())),
            (None, Some(app)) if app.contains('/') => {
                let (namespace, app) = app.split_once('/').unwrap_or_default();
                (Some(namespace.to_owned()), Some(app.to_owned()))
            }
            (Some(_), Some(_)) => return Err(usage("--app NAMESPACE/APP goes without --namespace")),
            (None, Some(_)) => {
                return Err(usage("an app is named with its namespace: --namespace, or --app NAMESPACE/APP"));
            }
        };
        Ok(BuildsFilter {
            namespace,
            app,
            service: self.service.clone(),
            state: self.state,
            git_ref: self.r#ref.clone(),
            commit: self.commit.clone(),
            deploy_id: self.deploy.clone(),
        })
    }
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    args.filter()?;
    execute(args, &service::needed(config).await?, &mut super::output::stdout()).await
}

/// As [`run`], asking `client` and writing to `out`.
pub async fn execute(
    args: Args,
    client: &TimelineClient,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let builds = read(client, &args.filter()?, args.limit as usize).await?;
    if args.json {
        for build in &builds {
            writeln!(out, "{}", serde_json::to_string(build)?)?;
        }
    } else {
        out.write_all(table(&builds, OffsetDateTime::now_utc()).as_bytes())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

async fn read(client: &TimelineClient, filter: &BuildsFilter, limit: usize) -> Result<Vec<Build>, Failure> {
    let (mut builds, mut cursor) = (Vec::new(), None);
    loop {
        let wanted = (limit - builds.len()).min(MAX_PAGE);
        let page = client.builds(filter, wanted, cursor.as_deref()).await.map_err(explain)?;
        builds.extend(page.items);
        cursor = page.next;
        if cursor.is_none() || builds.len() >= limit {
            builds.truncate(limit);
            return Ok(builds);
        }
    }
}

fn table(builds: &[Build], now: OffsetDateTime) -> String {
    if builds.is_empty() {
        return "no builds\n".to_owned();
    }
    let head = ["ID", "APP", "STATE", "COMMIT", "REF", "AGE", "TOOK", "IMAGE OR REASON"].map(str::to_owned);
    let rows: Vec<[String; 8]> =
        std::iter::once(head).chain(builds.iter().map(|build| row(build, now))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut table = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            table.push_str(&format!("{cell:width$}  "));
        }
        table.push_str(&row[7]);
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    table
}

fn row(build: &Build, now: OffsetDateTime) -> [String; 8] {
    let since = |then: OffsetDateTime, until: OffsetDateTime| {
        short_duration(std::time::Duration::try_from(until - then).unwrap_or_default())
    };
    let took = match (build.started_at, build.finished_at) {
        (Some(started), Some(finished)) => since(started, finished),
        (Some(started), None) => since(started, now),
        _ => "-".to_owned(),
    };
    let last = match (build.state, &build.image, &build.reason) {
        (BuildState::Published, Some(image), _) => printable(image),
        _ if build.waiting.is_some() => {
            shortened(&format!("waiting: {}", build.waiting.as_deref().unwrap_or_default()), REASON)
        }
        (BuildState::Retrying, _, Some(reason)) if build.retry_at.is_some_and(|due| due > now) => {
            let due = build.retry_at.map_or_else(String::new, |due| since(now, due));
            shortened(&format!("again in {due}: {reason}"), REASON)
        }
        (_, _, Some(reason)) => shortened(reason, REASON),
        _ => "-".to_owned(),
    };
    [
        build.id.to_string(),
        format!("{}/{}", build.namespace, build.app),
        build.state.to_string(),
        build.commit.as_str().chars().take(COMMIT).collect(),
        build.git_ref.as_deref().map_or_else(|| "-".to_owned(), |name| shortened(branch(name), REF)),
        since(build.created_at, now),
        took,
        last,
    ]
}

/// A ref as people call it.
fn branch(name: &str) -> &str {
    ["refs/heads/", "refs/tags/"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    printable(&short)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;
    use time::macros::datetime;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn filter(line: &str) -> Result<BuildsFilter, Exit> {
        let words = std::iter::once("builds").chain(line.split_whitespace());
        let program = Program::try_parse_from(words).map_err(|_| Exit::Usage)?;
        program.args.filter().map_err(|failure| failure.exit)
    }

    #[test]
    fn an_app_is_named_with_its_namespace_in_two_ways() {
        let one = filter("--app acme/shop").unwrap();
        assert_eq!(one, filter("--namespace acme --app shop").unwrap());
        assert_eq!((one.namespace.as_deref(), one.app.as_deref()), (Some("acme"), Some("shop")));
        assert_eq!(filter("--state interrupted").unwrap().state, Some(BuildState::Interrupted));
        for wrong in ["--app shop", "--namespace a --app a/b", "--state broken", "--limit 0"] {
            assert_eq!(filter(wrong), Err(Exit::Usage), "{wrong}");
        }
    }

    pub(in crate::cli) fn build(state: BuildState) -> Build {
        Build {
            id: "b-1".parse().unwrap(),
            namespace: "acme".parse().unwrap(),
            app: "shop".parse().unwrap(),
            services: vec!["shop".to_owned()],
            repository: "storefront".parse().unwrap(),
            commit: "9fceb02d0ae598e95dc970b74767f19372d61af8".parse().unwrap(),
            git_ref: Some("refs/heads/main".to_owned()),
            deploy_id: None,
            requested_by: None,
            fake: false,
            rebuild: false,
            state,
            kind: None,
            reused: false,
            image: Some("h/acme/shop.storefront:9fce".to_owned()),
            digest: None,
            size: None,
            reason: None,
            step: None,
            excerpt: Vec::new(),
            location: None,
            advice: None,
            commit_info: None,
            attempt: None,
            number: None,
            worker: None,
            heard_at: None,
            cancel_requested_at: None,
            waiting: None,
            retry_at: None,
            created_at: datetime!(2026-11-23 10:00 UTC),
            started_at: Some(datetime!(2026-11-23 10:00:10 UTC)),
            finished_at: Some(datetime!(2026-11-23 10:01:20 UTC)),
            url: String::new(),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_build_and_hostile_text_moves_nothing() {
        let failed = Build {
            reason: Some(format!("RUN make\u{1b}[2J: exit code 2 {}", "x".repeat(200))),
            git_ref: None,
            image: None,
            finished_at: None,
            ..build(BuildState::Failed)
        };
        let now = datetime!(2026-11-23 12:05 UTC);
        let table = table(&[build(BuildState::Published), failed], now);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "ID   APP        STATE      COMMIT      REF   AGE      TOOK      IMAGE OR REASON",
                "b-1  acme/shop  published  9fceb02d0a  main  2 h 5 m  1 m 10 s  h/acme/shop.storefront:9fce",
            ]
        );
        assert!(lines[2].contains("failed     9fceb02d0a  -     "), "{table}");
        assert!(lines[2].contains("RUN make\\u{1b}[2J") && lines[2].ends_with("xxx…"), "{table}");
        assert_eq!(super::table(&[], now), "no builds\n");
    }

    #[test]
    fn the_table_says_what_a_build_waits_for() {
        let now = datetime!(2026-11-23 12:05 UTC);
        let waiting = Build {
            waiting: Some("build b-0 of the same app is running (policy serial)".to_owned()),
            ..build(BuildState::Queued)
        };
        let retrying = Build {
            reason: Some("the engine is away".to_owned()),
            retry_at: Some(now + std::time::Duration::from_secs(42)),
            ..build(BuildState::Retrying)
        };
        let table = table(&[waiting, retrying], now);
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[1].ends_with("  waiting: build b-0 of the same app is running (policy serial)"),
            "{table}"
        );
        assert!(lines[2].ends_with("  again in 42 s: the engine is away"), "{table}");
    }
}
