//! `/<namespace>/<app>`: the image to deploy, and the builds, newest first.

use askama::Template;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use super::document::{Document, Frame, Viewer};
use super::icons::Icon;
use super::image::ImageUrl;
use super::query::{address, given};
use super::row::Row;
use super::state::word;
use super::words::{self, Moment};
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{App, Build, BuildState, Page};

/// The query of the page. An empty or unknown state is none.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BuildFilters {
    #[serde(default, deserialize_with = "known")]
    pub state: Option<BuildState>,
    /// From [`Page::next`] of the page before.
    #[serde(default, deserialize_with = "given")]
    pub cursor: Option<String>,
}

fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BuildState>, D::Error> {
    Ok(given(deserializer)?.and_then(|text| text.parse().ok()))
}

#[derive(Template)]
#[template(path = "app.html")]
struct AppPage {
    frame: Frame,
    namespace: String,
    app: String,
    repository: String,
    services: String,
    usual: Option<String>,
    current: Option<Current>,
    builds: Vec<Row>,
    /// The word of the state that is filtered by.
    state: Option<&'static str>,
    states: Vec<(String, &'static str)>,
    here: String,
    first: bool,
    next: Option<String>,
    /// By which the script knows how far the reader's clock is off.
    now: String,
    icons: Icons,
}

struct Icons {
    copy: Icon,
    caret: Icon,
    close: Icon,
}

/// The image that is there now, and the build it is of.
struct Current {
    image: ImageUrl,
    digest: Option<(String, String)>,
    size: Option<String>,
    build: String,
    published: Option<Moment>,
}

pub fn app(
    viewer: &Viewer,
    app: &App,
    builds: &Page<Build>,
    filters: &BuildFilters,
    now: OffsetDateTime,
) -> Document {
    let here = format!("/{}/{}", app.namespace, app.app);
    let state = filters.state;
    let to = |state: Option<BuildState>, cursor: Option<&str>| {
        address(&here, &[("state", state.map(BuildState::as_str)), ("cursor", cursor)])
    };
    let template = AppPage {
        frame: Frame::new(Some(viewer)),
        namespace: app.namespace.to_string(),
        app: app.app.to_string(),
        repository: app.last.repository.to_string(),
        services: printable(&app.services.join(", ")),
        usual: app.usual_s.map(words::seconds),
        current: app.current.as_ref().and_then(|build| Current::new(build, now)),
        builds: builds.items.iter().map(|build| Row::new(build, now)).collect(),
        state: state.map(word),
        states: BuildState::ALL.iter().map(|&state| (to(Some(state), None), word(state))).collect(),
        first: filters.cursor.is_none(),
        next: builds.next.as_deref().map(|cursor| to(state, Some(cursor))),
        here: here.clone(),
        now: timestamp::to_string(now),
        icons: Icons { copy: Icon::Copy, caret: Icon::Caret, close: Icon::Close },
    };
    Document::render(StatusCode::OK, &template)
}

impl Current {
    fn new(build: &Build, now: OffsetDateTime) -> Option<Self> {
        let digest = build.digest.as_ref().map(ToString::to_string);
        // Enough to compare by eye: `sha256:3a7bd3e2…f5c1`.
        let brief = |digest: &str| format!("{}…{}", &digest[..15], &digest[digest.len() - 4..]);
        Some(Self {
            image: ImageUrl::new(build.image.as_deref()?),
            digest: digest.map(|digest| (brief(&digest), digest)),
            size: build.size.map(words::size),
            build: build.id.to_string(),
            published: build.finished_at.map(|at| Moment::new(at, now)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_lenient() {
        for (query, state) in [
            (r#"{}"#, None),
            (r#"{"state":""}"#, None),
            (r#"{"state":"nonsense"}"#, None),
            (r#"{"state":"failed"}"#, Some(BuildState::Failed)),
        ] {
            let filters: BuildFilters = serde_json::from_str(query).unwrap();
            assert_eq!(filters.state, state, "{query}");
        }
    }
}
