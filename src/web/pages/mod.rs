//! The pages: pure functions from what the service knows, and what is now, to HTML.
//!
//! Each takes the views of [`timeline::protocol`](crate::timeline::protocol) and gives a [`Document`],
//! to which the router adds its headers. What comes from outside (subjects, refs, reasons, log lines) goes
//! through [`printable`](crate::telemetry::printable) and then through the templates' escaping; no page
//! marks anything as safe but the icons, whose every word stands in `icons.rs`. The templates are in
//! `src/web/templates/` (see `askama.toml`), style and script in `src/web/assets/`.
//!
//! | page | function |
//! |---|---|
//! | `/sign-in` | [`sign_in`]; [`not_signed_in`] at any other address |
//! | `/` | [`apps`] |
//! | `/<namespace>/<app>`, and of one `/<service>` | [`app`] |
//! | `/build` | [`build_form`] |
//! | `/builds/<id>` | [`build`], with the part of the log from [`first_entry`] on |
//! | `/images/<namespace>/<app>.<repository>:<tag>` | [`image()`] |
//! | `/search?q=` | [`search`] |
//! | `/settings/buildgrid` | [`settings`] |
//! | `/deploys/<id>` | [`deploy`], as a build's |
//! | what went wrong | [`fault`] |
//! | `/assets/<name>` | [`assets::router`] |

mod ansi;
mod app;
mod apps;
pub mod assets;
mod bars;
mod build;
mod build_form;
mod deploy;
mod document;
mod facts;
mod fault;
mod filters;
mod icons;
mod image;
mod image_page;
mod log;
mod pull;
mod query;
mod row;
mod search;
mod settings;
mod sign_in;
mod state;
mod steps;
mod sums;
mod timeline;
mod waterfall;
mod words;

#[cfg(test)]
mod gallery_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod samples;

pub use app::{AppView, BuildFilters, app};
pub use apps::{AppFilters, AppsView, apps};
pub use bars::BARS;
pub use build::build;
pub use build_form::build_form;
pub use deploy::deploy;
pub use document::{CONTENT_SECURITY_POLICY, Document, Viewer};
pub use fault::fault;
pub use filters::LogFilters;
pub use image_page::image;
pub use log::{BuildQuery, LINES, LogPart, first_entry};
pub(in crate::web) use query::deploy_path;
pub use search::search;
pub use settings::{Fresh, Settings, settings};
pub use sign_in::{local_address, not_signed_in, sign_in, sign_in_later};
pub use sums::LogSums;
