//! What the suites share: servers under test and the parts they talk to.

pub mod broker;
pub mod git;
pub mod proxy;
pub mod image;
pub mod process;
pub mod registry;
pub mod git_proxy;
pub mod docker;
