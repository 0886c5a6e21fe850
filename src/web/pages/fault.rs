//! The page that says that there is no page, or not for this viewer, or not now.

use askama::Template;
use http::StatusCode;

use super::document::{Document, Frame};
use crate::telemetry::printable::printable;

#[derive(Template)]
#[template(path = "fault.html")]
struct Fault {
    frame: Frame,
    title: String,
    what: String,
}

/// `title` names the fault (`There is no such build`), `what` says in a sentence what follows from it.
pub fn fault(status: StatusCode, title: &str, what: &str) -> Document {
    let (title, what) = (printable(title), printable(what));
    Document::render(status, &Fault { frame: Frame::new(None), title, what })
}
