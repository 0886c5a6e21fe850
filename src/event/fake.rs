//! The `fake` part of a deploy event: a build that goes the whole way except git and Docker.

use serde::{Deserialize, Serialize};

/// What a fake build does. Bounds keep a smoke test from filling a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeBuild {
    /// Lines written to the log, at most [`MAX_LINES`].
    pub log_lines: u32,
    /// Pause after each line, in milliseconds, at most [`MAX_INTERVAL_MS`].
    pub line_interval_ms: u32,
    /// Layers of the image, at most [`MAX_LAYERS`].
    pub layers: u32,
    /// Bytes of the one file in each layer, at most [`MAX_LAYER_BYTES`].
    pub layer_bytes: u64,
    /// How it ends.
    pub outcome: FakeOutcome,
    /// The image's bytes follow from it: the same seed gives the same layers.
    pub seed: u64,
}

pub const MAX_LINES: u32 = 10_000_000;
pub const MAX_INTERVAL_MS: u32 = 60_000;
pub const MAX_LAYERS: u32 = 127;
pub const MAX_LAYER_BYTES: u64 = 8 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FakeOutcome {
    Published,
    BuildFailed,
    Infrastructure,
    /// Never ends by itself: for time limits, cancellation and draining.
    Hang,
}

impl Default for FakeBuild {
    fn default() -> Self {
        Self {
            log_lines: 200,
            line_interval_ms: 0,
            layers: 2,
            layer_bytes: 65536,
            outcome: FakeOutcome::Published,
            seed: 1,
        }
    }
}

impl FakeBuild {
    /// The first bound that is passed, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let bound = |name: &str, value: u64, most: u64| match value > most {
            true => Err(format!("fake.{name} is {value}; at most {most} is taken")),
            false => Ok(()),
        };
        bound("log_lines", self.log_lines.into(), MAX_LINES.into())?;
        bound("line_interval_ms", self.line_interval_ms.into(), MAX_INTERVAL_MS.into())?;
        bound("layers", self.layers.into(), MAX_LAYERS.into())?;
        bound("layer_bytes", self.layer_bytes, MAX_LAYER_BYTES)
    }
}
