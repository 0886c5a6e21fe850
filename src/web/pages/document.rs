//! A page on its way out: rendered, with the policy that keeps it what it is.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::assets;
use super::icons::Icon;
use crate::telemetry::printable::printable;

/// Nothing is loaded but from here, and nothing inline is run: whatever a build's log says, it stays text.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Whoever looks at a page.
#[derive(Debug, Clone)]
pub struct Viewer {
    pub name: String,
    /// Whether they may start and stop builds.
    pub can_build: bool,
}

/// A rendered page. With another status before it, `(status, document)`, it keeps its headers.
#[derive(Debug)]
pub struct Document {
    status: StatusCode,
    html: String,
}

impl Document {
    pub(super) fn render(status: StatusCode, template: &impl Template) -> Self {
        match template.render() {
            Ok(html) => Self { status, html },
            // Rendering writes into memory and formats what is there: it has nothing to fail at.
            Err(error) => {
                tracing::error!(%error, "a page cannot be rendered");
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, html: String::new() }
            }
        }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn html(&self) -> &str {
        &self.html
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], self.html).into_response()
    }
}

/// Which of the places in the header a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Apps,
    Settings,
}

/// What is around every page.
pub(super) struct Frame {
    /// The viewer's name; none where nobody is signed in.
    pub(super) viewer: Option<String>,
    pub(super) style: &'static str,
    /// What the page needs beside it.
    pub(super) sheet: &'static str,
    pub(super) script: &'static str,
    /// What a page with a log loads besides.
    pub(super) log_script: Option<&'static str>,
    pub(super) icon: &'static str,
    pub(super) logo: Icon,
    place: Option<Place>,
    /// What is in the search box.
    pub(super) sought: String,
    pub(super) search: Icon,
}

impl Frame {
    pub(super) fn new(viewer: Option<&Viewer>) -> Self {
        Self {
            viewer: viewer.map(|viewer| printable(&viewer.name)),
            style: &assets::STYLE.path,
            sheet: &assets::PLACES_STYLE.path,
            script: &assets::SCRIPT.path,
            log_script: None,
            icon: &assets::ICON.path,
            logo: Icon::Logo,
            place: viewer.map(|_| Place::Apps),
            sought: String::new(),
            search: Icon::Search,
        }
    }

    /// The same of a page that belongs to another place than the apps.
    pub(super) fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    /// The same of the page that says what was found.
    pub(super) fn seeking(self, query: &str) -> Self {
        Self { sought: printable(query), place: None, ..self }
    }

    /// The same of a page that is a long form.
    pub(super) fn of_form(self) -> Self {
        Self { sheet: &assets::FORM_STYLE.path, ..self }
    }

    /// The same of a page that shows a log.
    pub(super) fn of_log(self) -> Self {
        Self { sheet: &assets::LOG_STYLE.path, log_script: Some(&assets::LOG_SCRIPT.path), ..self }
    }

    /// The viewer's first letter.
    pub(super) fn initial(&self) -> String {
        let first = self.viewer.iter().flat_map(|name| name.chars()).next();
        first.map(|letter| letter.to_uppercase().collect()).unwrap_or_default()
    }

    pub(super) fn is_in_apps(&self) -> bool {
        self.place == Some(Place::Apps)
    }

    pub(super) fn is_in_settings(&self) -> bool {
        self.place == Some(Place::Settings)
    }
}
