//! The commands: one file each. A command reads its arguments, calls the library and says what came of it.

pub mod dead_letters;
pub mod enqueue;
pub mod credential;
pub mod exit;
mod printable;

use printable::printable;
