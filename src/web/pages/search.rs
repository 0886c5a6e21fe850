//! `/search?q=`: what was found, by its kind.

use askama::Template;
use http::StatusCode;
use time::OffsetDateTime;

use super::document::{Document, Frame, Viewer};
use super::facts;
use super::icons::Icon;
use super::image::ImageUrl;
use super::query::{address, app_page, deploy_page};
use super::row::Row;
use crate::telemetry::printable::printable;
use crate::timeline::protocol::Build;
use crate::web::search::{Found, SHOWN};

#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage {
    frame: Frame,
    query: String,
    apps: Vec<(String, String)>,
    builds: Vec<Hit>,
    images: Vec<(ImageUrl, Row)>,
    refs: Vec<RefHit>,
    deploys: Vec<DeployHit>,
    nothing: bool,
    /// There may be more of a kind than is shown.
    more: bool,
    icons: Icons,
}

struct Icons {
    copy: Icon,
}

/// A build, with whose it is.
struct Hit {
    row: Row,
    namespace: String,
    app: String,
}

struct RefHit {
    href: String,
    name: String,
    app: String,
}

struct DeployHit {
    href: String,
    id: String,
    app: String,
    state: &'static str,
}

impl Hit {
    fn new(build: &Build, now: OffsetDateTime) -> Self {
        Self { row: Row::new(build, now), namespace: build.namespace.to_string(), app: build.app.to_string() }
    }
}

pub fn search(viewer: &Viewer, query: &str, found: &Found, now: OffsetDateTime) -> Document {
    let counts =
        [found.apps.len(), found.builds.len(), found.images.len(), found.refs.len(), found.deploys.len()];
    let template = SearchPage {
        frame: Frame::new(Some(viewer)).seeking(query.trim()),
        query: printable(query.trim()),
        apps: found.apps.iter().map(|(namespace, app)| (namespace.to_string(), app.to_string())).collect(),
        builds: found.builds.iter().map(|build| Hit::new(build, now)).collect(),
        images: found
            .images
            .iter()
            .filter_map(|build| Some((ImageUrl::new(build.image.as_deref()?), Row::new(build, now))))
            .collect(),
        refs: found
            .refs
            .iter()
            .map(|(namespace, app, name)| RefHit {
                href: address(&app_page(namespace.as_str(), app.as_str()), &[("ref", Some(name))]),
                name: facts::short(name),
                app: format!("{namespace}/{app}"),
            })
            .collect(),
        deploys: found
            .deploys
            .iter()
            .map(|(id, report)| DeployHit {
                href: deploy_page(report.namespace.as_str(), id),
                id: printable(id),
                app: format!("{}/{}", report.namespace, report.app),
                state: report.state.as_str(),
            })
            .collect(),
        nothing: found.is_empty(),
        more: counts.contains(&SHOWN),
        icons: Icons { copy: Icon::Copy },
    };
    Document::render(StatusCode::OK, &template)
}
