//! The publisher: the one way from a [`BuiltImage`] to an image that can be pulled.
//!
//! Order is the promise: layers and configuration, then the manifest, and the tag last, so that
//! nobody ever sees a name whose content is not whole.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use oci_spec::image::MediaType;
use tokio_util::sync::CancellationToken;

use super::compress::{Compressed, Format, compress};
use super::config::PublishConfig;
use super::manifest::{self, Summary};
use super::name::ImageName;
use super::one_at_a_time::OneAtATime;
use crate::build::docker::Way;
use crate::build::engine::{BuiltImage, Packed};
use crate::store::digest::Digest;
use crate::store::{Layer, Store, StoreError, TagOutcome, TagPut};
use crate::telemetry::pulse::Pulse;
use crate::timeline::sink::LogSink;

/// Layers that are looked for or stored at a time. Each is compressed on all cores; where they are small, the disk is
/// what takes the time.
const LAYERS_AT_ONCE: usize = 3;

/// How long a cancelled publish waits for the layer that is being stored.
const LEAVE: Duration = Duration::from_secs(2);

/// How long publishing may take from one piece to the next, or for one of its small steps. A publish has no limit on
/// the whole: that is a matter of size. The longest step between two pieces is the sync of a layer, of which the
/// system may hold back some gigabytes; a disk that takes longer for it has stopped.
pub const LONGEST_PIECE: Duration = Duration::from_secs(600);

/// After this long no publish goes on, so that what it reads from may be removed: a thousand gigabytes, on a disk that
/// takes ten megabytes a second.
pub const LONGEST: Duration = Duration::from_secs(28 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The name is taken by an image of another definition.
    #[error(
        "{name} is published already, built by another definition (root, dockerfile, target, args, secrets or platform); name a build.variant to build both, or set build.rebuild to replace it"
    )]
    Conflict { name: ImageName },
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine's layers could not be read, or are not what its configuration says.
    #[error("{0:#}")]
    Image(anyhow::Error),
    /// None of these: what should not happen.
    #[error("{0:#}")]
    Internal(anyhow::Error),
}

/// How an image is to be published.
#[derive(Clone)]
pub struct Publication<'a> {
    pub name: &'a ImageName,
    /// The digest of what was asked for, kept in the manifest.
    pub definition: Digest,
    /// What else the manifest says of the image.
    pub annotations: BTreeMap<String, String>,
    pub put: TagPut,
    /// Whether what it adds counts: its namespace may have only so much.
    pub has_quota: bool,
}

/// An image that can be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The digest of its manifest.
    pub digest: Digest,
    /// What a client without any of its layers downloads, in bytes.
    pub size: u64,
    /// The image was there already; this build added nothing.
    pub reused: bool,
}

/// What stands at an image's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Nothing,
    /// An image of the same definition.
    Same(Published),
    /// A tag whose manifest, with this digest, is gone or is not what it was, or of which a part is gone.
    Damaged(Digest),
}

/// Where the blob of a layer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was there.
    Store,
    Engine,
}

#[derive(Clone)]
pub struct Publisher {
    store: Store,
    source: Way,
    format: Format,
    in_hand: Arc<OneAtATime>,
}

impl Publisher {
    pub fn new(config: &PublishConfig, store: Store) -> Self {
        Self { store, source: config.source, format: Format::of(config), in_hand: Arc::default() }
    }

    /// The same store under another configuration.
    pub fn configured(&self, config: &PublishConfig) -> Self {
        Self { in_hand: self.in_hand.clone(), ..Self::new(config, self.store.clone()) }
    }

    /// How it is given what Docker engines have built.
    pub fn source(&self) -> Way {
        self.source
    }

    /// Where it publishes to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What stands at `name` already. An image of another definition is a conflict.
    pub async fn existing(&self, name: &ImageName, definition: Digest) -> Result<Existing, PublishError> {
        let Some(digest) = self.store.tag_to_rely_on(name).await? else { return Ok(Existing::Nothing) };
        // What the disk does not give is put anew by building it again.
        let is_damage = |error: &StoreError| {
            let is_unread = matches!(error, StoreError::Disk { .. } | StoreError::Io { action: "read", .. });
            is_unread || matches!(error, StoreError::Corrupt { .. })
        };
        let bytes = match self.store.manifest(&name.repository, digest).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Existing::Damaged(digest)),
            Err(error) if is_damage(&error) => return Ok(Existing::Damaged(digest)),
            Err(error) => return Err(error.into()),
        };
        let Ok(summary) = Summary::read(&bytes) else { return Ok(Existing::Damaged(digest)) };
        if summary.definition.as_deref() != Some(definition.to_string().as_str()) {
            return Err(PublishError::Conflict { name: name.clone() });
        }
        match self.store.is_whole(&name.repository, digest).await {
            Ok(true) => Ok(Existing::Same(Published { digest, size: summary.size, reused: true })),
            Ok(false) => Ok(Existing::Damaged(digest)),
            Err(error) if is_damage(&error) => Ok(Existing::Damaged(digest)),
            Err(error) => Err(error.into()),
        }
    }

    /// The digest that `name` has now, for a rebuild to replace.
    pub async fn current(&self, name: &ImageName) -> Result<Option<Digest>, PublishError> {
        Ok(self.store.tag(name).await?)
    }

    /// Publishes `image`. If another build was faster, its image stands and is returned as
    /// reused; if that one has another definition, it is a conflict. `pulse` beats with each piece of a layer.
    pub async fn publish(
        &self,
        image: Arc<BuiltImage>,
        publication: Publication<'_>,
        log: &LogSink,
        cancel: &CancellationToken,
        pulse: &Pulse,
    ) -> Result<Published, PublishError> {
        let Publication { name, definition, mut annotations, put, has_quota } = publication;
        // Where one fails, the others end with it.
        let together = cancel.child_token();
        let _end = together.clone().drop_guard();
        // One that stands twice is the same.
        let distinct: HashMap<_, _> =
            (0..image.diff_ids.len()).map(|index| (image.diff_ids[index], index)).collect();
        let stored: HashMap<_, _> = stream::iter(distinct)
            .map(|(diff_id, index)| {
                let layer = self.layer(&image, index, log, &together, pulse);
                async move { layer.await.map(|layer| (diff_id, layer)) }
            })
            .buffer_unordered(LAYERS_AT_ONCE)
            .inspect_ok(|_| pulse.beat())
            .try_collect()
            .await?;
        let bytes_from = |wanted: Origin| {
            stored.values().filter(|(_, from)| *from == wanted).map(|(layer, _)| layer.size).sum::<u64>()
        };
        let (fresh, known) = (bytes_from(Origin::Engine), bytes_from(Origin::Store));
        let layers: Vec<_> = image.diff_ids.iter().map(|diff_id| stored[diff_id].0.clone()).collect();
        let config = Layer {
            media_type: MediaType::ImageConfig,
            digest: Digest::of(&image.config),
            size: image.config.len() as u64,
        };
        annotations.insert(manifest::DEFINITION.to_owned(), definition.to_string());
        let bytes = manifest::assemble(&config, &layers, &annotations).map_err(PublishError::Internal)?;
        if has_quota {
            let parts = layers.iter().chain([&config]).map(|part| (part.digest, part.size));
            let all = parts.chain([(Digest::of(&bytes), bytes.len() as u64)]).collect();
            self.store.note_usage(&name.repository, all).await?;
        }
        self.store.put_blob(image.config.clone()).await?;
        let parts = layers.iter().chain([&config]).map(|part| part.digest).collect();
        self.store.link_blobs(&name.repository, parts).await?;
        let digest = self.store.put_manifest(&name.repository, bytes).await?;
        metrics::counter!("buildgrid_published_bytes_total", "source" => "stored").increment(fresh);
        metrics::counter!("buildgrid_published_bytes_total", "source" => "reused").increment(known);
        if cancel.is_cancelled() {
            return Err(PublishError::Cancelled);
        }
        match self.store.put_tag(name, digest, put).await? {
            TagOutcome::Put => {
                let size = config.size + layers.iter().map(|layer| layer.size).sum::<u64>();
                Ok(Published { digest, size, reused: false })
            }
            TagOutcome::Exists(_) => match self.existing(name, definition).await? {
                Existing::Same(existing) => Ok(existing),
                Existing::Nothing | Existing::Damaged(_) => Err(PublishError::Internal(anyhow::anyhow!(
                    "{name} was published by another build and is gone again"
                ))),
            },
        }
    }

    /// The stored blob of one layer: the one that is there, or a new one.
    async fn layer(
        &self,
        image: &Arc<BuiltImage>,
        index: usize,
        log: &LogSink,
        cancel: &CancellationToken,
        pulse: &Pulse,
    ) -> Result<(Layer, Origin), PublishError> {
        let diff_id = image.diff_ids[index];
        let place = format!("layer {} of {}", index + 1, image.diff_ids.len());
        let held = cancel.run_until_cancelled(self.in_hand.hold(diff_id, pulse)).await;
        let _held = held.ok_or(PublishError::Cancelled)?;
        // It is read whole, which takes its time for a large one.
        let known = cancel.run_until_cancelled(self.known(image, index, pulse)).await;
        if let Some(known) = known.ok_or(PublishError::Cancelled)?? {
            log.status(format!(
                "{place}: already stored ({})",
                bytesize::ByteSize(known.size).display().si()
            ))
            .await;
            return Ok((known, Origin::Store));
        }
        let started = std::time::Instant::now();
        let layer = self.store_layer(image.clone(), index, cancel.clone(), pulse.clone()).await?;
        // Of one that came compressed nobody has seen that it is the layer of that diff id: its manifest says so, which may
        // be anybody's. Under its own digest it is found all the same.
        if self.packed(image, index).is_none() {
            self.store.index_layer(diff_id, &layer).await?;
        }
        log.status(format!(
            "{place}: stored {} in {:.1} s",
            bytesize::ByteSize(layer.size).display().si(),
            started.elapsed().as_secs_f64()
        ))
        .await;
        Ok((layer, Origin::Engine))
    }

    /// The layer at `index` as the engine has compressed it, where every client can pull that which can pull what this
    /// publisher makes.
    fn packed<'a>(&self, image: &'a BuiltImage, index: usize) -> Option<&'a Packed> {
        image.packed_layer(index).filter(|packed| self.format.is_at_least(&packed.layer.media_type))
    }

    /// The stored blob of the layer at `index`, if there is one.
    async fn known(
        &self,
        image: &BuiltImage,
        index: usize,
        pulse: &Pulse,
    ) -> Result<Option<Layer>, StoreError> {
        match (self.store.find_layer(image.diff_ids[index], pulse).await?, self.packed(image, index)) {
            (None, Some(packed)) => {
                Ok(self.store.has_layer(&packed.layer, pulse).await?.then(|| packed.layer.clone()))
            }
            (known, _) => Ok(known),
        }
    }

    async fn store_layer(
        &self,
        image: Arc<BuiltImage>,
        index: usize,
        cancel: CancellationToken,
        pulse: Pulse,
    ) -> Result<Layer, PublishError> {
        let (store, format, cancelled) = (self.store.clone(), self.format, cancel.clone());
        let packed = self.packed(&image, index).cloned();
        let span = tracing::Span::current();
        let pass = move || -> Result<Layer, PublishError> {
            let _entered = span.enter();
            let expected = image.diff_ids[index];
            // What the store could not write comes through the same pass as what could not be read.
            let failed = |error: io::Error| match (cancel.is_cancelled(), error.downcast::<StoreError>()) {
                (true, _) => PublishError::Cancelled,
                (false, Ok(error)) => PublishError::Store(error),
                (false, Err(error)) => PublishError::Image(
                    anyhow::Error::from(error).context(format!("store the layer {expected}")),
                ),
            };
            if let Some(Packed { layer, path }) = packed {
                let place = || path.display().to_string();
                let file = File::open(&path).with_context(place).map_err(PublishError::Image)?;
                let found = store.take_layer(&file, &layer, &pulse, &cancel).map_err(failed)?;
                if found != layer.digest {
                    return Err(PublishError::Image(anyhow::anyhow!("{} has the digest {found}", place())));
                }
                return Ok(layer);
            }
            let layer = image
                .open_layer(index)
                .with_context(|| format!("open the layer {expected}"))
                .map_err(PublishError::Image)?;
            let Compressed { diff_id, writer, .. } =
                compress(pulse.reading(layer), store.blob_writer()?, format, &cancel).map_err(failed)?;
            if diff_id != expected {
                return Err(PublishError::Image(anyhow::anyhow!(
                    "the engine's layer {expected} has the digest {diff_id}; nothing was published"
                )));
            }
            let goes_on = || match cancel.is_cancelled() {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => {
                    pulse.beat();
                    Ok(())
                }
            };
            let (digest, size) = writer.commit_while(&goes_on).map_err(failed)?;
            Ok(Layer { media_type: format.media_type(), digest, size })
        };
        let stored = tokio::select! {
            stored = tokio::task::spawn_blocking(pass) => stored,
            // A slow disk may still have to take what was written. A blob that nothing names harms nobody.
            () = async { cancelled.cancelled().await; tokio::time::sleep(LEAVE).await } => {
                return Err(PublishError::Cancelled);
            }
        };
        stored.context("compress a layer").map_err(PublishError::Internal)?
    }
}
