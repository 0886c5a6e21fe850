//! `/`: all apps, with the last build of each and the image that is there now.

use askama::Template;
use http::StatusCode;
use serde::Deserialize;
use time::OffsetDateTime;

use super::document::{Document, Frame, Viewer};
use super::icons::Icon;
use super::image::ImageUrl;
use super::query::{address, given};
use super::row::Row;
use super::words;
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{App, Page};

/// The query of the page. An empty value is none.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct AppFilters {
    /// Apps of this namespace.
    #[serde(default, deserialize_with = "given")]
    pub namespace: Option<String>,
    /// Apps whose name contains this.
    #[serde(default, deserialize_with = "given")]
    pub app: Option<String>,
    /// From [`Page::next`] of the page before.
    #[serde(default, deserialize_with = "given")]
    pub cursor: Option<String>,
}

#[derive(Template)]
#[template(path = "apps.html")]
struct Apps {
    frame: Frame,
    /// Whether the reader may build.
    can_build: bool,
    apps: Vec<AppRow>,
    namespace: Option<String>,
    /// The page without a filter by namespace.
    every_namespace: String,
    app: String,
    first: bool,
    next: Option<String>,
    /// By which the script knows how far the reader's clock is off.
    now: String,
    icons: Icons,
}

struct Icons {
    copy: Icon,
    search: Icon,
    close: Icon,
}

struct AppRow {
    namespace: String,
    app: String,
    services: String,
    last: Row,
    usual: Option<String>,
    image: Option<ImageUrl>,
    size: Option<String>,
}

pub fn apps(viewer: &Viewer, page: &Page<App>, filters: &AppFilters, now: OffsetDateTime) -> Document {
    let (namespace, app) = (filters.namespace.as_deref(), filters.app.as_deref());
    let to = |namespace: Option<&str>, cursor: Option<&str>| {
        address("/", &[("namespace", namespace), ("app", app), ("cursor", cursor)])
    };
    let template = Apps {
        frame: Frame::new(Some(viewer)),
        can_build: viewer.can_build,
        apps: page.items.iter().map(|app| AppRow::new(app, now)).collect(),
        namespace: namespace.map(printable),
        every_namespace: to(None, None),
        app: printable(app.unwrap_or_default()),
        first: filters.cursor.is_none(),
        next: page.next.as_deref().map(|cursor| to(namespace, Some(cursor))),
        now: timestamp::to_string(now),
        icons: Icons { copy: Icon::Copy, search: Icon::Search, close: Icon::Close },
    };
    Document::render(StatusCode::OK, &template)
}

impl AppRow {
    fn new(app: &App, now: OffsetDateTime) -> Self {
        let current = app.current.as_ref();
        Self {
            namespace: app.namespace.to_string(),
            app: app.app.to_string(),
            services: printable(&app.services.join(", ")),
            last: Row::new(&app.last, now),
            usual: app.usual_s.map(words::seconds),
            image: current.and_then(|build| build.image.as_deref()).map(ImageUrl::new),
            size: current.and_then(|build| build.size).map(words::size),
        }
    }
}
