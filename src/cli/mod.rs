//! The commands: one file each. A command reads its arguments, calls the library and says what came of it.

pub mod exit;
