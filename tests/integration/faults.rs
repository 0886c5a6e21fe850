//! The fault matrix, as far as whole workers are needed for it: something real breaks, and every event ends
//! once all the same. ARCHITECTURE.md says which test proves which row.

mod broker;
mod connection;

use crate::support::grid::fake_event;

/// A fake event for a commit of its own.
fn nth_event(n: usize, fake: &str) -> String {
    let commit = format!("{n:040}");
    fake_event(&format!("b-{n}"), fake).replace("9fceb02d0ae598e95dc970b74767f19372d61af8", &commit)
}

/// A fake that takes so many tenths of a second.
fn lasting(tenths: u32) -> String {
    format!(r#"{{"log_lines":{tenths},"line_interval_ms":100,"layers":1,"layer_bytes":10}}"#)
}
