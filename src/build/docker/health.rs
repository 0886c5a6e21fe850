//! Two short questions to an engine: is it there, and what does it build for.

use super::engine::DockerEngine;
use crate::build::engine::BuildError;

impl DockerEngine {
    /// Whether the engine answers within `engine.timeout`; the error says why not.
    pub async fn answers(&self) -> Result<(), BuildError> {
        let docker = self.short();
        self.within(docker.ping()).await.map(drop)
    }

    /// What it builds for unless a build asks for another platform: `linux/amd64`.
    pub async fn platform(&self) -> Result<String, BuildError> {
        let docker = self.short();
        let version = self.within(docker.version()).await?;
        match (version.os, version.arch) {
            (Some(os), Some(arch)) => Ok(format!("{os}/{arch}")),
            _ => Err(self.lost("does not say which platform it is for")),
        }
    }
}
