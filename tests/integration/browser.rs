//! Pages in a real browser, as people see them.

mod attempts;
mod deploy;
mod follow;
mod live;
mod log;
mod pages;
