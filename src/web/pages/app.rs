//! `/<namespace>/<app>` and `/<namespace>/<app>/<service>`: the image to deploy, how it is pulled, and the
//! Build & Deploy timeline.

use askama::Template;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use super::document::{Document, Frame, Viewer};
use super::facts;
use super::icons::Icon;
use super::image::ImageUrl;
use super::pull::Pull;
use super::query::{address, app_page, deploy_page, given, path};
use super::state::word;
use super::timeline::{Day, days};
use super::words::{self, Moment};
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{App, BuildState};
use crate::web::timeline::{Current, TimelinePage};

/// The query of the page. An empty or unknown state is none.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BuildFilters {
    #[serde(default, deserialize_with = "known")]
    pub state: Option<BuildState>,
    /// On the page of an app.
    #[serde(default, deserialize_with = "given")]
    pub service: Option<String>,
    /// A full ref, or the name of a branch or tag.
    #[serde(default, rename = "ref", deserialize_with = "given")]
    pub git_ref: Option<String>,
    /// From [`TimelinePage::next`] of the page before.
    #[serde(default, deserialize_with = "given")]
    pub cursor: Option<String>,
}

fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BuildState>, D::Error> {
    Ok(given(deserializer)?.and_then(|text| text.parse().ok()))
}

/// What the page shows.
pub struct AppView<'a> {
    pub app: &'a App,
    /// Of this service alone.
    pub service: Option<&'a str>,
    pub current: &'a [Current],
    pub history: &'a TimelinePage,
    /// The registry's, and where this service is reached.
    pub registry: &'a str,
    pub base: &'a str,
}

#[derive(Template)]
#[template(path = "app.html")]
struct AppPage {
    frame: Frame,
    namespace: String,
    app: String,
    /// The form that builds another commit, for those who may.
    build_form: Option<String>,
    service: Option<String>,
    repository: String,
    usual: Option<String>,
    current: Vec<Slot>,
    pull: Option<Pull>,
    days: Vec<Day>,
    filters: Vec<Filter>,
    filtered: bool,
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
    layers: Icon,
}

/// One thing to filter by.
struct Filter {
    name: &'static str,
    /// What is filtered by, and where it is not.
    set: Option<(String, String)>,
    choices: Vec<(String, String)>,
}

/// The image that services would be deployed with.
struct Slot {
    services: Vec<(String, String)>,
    image: Option<ImageUrl>,
    digest: Option<(String, String)>,
    size: Option<String>,
    build: String,
    published: Option<Moment>,
    deployed: Option<ServedBy>,
}

/// The deploy that serves, and whether it serves this image.
struct ServedBy {
    id: String,
    href: String,
    at: Option<Moment>,
    same: bool,
}

pub fn app(viewer: &Viewer, view: &AppView<'_>, filters: &BuildFilters, now: OffsetDateTime) -> Document {
    let app = view.app;
    let of_app = app_page(app.namespace.as_str(), app.app.as_str());
    let here = view.service.map_or_else(|| of_app.clone(), |service| path(&format!("{of_app}/{service}")));
    let to = |filters: &BuildFilters| {
        address(
            &here,
            &[
                ("service", filters.service.as_deref()),
                ("state", filters.state.map(BuildState::as_str)),
                ("ref", filters.git_ref.as_deref()),
                ("cursor", filters.cursor.as_deref()),
            ],
        )
    };
    let chosen = BuildFilters { cursor: None, ..filters.clone() };
    let by_service = Filter {
        name: "Service",
        set: filters
            .service
            .as_deref()
            .map(|service| (printable(service), to(&BuildFilters { service: None, ..chosen.clone() }))),
        choices: choices(&view.history.services, |service| {
            (to(&BuildFilters { service: Some(service.clone()), ..chosen.clone() }), printable(service))
        }),
    };
    let by_state = Filter {
        name: "State",
        set: filters
            .state
            .map(|state| (word(state).to_owned(), to(&BuildFilters { state: None, ..chosen.clone() }))),
        choices: choices(BuildState::ALL, |&state| {
            (to(&BuildFilters { state: Some(state), ..chosen.clone() }), word(state).to_owned())
        }),
    };
    let by_ref = Filter {
        name: "Ref",
        set: filters
            .git_ref
            .as_deref()
            .map(|name| (facts::short(name), to(&BuildFilters { git_ref: None, ..chosen.clone() }))),
        choices: choices(&view.history.refs, |name| {
            (to(&BuildFilters { git_ref: Some(name.clone()), ..chosen.clone() }), facts::short(name))
        }),
    };
    let filtered = [&by_service, &by_state, &by_ref].iter().any(|filter| filter.set.is_some());
    let current =
        view.current.iter().find_map(|current| current.build.as_ref().map(|build| (current, build)));
    let template = AppPage {
        frame: Frame::new(Some(viewer)),
        namespace: app.namespace.to_string(),
        app: app.app.to_string(),
        build_form: viewer.can_build.then(|| {
            address("/build", &[("namespace", Some(app.namespace.as_str())), ("app", Some(app.app.as_str()))])
        }),
        service: view.service.map(printable),
        repository: app.last.repository.to_string(),
        usual: app.usual_s.map(words::seconds),
        current: view.current.iter().map(|current| Slot::new(current, &of_app, now)).collect(),
        pull: current.and_then(|(current, build)| {
            Pull::new(build, current.services.first()?, view.registry, view.base)
        }),
        days: days(&view.history.entries, view.registry, now),
        filters: match view.service {
            Some(_) => vec![by_state, by_ref],
            None => vec![by_service, by_state, by_ref],
        },
        filtered,
        first: filters.cursor.is_none(),
        next: view
            .history
            .next
            .as_ref()
            .map(|cursor| to(&BuildFilters { cursor: Some(cursor.clone()), ..filters.clone() })),
        here,
        now: timestamp::to_string(now),
        icons: Icons { copy: Icon::Copy, caret: Icon::Caret, close: Icon::Close, layers: Icon::Layers },
    };
    Document::render(StatusCode::OK, &template)
}

fn choices<T>(of: &[T], choice: impl Fn(&T) -> (String, String)) -> Vec<(String, String)> {
    of.iter().map(choice).collect()
}

impl Slot {
    fn new(current: &Current, of_app: &str, now: OffsetDateTime) -> Self {
        let build = current.build.as_ref();
        Self {
            services: current
                .services
                .iter()
                .map(|service| (path(&format!("{of_app}/{service}")), printable(service)))
                .collect(),
            image: build.and_then(|build| build.image.as_deref()).map(ImageUrl::new),
            digest: build.and_then(|build| build.digest.as_ref()).map(facts::digest),
            size: build.and_then(|build| build.size).map(words::size),
            build: build.map(|build| build.id.to_string()).unwrap_or_default(),
            published: build.and_then(|build| build.finished_at).map(|at| Moment::new(at, now)),
            deployed: current.serving.as_ref().and_then(|(deploy, same)| {
                let report = deploy.report.as_ref()?;
                Some(ServedBy {
                    id: printable(&deploy.id),
                    href: deploy_page(report.namespace.as_str(), &deploy.id),
                    at: report.finished_at.map(|at| Moment::new(at, now)),
                    same: *same,
                })
            }),
        }
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
