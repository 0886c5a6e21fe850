//! The flags of `buildgrid enqueue` that describe an event, and the event's JSON they make.

use std::time::Duration;

use anyhow::anyhow;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::cli::exit::{Exit, Failure};
use crate::event::deploy::BuildId;
use crate::event::fake::{FakeBuild, FakeOutcome};

/// Namespace and app of a fake build for which none are given.
const SMOKE: &str = "smoke";

#[derive(Debug, clap::Args)]
#[group(multiple = true)]
pub(super) struct Fields {
    /// The tenant: the first part of the image's name
    #[arg(long)]
    namespace: Option<String>,
    /// The app that is deployed: the second part of the image's name
    #[arg(long)]
    app: Option<String>,
    /// The URL of the git repository
    #[arg(long, value_name = "URL")]
    repository: Option<String>,
    /// The repository's name in the image's; by default the last segment of its URL
    #[arg(long, value_name = "NAME", requires = "repository")]
    repository_name: Option<String>,
    /// The full id of the commit to build
    #[arg(long, value_name = "ID")]
    commit: Option<String>,
    /// The ref the commit is on, such as refs/heads/main
    #[arg(long, value_name = "REF")]
    r#ref: Option<String>,
    /// The folder of the repository to build
    #[arg(long, value_name = "PATH")]
    root: Option<String>,
    /// The Dockerfile, relative to the root
    #[arg(long, value_name = "PATH")]
    dockerfile: Option<String>,
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// A build argument; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = argument)]
    arg: Vec<(String, String)>,
    /// The name of a secret; may be repeated
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// The name of an SSH agent, such as default; may be repeated
    #[arg(long, value_name = "NAME")]
    ssh: Vec<String>,
    /// Such as linux/amd64
    #[arg(long)]
    platform: Option<String>,
    /// Build without the cache
    #[arg(long)]
    no_cache: bool,
    /// The build's time limit, such as 30m
    #[arg(long, value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Tells this image from another one of the same commit
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Build again even where the image exists
    #[arg(long)]
    rebuild: bool,
    /// A service that the image is for; may be repeated; by default the app
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// The event's id; by default a new one. The same id never builds twice
    #[arg(long)]
    id: Option<String>,
    /// Joins the builds of one deploy
    #[arg(long, value_name = "ID")]
    deploy_id: Option<String>,
    #[arg(long, value_name = "WHO")]
    requested_by: Option<String>,
    /// Pretend: a real, pullable image without git and Docker, for smoke tests
    #[arg(long, conflicts_with = "repository")]
    fake: bool,
}

/// What a fake build does. Beside [`Fields`] and not within: clap leaves a group empty that has another
/// one in it.
#[derive(Debug, clap::Args)]
pub(super) struct Pretence {
    /// Lines of the fake's log
    #[arg(long, value_name = "N", requires = "fake")]
    log_lines: Option<u32>,
    /// Milliseconds between two lines of the fake's log
    #[arg(long, value_name = "MS", requires = "fake")]
    line_interval_ms: Option<u32>,
    /// Layers of the fake's image
    #[arg(long, value_name = "N", requires = "fake")]
    layers: Option<u32>,
    /// Bytes in each layer of the fake's image
    #[arg(long, value_name = "N", requires = "fake")]
    layer_bytes: Option<u64>,
    /// How the fake ends: published, build_failed, infrastructure or hang
    #[arg(long, value_name = "OUTCOME", requires = "fake", value_parser = outcome)]
    outcome: Option<FakeOutcome>,
    /// What the fake's image and commit follow from; by default a random one
    #[arg(long, value_name = "N", requires = "fake")]
    seed: Option<u64>,
    /// How many fakes, each with an id and a seed of its own
    #[arg(long, value_name = "N", requires = "fake", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
}

fn argument(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a build argument is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn outcome(text: &str) -> Result<FakeOutcome, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "published, build_failed, infrastructure and hang are known".to_owned())
}

impl Fields {
    /// The events that the flags describe, as JSON.
    pub(super) fn events(&self, pretence: &Pretence) -> Result<Vec<Vec<u8>>, Failure> {
        let usage = |text: &str| Failure::new(Exit::Usage, anyhow!("{text}"));
        if !self.fake {
            for (given, name) in [
                (&self.namespace, "--namespace"),
                (&self.app, "--app"),
                (&self.repository, "--repository"),
                (&self.commit, "--commit"),
            ] {
                if given.is_none() {
                    return Err(usage(&format!("{name} is needed, or --fake, or a file with the event")));
                }
            }
            return Ok(vec![self.event(self.id.clone().unwrap_or_else(new_id), None)]);
        }
        let count = pretence.count;
        if count > 1 && self.commit.is_some() {
            return Err(usage("--commit with --count would be many events for one image"));
        }
        let seed = pretence.seed.unwrap_or_else(|| rand::random::<u32>().into());
        let event = |index: u32| {
            let id = match &self.id {
                None => new_id(),
                Some(id) if count == 1 => id.clone(),
                Some(id) => format!("{id}-{index}"),
            };
            self.event(id, Some(&pretence.build(seed.wrapping_add(index.into()))))
        };
        Ok((0..count).map(event).collect())
    }

    fn event(&self, id: String, fake: Option<&FakeBuild>) -> Vec<u8> {
        let mut event = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                event.insert(key.to_owned(), value);
            }
        };
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let smoke = fake.map(|_| Value::from(SMOKE));
        put("version", Some(1.into()));
        put("id", Some(id.into()));
        put("deploy_id", text(&self.deploy_id));
        put("namespace", text(&self.namespace).or(smoke.clone()));
        put("app", text(&self.app).or(smoke));
        put("services", (!self.service.is_empty()).then(|| json!(self.service)));
        let repository = object([("url", text(&self.repository)), ("name", text(&self.repository_name))]);
        put("repository", repository);
        put("commit", text(&self.commit).or_else(|| fake.map(|fake| commit(fake.seed))));
        put("ref", text(&self.r#ref));
        let build = object([
            ("root", text(&self.root)),
            ("dockerfile", text(&self.dockerfile)),
            ("target", text(&self.target)),
            ("args", object(self.arg.iter().map(|(name, value)| (name.as_str(), Some(json!(value)))))),
            ("secrets", (!self.secret.is_empty()).then(|| json!(self.secret))),
            ("ssh", (!self.ssh.is_empty()).then(|| json!(self.ssh))),
            ("platform", text(&self.platform)),
            ("no_cache", self.no_cache.then_some(true.into())),
            ("timeout_s", self.timeout.map(|limit| limit.as_secs().into())),
            ("variant", text(&self.variant)),
            ("rebuild", self.rebuild.then_some(true.into())),
        ]);
        put("build", build);
        put("requested_by", text(&self.requested_by));
        put("fake", fake.map(|fake| json!(fake)));
        Value::Object(event).to_string().into_bytes()
    }
}

impl Pretence {
    fn build(&self, seed: u64) -> FakeBuild {
        let usual = FakeBuild::default();
        FakeBuild {
            log_lines: self.log_lines.unwrap_or(usual.log_lines),
            line_interval_ms: self.line_interval_ms.unwrap_or(usual.line_interval_ms),
            layers: self.layers.unwrap_or(usual.layers),
            layer_bytes: self.layer_bytes.unwrap_or(usual.layer_bytes),
            outcome: self.outcome.unwrap_or(usual.outcome),
            seed,
        }
    }
}

fn new_id() -> String {
    BuildId::generate().to_string()
}

/// A commit id that no repository has, the same for the same seed.
fn commit(seed: u64) -> Value {
    let hash = Sha256::digest(format!("fake commit {seed}"));
    data_encoding::HEXLOWER.encode(&hash[..20]).into()
}

/// An object of what is there; nothing if nothing is.
fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Option<Value> {
    let fields = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let object: Map<String, Value> = fields.collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
