//! An image: what builds and deploys say of it, and what is in it, where this service sees the store.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageManifest};
use serde::Deserialize;
use time::OffsetDateTime;

use super::access::Principal;
use super::db::builds::BuildRow;
use super::refusal::Refusal;
use super::service::Timeline;
use super::timeline::{self, Deployed};
use crate::publish::manifest::DEFINITION;
use crate::publish::name::{ImageName, ImageRepository};
use crate::store::digest::Digest;
use crate::store::{Store, StoreError};
use crate::timeline::protocol::Build;

/// The largest configuration of an image that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// Builds of one commit, and deploys of one image, that are looked at.
const MOST: usize = 50;
/// Digits of a commit, with which a tag begins.
const COMMIT: usize = 40;

/// All that is known of an image.
#[derive(Debug)]
pub struct Image {
    pub name: ImageName,
    /// What `docker pull` takes.
    pub url: String,
    /// The build that made it, as far as is known.
    pub made: Option<Build>,
    /// The newest builds that ended with it, newest first.
    pub builds: Vec<Build>,
    /// Newest first.
    pub deploys: Vec<Deployed>,
    pub content: Result<Content, Missing>,
    pub previous: Option<Previous>,
}

/// Why it is not known what is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The service sees no store.
    NoStore,
    /// The store has no image of this name.
    Gone,
    /// What the store has cannot be read.
    Unreadable,
}

/// What is in an image.
#[derive(Debug, Clone)]
pub struct Content {
    pub digest: Digest,
    /// What a client without any of its layers downloads, in bytes.
    pub size: u64,
    pub layers: Vec<Layer>,
    pub config: Configuration,
    /// The digest of the definition it was built by.
    pub definition: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub digest: String,
    /// Compressed, in bytes.
    pub size: u64,
    /// The step that made it, as the configuration's history has it.
    pub step: Option<String>,
}

/// The image of the same repository that was published before.
#[derive(Debug)]
pub struct Previous {
    pub build: Build,
    pub layers: Vec<Layer>,
    pub size: u64,
}

/// An image's configuration (OCI image specification 1.1, "Image Configuration"); what is missing or null is empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Configuration {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
    config: Option<Execution>,
    history: Option<Vec<Step>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Execution {
    pub user: Option<String>,
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub working_dir: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Step {
    created_by: Option<String>,
    empty_layer: bool,
}

impl Configuration {
    pub fn execution(&self) -> Execution {
        self.config.clone().unwrap_or_default()
    }

    /// The steps that made layers, in their order.
    fn steps(&self) -> Vec<Option<String>> {
        let history = self.history.iter().flatten();
        history.filter(|step| !step.empty_layer).map(|step| step.created_by.clone()).collect()
    }
}

/// The image that an address names: `namespace`, and `<app>.<repository>:<tag>`.
pub(super) async fn visible(
    timeline: &Timeline,
    principal: &Principal,
    namespace: &str,
    image: &str,
) -> Result<Image, Refusal> {
    let absent = || Refusal::NotFound(format!("image {namespace:.100}/{image:.300}"));
    let name = image_name(namespace, image).ok_or_else(absent)?;
    principal.must_see(&name.repository.namespace, || format!("image {namespace:.100}/{image:.300}"))?;
    let now = OffsetDateTime::now_utc();
    let shown = |row: BuildRow| row.shown(&timeline.base, now);
    let builds = timeline.database.builds_of_image(&name, MOST).await?;
    let builds: Vec<Build> = builds.into_iter().map(shown).collect();
    let store = timeline.store();
    let content = match &store {
        Err(error) => Err(missing(&name, error)),
        Ok(store) => content(store, &name).await,
    };
    if builds.is_empty() && content.is_err() {
        return Err(absent());
    }
    let url = builds.iter().find_map(|build| build.image.clone());
    let url = url.unwrap_or_else(|| name.url(&timeline.registry_host()));
    let digest = content.as_ref().ok().map(|content| content.digest);
    let mut made = timeline.database.maker(&name, digest).await?;
    if made.is_none() && digest.is_some() {
        // What the store has was made by a build that is not known here.
        made = timeline.database.maker(&name, None).await?;
    }
    let made = made.map(shown).or_else(|| builds.last().cloned());
    let previous = match (&store, &made) {
        (Ok(store), Some(made)) => previous(timeline, store, made, &name, digest).await?,
        _ => None,
    };
    let deploys = timeline::of_image(timeline, &name.repository, &builds, &url, MOST).await?;
    Ok(Image { name, url, made, builds, deploys, content, previous })
}

fn image_name(namespace: &str, image: &str) -> Option<ImageName> {
    let (repository, tag) = image.split_once(':')?;
    let repository: ImageRepository = format!("{namespace}/{repository}").parse().ok()?;
    Some(ImageName { repository, tag: tag.parse().ok()? })
}

/// Why a store cannot say what is in an image; what is an operator's matter stands in the log.
fn missing(name: &ImageName, error: &StoreError) -> Missing {
    match error {
        StoreError::NoStore(_) => Missing::NoStore,
        error => {
            tracing::warn!(image = %name, %error, "an image in the store cannot be read");
            Missing::Unreadable
        }
    }
}

async fn content(store: &Store, name: &ImageName) -> Result<Content, Missing> {
    let read = async {
        match store.tag(name).await? {
            Some(digest) => content_of(store, &name.repository, digest).await,
            None => Ok(None),
        }
    };
    read.await.map_err(|error| missing(name, &error))?.ok_or(Missing::Gone)
}

/// The content of a manifest, if the store has it whole.
async fn content_of(
    store: &Store,
    repository: &ImageRepository,
    digest: Digest,
) -> Result<Option<Content>, StoreError> {
    let invalid =
        |digest, error: serde_json::Error| StoreError::Manifest { digest, reason: error.to_string() };
    let Some(bytes) = store.manifest(repository, digest).await? else { return Ok(None) };
    let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(|error| invalid(digest, error))?;
    let Ok(config) = manifest.config().digest().to_string().parse::<Digest>() else { return Ok(None) };
    let Some(bytes) = store.read_blob(repository, config, MAX_CONFIG).await? else { return Ok(None) };
    let configuration: Configuration =
        serde_json::from_slice(&bytes).map_err(|error| invalid(config, error))?;
    let steps = configuration.steps();
    // A history that does not tell of every layer tells of none.
    let tells = steps.len() == manifest.layers().len();
    let layer = |(index, layer): (usize, &Descriptor)| Layer {
        digest: layer.digest().to_string(),
        size: layer.size(),
        step: steps.get(index).filter(|_| tells).cloned().flatten(),
    };
    let annotations = manifest.annotations().as_ref();
    Ok(Some(Content {
        digest,
        size: manifest.config().size() + manifest.layers().iter().map(Descriptor::size).sum::<u64>(),
        layers: manifest.layers().iter().enumerate().map(layer).collect(),
        definition: annotations.and_then(|all| all.get(DEFINITION)).cloned(),
        config: configuration,
    }))
}

/// What was published before `made`, from the same repository under the same variant, and is another image.
async fn previous(
    timeline: &Timeline,
    store: &Store,
    made: &Build,
    name: &ImageName,
    digest: Option<Digest>,
) -> Result<Option<Previous>, Refusal> {
    let variant = name.tag.as_str().get(COMMIT..).unwrap_or_default();
    let Some(row) = timeline.database.predecessor(made, variant, digest).await? else { return Ok(None) };
    let build = row.shown(&timeline.base, OffsetDateTime::now_utc());
    let Some(other) = build.digest else { return Ok(None) };
    Ok(match content_of(store, &name.repository, other).await {
        Ok(found) => found.map(|content| Previous { build, layers: content.layers, size: content.size }),
        Err(error) => {
            tracing::warn!(repository = %name.repository, digest = %other, %error, "the previous image cannot be read");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_of_any_engine_are_read() {
        let bare: Configuration = serde_json::from_str("{}").unwrap();
        assert!(bare.steps().is_empty() && bare.execution().env.is_none());
        let full = r#"{"os":"linux","architecture":"arm64","variant":"v8","config":{"Env":null,"Cmd":["sh"],
            "ExposedPorts":{"3000/tcp":{}},"OnBuild":null,"ArgsEscaped":true},"rootfs":{"type":"layers"},
            "history":[{"created_by":"ADD x","created":"2026-01-01T00:00:00Z"},
            {"created_by":"CMD","empty_layer":true},{"comment":"imported"}]}"#;
        let full: Configuration = serde_json::from_str(full).unwrap();
        assert_eq!(full.steps(), [Some("ADD x".to_owned()), None]);
        assert_eq!(full.execution().cmd.unwrap(), ["sh"]);
    }

    #[test]
    fn addresses_name_images_or_nothing() {
        let name = image_name("acme", "shop.storefront:9fceb02").unwrap();
        assert_eq!(name.to_string(), "acme/shop.storefront:9fceb02");
        for (namespace, image) in
            [("acme", "shop.storefront"), ("acme", "shop:x"), ("a/b", "c.d:x"), ("acme", "a.b:../x")]
        {
            assert!(image_name(namespace, image).is_none(), "{image}");
        }
    }
}
