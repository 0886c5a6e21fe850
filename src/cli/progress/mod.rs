//! A build's progress for people, the same for every command that shows one.
//!
//! Each step has its name as a heading, its lines below, and its time at its end; BuildGrid's own words
//! begin with `==>`. Lines of steps that run at the same time carry their step's number. On a terminal the
//! last line says what runs and for how long; in a log nothing is ever taken back, so that each line is
//! whole.

mod display;
mod failure;
mod render;
mod screen;
mod style;
mod words;

pub use display::Progress;
pub use failure::{FailedBuild, at};
pub use style::Style;
pub use words::short_duration;
