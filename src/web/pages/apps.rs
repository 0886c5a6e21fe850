//! `/`: all apps, with the last build of each and the image that is there now.

use askama::Template;
use http::StatusCode;
use serde::Deserialize;
use time::OffsetDateTime;

use super::bars::{BARS, Bars};
use super::document::{Document, Frame, Viewer};
use super::icons::Icon;
use super::image::ImageUrl;
use super::query::{address, given};
use super::row::Row;
use super::words;
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{App, Page};
use crate::web::db::overview::{Overview, Recent};

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

/// What the page shows.
pub struct AppsView<'a> {
    pub page: &'a Page<App>,
    /// The last builds of each of these apps, newest first.
    pub recent: &'a [Vec<Recent>],
    /// Of the namespace that is filtered by, or of all.
    pub overview: Overview,
    /// The namespaces to choose from.
    pub namespaces: &'a [String],
}

#[derive(Template)]
#[template(path = "apps.html")]
struct Apps {
    frame: Frame,
    /// Whether the reader may build.
    can_build: bool,
    apps: Vec<AppRow>,
    /// `7 apps in 3 namespaces; today is since 00:00 UTC`
    sums: String,
    overview: Overview,
    namespace: Option<String>,
    /// Address and name of each that can be filtered by.
    namespaces: Vec<(String, String)>,
    /// The page without a filter by namespace.
    every_namespace: String,
    app: String,
    first: bool,
    first_page: String,
    next: Option<String>,
    /// By which the script knows how far the reader's clock is off.
    now: String,
    icons: Icons,
}

struct Icons {
    copy: Icon,
    search: Icon,
    close: Icon,
    caret: Icon,
}

struct AppRow {
    namespace: String,
    app: String,
    services: String,
    last: Row,
    bars: Bars,
    usual: Option<String>,
    image: Option<ImageUrl>,
    size: Option<String>,
}

pub fn apps(viewer: &Viewer, view: &AppsView<'_>, filters: &AppFilters, now: OffsetDateTime) -> Document {
    let &AppsView { page, recent, overview, namespaces } = view;
    let (namespace, app) = (filters.namespace.as_deref(), filters.app.as_deref());
    let to = |namespace: Option<&str>, cursor: Option<&str>| {
        address("/", &[("namespace", namespace), ("app", app), ("cursor", cursor)])
    };
    let template = Apps {
        frame: Frame::new(Some(viewer)),
        can_build: viewer.can_build,
        apps: page.items.iter().zip(recent).map(|(app, recent)| AppRow::new(app, recent, now)).collect(),
        sums: sums(overview),
        overview,
        namespace: namespace.map(printable),
        namespaces: namespaces.iter().map(|name| (to(Some(name), None), printable(name))).collect(),
        every_namespace: to(None, None),
        app: printable(app.unwrap_or_default()),
        first: filters.cursor.is_none(),
        first_page: to(namespace, None),
        next: page.next.as_deref().map(|cursor| to(namespace, Some(cursor))),
        now: timestamp::to_string(now),
        icons: Icons { copy: Icon::Copy, search: Icon::Search, close: Icon::Close, caret: Icon::Caret },
    };
    Document::render(StatusCode::OK, &template)
}

fn sums(overview: Overview) -> String {
    let of = |count: u64, one: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{} {one}s", words::thousands(count)),
    };
    format!(
        "{} in {}; today is since 00:00 UTC",
        of(overview.apps, "app"),
        of(overview.namespaces, "namespace")
    )
}

impl AppRow {
    fn new(app: &App, recent: &[Recent], now: OffsetDateTime) -> Self {
        let current = app.current.as_ref();
        Self {
            namespace: app.namespace.to_string(),
            app: app.app.to_string(),
            services: printable(&app.services.join(", ")),
            last: Row::new(&app.last, now),
            bars: Bars::of(recent, now),
            usual: app.usual_s.map(words::seconds),
            image: current.and_then(|build| build.image.as_deref()).map(ImageUrl::new),
            size: current.and_then(|build| build.size).map(words::size),
        }
    }
}
