//! What the suites share: servers under test and the parts they talk to.

pub mod address;
pub mod blob;
pub mod broker;
pub mod browser;
pub mod clock;
pub mod disk;
pub mod docker;
pub mod engine;
pub mod git;
pub mod git_proxy;
pub mod grid;
pub mod image;
pub mod moto;
pub mod node;
pub mod patience;
pub mod played;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod s3;
pub mod sshd;
pub mod systemd;
pub mod timeline;
pub mod tls;
pub mod up;
pub mod wire;
