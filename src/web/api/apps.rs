//! Apps and services: what there is, and the image that a script deploys.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::cursor;
use super::extract::{Json, Parameter, Parameters, page_size, parameter};
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::{App, BuildState, Page, Problem, Service};
use crate::web::access::{Principal, Scope};
use crate::web::db::selection::Selection;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// Services of an app that are told apart.
const SERVICES: usize = 64;

/// Which apps to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::web) struct AppsQuery {
    pub namespace: Option<String>,
    /// Apps whose name contains this.
    pub name: Option<String>,
    /// How many at most, 1 to 200.
    pub limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    pub cursor: Option<String>,
}

/// The namespaces that are asked for among a principal's own; `None`: all there are.
pub(in crate::web) fn within(
    principal: &Principal,
    namespace: Option<&str>,
) -> Result<Option<Vec<String>>, Refusal> {
    let Some(name) = namespace else { return Ok(principal.namespaces.names()) };
    let namespace: Namespace = parameter("namespace", name, "a namespace")?;
    Ok(Some(match principal.namespaces.hold(&namespace) {
        true => vec![namespace.to_string()],
        false => Vec::new(),
    }))
}

/// One page of apps; what the API and the pages show.
pub(in crate::web) async fn page(
    timeline: &Timeline,
    principal: &Principal,
    query: &AppsQuery,
) -> Result<Page<App>, Refusal> {
    let size = page_size(query.limit)?;
    let namespaces = within(principal, query.namespace.as_deref())?;
    let after: Option<(String, String)> = query.cursor.as_deref().map(cursor::read).transpose()?;
    let contained = query.name.as_deref();
    let mut names =
        timeline.database.apps(namespaces.as_deref(), contained, after.as_ref(), size + 1).await?;
    let more = names.len() > size;
    names.truncate(size);
    let last = names.last().filter(|_| more);
    let next = last.map(|(namespace, app)| cursor::write(&(namespace.as_str(), app.as_str())));
    let mut items = Vec::with_capacity(names.len());
    for (namespace, app) in names {
        items.extend(show(timeline, namespace, app).await?);
    }
    Ok(Page { items, next })
}

/// An app that the principal may see.
pub(in crate::web) async fn visible(
    timeline: &Timeline,
    principal: &Principal,
    namespace: &str,
    app: &str,
) -> Result<App, Refusal> {
    let absent = || Refusal::NotFound(format!("app {namespace:.100}/{app:.100}"));
    let parsed = namespace.parse::<Namespace>().ok().zip(app.parse::<AppName>().ok());
    let (namespace, app) = parsed.filter(|(name, _)| principal.namespaces.hold(name)).ok_or_else(absent)?;
    show(timeline, namespace, app).await?.ok_or_else(absent)
}

/// An app that the principal may see, and that was built or deployed for this service.
pub(in crate::web) async fn with_service(
    timeline: &Timeline,
    principal: &Principal,
    namespace: &str,
    app: &str,
    service: &str,
) -> Result<App, Refusal> {
    let known = visible(timeline, principal, namespace, app).await?;
    if known.services.iter().any(|known| known == service) {
        return Ok(known);
    }
    let any = Selection {
        app: Some((known.namespace.clone(), known.app.clone())),
        service: Some(service.to_owned()),
        ..Selection::default()
    };
    match timeline.database.builds(&any, 1, OffsetDateTime::now_utc()).await?.is_empty() {
        true => Err(Refusal::NotFound(format!("service {service:.100} of {namespace}/{app}"))),
        false => Ok(known),
    }
}

async fn show(timeline: &Timeline, namespace: Namespace, app: AppName) -> Result<Option<App>, Refusal> {
    let (database, now) = (&timeline.database, OffsetDateTime::now_utc());
    let newest = Selection { app: Some((namespace.clone(), app.clone())), ..Selection::default() };
    let published = Selection { state: Some(BuildState::Published), ..newest.clone() };
    let Some(last) = database.builds(&newest, 1, now).await?.pop() else { return Ok(None) };
    let last = last.shown(&timeline.base, now);
    let current = match last.state {
        BuildState::Published => Some(last.clone()),
        _ => database.builds(&published, 1, now).await?.pop().map(|row| row.shown(&timeline.base, now)),
    };
    let usual_s = database.usual(&namespace, &app).await?;
    // Those of the last build first, in its order.
    let mut services = last.services.clone();
    for other in database.services(&namespace, &app, true, SERVICES).await? {
        if !services.contains(&other) {
            services.push(other);
        }
    }
    Ok(Some(App { services, namespace, app, last, current, usual_s }))
}

/// List apps by name, each with its last build and its current image
#[utoipa::path(get, path = "/apps", params(AppsQuery), tag = "apps", responses(
    (status = 200, body = Page<App>),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameters(query): Parameters<AppsQuery>,
) -> Result<Json<Page<App>>, Refusal> {
    principal.must(Scope::Read)?;
    page(&timeline, &principal, &query).await.map(Json)
}

/// Show an app
#[utoipa::path(get, path = "/apps/{namespace}/{app}", tag = "apps",
    params(("namespace" = String, Path), ("app" = String, Path)),
    responses(
        (status = 200, body = App),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn get(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter((namespace, app)): Parameter<(String, String)>,
) -> Result<Json<App>, Refusal> {
    principal.must(Scope::Read)?;
    visible(&timeline, &principal, &namespace, &app).await.map(Json)
}

/// Show the current image of a service
#[utoipa::path(get, path = "/services/{namespace}/{app}/{service}", tag = "apps",
    params(("namespace" = String, Path), ("app" = String, Path), ("service" = String, Path)),
    responses(
        (status = 200, body = Service),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn service(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter((namespace, app, service)): Parameter<(String, String, String)>,
) -> Result<Json<Service>, Refusal> {
    principal.must(Scope::Read)?;
    let known = with_service(&timeline, &principal, &namespace, &app, &service).await?;
    let now = OffsetDateTime::now_utc();
    let published = Selection {
        app: Some((known.namespace.clone(), known.app.clone())),
        service: Some(service.clone()),
        state: Some(BuildState::Published),
        ..Selection::default()
    };
    let row = timeline.database.builds(&published, 1, now).await?.pop();
    let build = row.map(|row| row.shown(&timeline.base, now));
    let of = build.as_ref();
    Ok(Json(Service {
        namespace: known.namespace,
        app: known.app,
        service,
        image: of.and_then(|build| build.image.clone()),
        digest: of.and_then(|build| build.digest),
        size: of.and_then(|build| build.size),
        published_at: of.and_then(|build| build.finished_at),
        build,
    }))
}
