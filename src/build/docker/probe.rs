//! Questions to an engine: whether it is there, what it builds for, what it is and what it cannot do.

use std::path::PathBuf;

use bollard::models::{SystemInfo, SystemVersion};
use serde::Serialize;

use super::config::EngineConfig;
use super::engine::DockerEngine;
use super::storage::{self, Storage};
use super::transport::Address;
use crate::build::engine::BuildError;

/// The first API version with BuildKit (Docker 18.09).
const BUILDKIT_SINCE: (u32, u32) = (1, 39);

/// An engine that has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineInfo {
    pub version: String,
    pub api_version: String,
    /// What it builds for unless an event asks for another platform: `linux/amd64`.
    pub platform: String,
    /// Its storage driver, or that it keeps images in containerd.
    pub storage: String,
    /// Without BuildKit no build can be done.
    pub buildkit: bool,
    /// The version of its control groups: `1` or `2`.
    pub cgroup: String,
    /// What this engine cannot enforce or does not tell, in sentences for its operator.
    pub limits: Vec<String>,
}

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

    /// Where the engine keeps what it builds, on this machine; or else why that cannot be looked at.
    pub async fn root(&self) -> Result<Result<PathBuf, String>, BuildError> {
        let docker = self.short();
        let info = self.within(docker.info()).await?;
        Ok(root(&info, self.config()))
    }

    /// Whether the engine takes a context as a tar. With its containerd image store it does so since Docker 28: before, it
    /// looks for the tar's made-up address in the network (moby/moby#47717).
    pub async fn takes_tar(&self) -> Result<bool, BuildError> {
        Ok(takes_tar(&self.lately().await?))
    }

    /// Where and how the engine keeps its images, on this machine; or else why they are not read there.
    pub(super) async fn storage(&self) -> Result<Result<Storage, String>, BuildError> {
        let info = self.lately().await?;
        Ok(root(&info, self.config()).and_then(|root| Storage::of(&info, root)))
    }

    /// Why images cannot be read in the engine's storage, if they cannot.
    ///
    /// # Errors
    /// [`BuildError::Infrastructure`] when the engine does not answer within `engine.timeout`.
    pub async fn storage_refused(&self) -> Result<Option<String>, BuildError> {
        let storage = match self.storage().await? {
            Ok(storage) => storage,
            Err(reason) => return Ok(Some(reason)),
        };
        match tokio::task::spawn_blocking(move || storage.readable()).await {
            Ok(readable) => Ok(readable.err().map(|error| storage::refused(&error))),
            Err(failed) => Err(self.lost(&format!("has storage that cannot be looked at: {failed}"))),
        }
    }

    /// Asks the engine what it is.
    ///
    /// # Errors
    /// [`BuildError::Infrastructure`] when it does not answer within `engine.timeout`.
    pub async fn probe(&self) -> Result<EngineInfo, BuildError> {
        let docker = self.short();
        let (version, info) =
            self.within(async { tokio::try_join!(docker.version(), docker.info()) }).await?;
        Ok(describe(version, &info, self.config(), clipping(self.config()).await))
    }
}

fn root(info: &SystemInfo, config: &EngineConfig) -> Result<PathBuf, String> {
    match (config.host.parse(), info.docker_root_dir.as_deref()) {
        (Ok(Address::Unix(_)), Some(root)) if !root.is_empty() => Ok(PathBuf::from(root)),
        (Ok(Address::Unix(_)), _) => Err("the engine does not say where it keeps its data".to_owned()),
        _ => Err(format!("{} may be another machine's", config.host)),
    }
}

fn describe(
    version: SystemVersion,
    info: &SystemInfo,
    config: &EngineConfig,
    clipping: Clipping,
) -> EngineInfo {
    let unknown = || "unknown".to_owned();
    let os = version.os.unwrap_or_else(unknown);
    let api_version = version.api_version.unwrap_or_else(unknown);
    EngineInfo {
        platform: format!("{os}/{}", version.arch.unwrap_or_else(unknown)),
        buildkit: os == "linux" && parts(&api_version).is_some_and(|api| api >= BUILDKIT_SINCE),
        storage: images(info),
        cgroup: info.cgroup_version.map_or_else(unknown, |version| version.to_string()),
        limits: limits(info, config, &clipping),
        version: version.version.unwrap_or_else(unknown),
        api_version,
    }
}

fn parts(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn images(info: &SystemInfo) -> String {
    let driver = info.driver.as_deref().unwrap_or("unknown");
    if is_containerd(info) { format!("containerd image store ({driver})") } else { driver.to_owned() }
}

fn takes_tar(info: &SystemInfo) -> bool {
    let version = info.server_version.as_deref().and_then(parts);
    !is_containerd(info) || version.is_some_and(|version| version >= (28, 0))
}

/// Whether the engine keeps its images in containerd: the driver is then a snapshotter (moby,
/// daemon/containerd/service.go).
pub(super) fn is_containerd(info: &SystemInfo) -> bool {
    info.driver_status.iter().flatten().any(|status| {
        matches!(status.as_slice(), [key, value] if key == "driver-type" && value.starts_with("io.containerd."))
    })
}

/// Whether BuildKit cuts the output of a step (moby/buildkit, util/progress/logs).
#[derive(Debug, PartialEq, Eq)]
enum Clipping {
    Never,
    /// By size or by speed; which variables would have to be -1.
    Cuts(Vec<&'static str>),
    /// It cannot be seen, for this reason.
    Unknown(String),
}

/// The limits of a step's output, which only the engine's environment has.
const CLIP_LIMITS: [&str; 2] = ["BUILDKIT_STEP_LOG_MAX_SIZE", "BUILDKIT_STEP_LOG_MAX_SPEED"];

/// The engine does not tell over its API. Where it is a process of this machine whose environment may be read,
/// that says it.
async fn clipping(config: &EngineConfig) -> Clipping {
    let Ok(Address::Unix(path)) = config.host.parse() else {
        return Clipping::Unknown("it runs on another machine".to_owned());
    };
    let read = async {
        let process = tokio::net::UnixStream::connect(path).await?.peer_cred()?.pid();
        let process = process.ok_or_else(|| std::io::Error::other("its process is not known"))?;
        let name = tokio::fs::read_to_string(format!("/proc/{process}/comm")).await?;
        // Where systemd listens for it, the socket is systemd's.
        if name.trim_end() != "dockerd" {
            let reason = format!("its socket belongs to {}, not to dockerd", name.trim_end());
            return Err(std::io::Error::other(reason));
        }
        tokio::fs::read(format!("/proc/{process}/environ")).await
    };
    match read.await {
        Ok(environment) => clipping_in(&environment),
        Err(error) => Clipping::Unknown(error.to_string()),
    }
}

fn clipping_in(environment: &[u8]) -> Clipping {
    let is_lifted = |name: &&str| {
        let lifted = format!("{name}=-1");
        environment.split(|&byte| byte == 0).any(|variable| variable == lifted.as_bytes())
    };
    let missing: Vec<&str> = CLIP_LIMITS.into_iter().filter(|name| !is_lifted(name)).collect();
    if missing.is_empty() { Clipping::Never } else { Clipping::Cuts(missing) }
}

impl Clipping {
    fn words(&self) -> Option<String> {
        match self {
            Self::Never => None,
            Self::Cuts(missing) => Some(format!(
                "a step's output is cut (at 2 MiB, and at 200 KiB/s, unless told otherwise); set {} in the engine's \
                 environment to lift it",
                missing.iter().map(|name| format!("{name}=-1")).collect::<Vec<_>>().join(" and ")
            )),
            Self::Unknown(reason) => Some(format!(
                "whether a step's output is cut (at 2 MiB, and at 200 KiB/s, unless told otherwise) cannot be seen: \
                 {reason}; the log marks where it was. Set BUILDKIT_STEP_LOG_MAX_SIZE=-1 and \
                 BUILDKIT_STEP_LOG_MAX_SPEED=-1 in the engine's environment"
            )),
        }
    }
}

fn limits(info: &SystemInfo, config: &EngineConfig, clipping: &Clipping) -> Vec<String> {
    let mut limits = vec![
        "memory, CPU and process limits of build steps are the engine's alone to keep: its API takes none for BuildKit. \
         Set cgroup-parent in its daemon.json to a control group that has limits, with the cgroup driver cgroupfs (the \
         README shows how); the limits of its systemd unit do not hold for build steps"
            .to_owned(),
    ];
    limits.extend(clipping.words());
    if matches!(config.host.parse(), Ok(Address::Tcp(_))) {
        limits.push(
            "the connection to the engine is neither encrypted nor authenticated; use its socket, or keep the \
             network between to yourself"
                .to_owned(),
        );
    }
    if !config.dedicated {
        limits.push(
            "the engine's build cache is not pruned by BuildGrid, since nothing in it says whose it is; set \
             engine.dedicated if this engine builds for BuildGrid alone, or let the engine's own garbage collection \
             keep it within bounds"
                .to_owned(),
        );
    }
    if info
        .security_options
        .iter()
        .flatten()
        .all(|option| !option.contains("name=rootless") && !option.contains("name=userns"))
    {
        limits.push(
            "root in a build step is root on the engine's machine, behind namespaces alone; a rootless engine or \
             userns-remap separates them"
                .to_owned(),
        );
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_an_engine_with_the_containerd_image_store() {
        let version = SystemVersion {
            version: Some("28.5.1".into()),
            api_version: Some("1.51".into()),
            os: Some("linux".into()),
            arch: Some("arm64".into()),
            ..SystemVersion::default()
        };
        let info = SystemInfo {
            driver: Some("overlayfs".into()),
            driver_status: Some(vec![vec!["driver-type".into(), "io.containerd.snapshotter.v1".into()]]),
            security_options: Some(vec!["name=seccomp,profile=builtin".into(), "name=rootless".into()]),
            ..SystemInfo::default()
        };
        let config = EngineConfig::default();
        let described = describe(version, &info, &config, Clipping::Never);
        assert_eq!(described.platform, "linux/arm64");
        assert_eq!(described.storage, "containerd image store (overlayfs)");
        assert!(described.buildkit);
        assert_eq!(described.limits.len(), 2, "a rootless engine has one less: {:?}", described.limits);
    }

    #[test]
    fn buildkit_came_with_api_1_39() {
        let version = |api: &str| SystemVersion {
            api_version: Some(api.into()),
            os: Some("linux".into()),
            ..SystemVersion::default()
        };
        let buildkit = |api| {
            describe(version(api), &SystemInfo::default(), &EngineConfig::default(), Clipping::Never).buildkit
        };
        assert_eq!(["1.38", "1.39", "2.0", "?"].map(buildkit), [false, true, true, false]);
    }

    #[test]
    fn a_containerd_image_store_takes_a_tar_since_docker_28() {
        let info = |version: &str, kind: &str| SystemInfo {
            server_version: Some(version.into()),
            driver_status: Some(vec![vec!["driver-type".into(), kind.into()]]),
            ..SystemInfo::default()
        };
        let containerd = |version| takes_tar(&info(version, "io.containerd.snapshotter.v1"));
        let versions = ["26.1.5+dfsg1", "27.5.1", "28.0.0", "28.0.0-rc.1", "29.1", "dev"];
        assert_eq!(versions.map(containerd), [false, false, true, true, true, false]);
        assert!(takes_tar(&info("26.1.5", "")) && takes_tar(&SystemInfo::default()));
    }

    #[test]
    fn the_engines_environment_says_whether_output_is_cut() {
        let both = b"PATH=/bin\0BUILDKIT_STEP_LOG_MAX_SIZE=-1\0BUILDKIT_STEP_LOG_MAX_SPEED=-1\0";
        assert_eq!(clipping_in(both), Clipping::Never);
        assert_eq!(clipping_in(b"BUILDKIT_STEP_LOG_MAX_SIZE=-1\0"), Clipping::Cuts(vec![CLIP_LIMITS[1]]));
        assert_eq!(clipping_in(b"BUILDKIT_STEP_LOG_MAX_SIZE=-10\0"), Clipping::Cuts(CLIP_LIMITS.to_vec()));
        assert_eq!(Clipping::Never.words(), None);
        assert!(clipping_in(b"").words().unwrap().contains("BUILDKIT_STEP_LOG_MAX_SPEED=-1"));
    }

    #[tokio::test]
    async fn what_cannot_be_seen_is_said() {
        let words = async |host: &str| {
            let config = EngineConfig { host: host.to_owned(), ..EngineConfig::default() };
            clipping(&config).await.words().unwrap()
        };
        assert!(words("tcp://10.0.0.1:2375").await.contains("another machine"));
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let words = words(&format!("unix://{}", socket.display())).await;
        assert!(words.contains("not to dockerd"), "{words}");
    }
}
