//! Pages in a real browser, as people see them.

mod deploy;
mod follow;
mod live;
mod log;
mod pages;
