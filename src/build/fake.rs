//! The fake engine: it pretends to build, and yields a real image whose bytes follow from its seed.
//! Smoke tests take it the whole way, except git and Docker.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Cursor, Read};
use std::time::Duration;

use oci_spec::image::{Arch, ConfigBuilder, HistoryBuilder, ImageConfigurationBuilder, Os, RootFsBuilder};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::engine::{BuildError, BuildFailure, BuiltImage, EXCERPT_LINES, Layers};
use crate::event::fake::{FakeBuild, FakeOutcome};
use crate::store::digest::{Digest, Digesting};
use crate::timeline::entry::Stream;
use crate::timeline::sink::LogSink;

/// When every fake image was made (RFC 3339): a constant, so that the same seed gives the same bytes.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// The tar format's unit; a file's content is padded to it, and two empty ones end the archive.
const BLOCK: usize = 512;

/// Pretends to build as `spec` says, with `labels` on the image.
///
/// # Errors
/// Those that `spec.outcome` asks for; [`BuildError::Cancelled`] as soon as `cancel` is.
pub async fn build(
    spec: &FakeBuild,
    labels: BTreeMap<String, String>,
    log: &LogSink,
    cancel: &CancellationToken,
) -> Result<BuiltImage, BuildError> {
    let run = run(spec, labels, log, cancel);
    cancel.run_until_cancelled(run).await.unwrap_or(Err(BuildError::Cancelled))
}

async fn run(
    spec: &FakeBuild,
    labels: BTreeMap<String, String>,
    log: &LogSink,
    cancel: &CancellationToken,
) -> Result<BuiltImage, BuildError> {
    let half = spec.log_lines / 2;
    let mut excerpt = VecDeque::with_capacity(EXCERPT_LINES);
    let mut step = "[1/2] RUN fake step";
    for number in 0..spec.log_lines {
        if number == half {
            step = "[2/2] RUN fake step";
            excerpt.clear();
        }
        let text = format!("fake line {} of {}", number + 1, spec.log_lines);
        if excerpt.len() == EXCERPT_LINES {
            excerpt.pop_front();
        }
        excerpt.push_back(text.clone());
        log.write(Stream::Stdout, Some(step), &text).await;
        if spec.line_interval_ms > 0 {
            tokio::time::sleep(Duration::from_millis(spec.line_interval_ms.into())).await;
        }
    }
    match spec.outcome {
        FakeOutcome::Published => image(spec.clone(), labels, cancel.clone()).await,
        FakeOutcome::BuildFailed => Err(BuildError::Failed(BuildFailure {
            reason: format!("step {step}: exit code 1"),
            step: Some(step.to_string()),
            excerpt: excerpt.into(),
            ..BuildFailure::default()
        })),
        FakeOutcome::Infrastructure => {
            Err(BuildError::Infrastructure("the fake engine is away, as its event asked".to_owned()))
        }
        FakeOutcome::Hang => std::future::pending().await,
    }
}

async fn image(
    spec: FakeBuild,
    labels: BTreeMap<String, String>,
    cancel: CancellationToken,
) -> Result<BuiltImage, BuildError> {
    let layers = FakeLayers { seed: spec.seed, count: spec.layers as usize, bytes: spec.layer_bytes };
    let made = tokio::task::spawn_blocking(move || -> anyhow::Result<BuiltImage> {
        let diff_ids = (0..layers.count)
            .map(|index| {
                // Up to a terabyte: nobody reads on for a build that was cancelled.
                let layer = UntilCancelled { layer: layers.open(index)?, cancel: cancel.clone() };
                let mut layer = Digesting::new(layer);
                io::copy(&mut layer, &mut io::sink())?;
                Ok(layer.finish().0)
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(BuiltImage::new(config(&diff_ids, labels)?, diff_ids, layers))
    });
    let image =
        made.await.map_err(|error| BuildError::Infrastructure(format!("the fake engine: {error}")))?;
    image.map_err(|error| BuildError::Infrastructure(format!("the fake engine: {error:#}")))
}

fn config(diff_ids: &[Digest], labels: BTreeMap<String, String>) -> anyhow::Result<Vec<u8>> {
    let history = (0..diff_ids.len())
        .map(|index| {
            HistoryBuilder::default().created(CREATED).created_by(format!("fake layer {index}")).build()
        })
        .collect::<Result<Vec<_>, oci_spec::OciSpecError>>()?;
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(diff_ids.iter().map(Digest::to_string).collect::<Vec<_>>())
        .build()?;
    let config = ImageConfigurationBuilder::default()
        .created(CREATED)
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(
            ConfigBuilder::default()
                .labels(labels.into_iter().collect::<std::collections::HashMap<_, _>>())
                .build()?,
        )
        .rootfs(rootfs)
        .history(history)
        .build()?;
    // oci-spec keeps labels in a hash map, whose order differs from run to run.
    let mut value = serde_json::to_value(config)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

/// Layers that are computed while they are read.
#[derive(Clone, Copy)]
struct FakeLayers {
    seed: u64,
    count: usize,
    bytes: u64,
}

impl Layers for FakeLayers {
    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send>> {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("fake/layer-{index}"))?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(self.bytes);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let padding = (BLOCK as u64 - self.bytes % BLOCK as u64) % BLOCK as u64;
        let end = io::repeat(0).take(padding + 2 * BLOCK as u64);
        let content = Noise::new(self.seed, index as u64).take(self.bytes);
        Ok(Box::new(Cursor::new(*header.as_bytes()).chain(content).chain(end)))
    }
}

/// A layer that cannot be read any more once the build is cancelled.
struct UntilCancelled<R> {
    layer: R,
    cancel: CancellationToken,
}

impl<R: Read> Read for UntilCancelled<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.cancel.is_cancelled() {
            true => Err(io::Error::other("the build is cancelled")),
            false => self.layer.read(buffer),
        }
    }
}

/// Endless bytes from a seed, the same however they are read: ChaCha20 counts in words and would
/// skip the rest of one at the end of an odd read, so it only ever fills the whole block.
struct Noise {
    generator: ChaCha20Rng,
    block: Box<[u8; 4096]>,
    used: usize,
}

impl Noise {
    fn new(seed: u64, stream: u64) -> Self {
        let mut generator = ChaCha20Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Self { generator, block: Box::new([0; 4096]), used: 4096 }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.block.len() {
            self.generator.fill_bytes(self.block.as_mut_slice());
            self.used = 0;
        }
        let count = buffer.len().min(self.block.len() - self.used);
        buffer[..count].copy_from_slice(&self.block[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "fake_tests.rs"]
mod tests;
