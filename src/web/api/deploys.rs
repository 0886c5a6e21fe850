//! Deploys: what Maestro reports of them.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::extract::{Json, Parameter, Parameters, parameter, shortened};
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::{Deploy, DeployReport, Problem};
use crate::web::access::{Principal, Scope};
use crate::web::db::deploys::{self, DeployRow};
use crate::web::db::logs::LogId;
use crate::web::db::selection::Selection;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// The longest id of a deploy and the longest reason, in bytes; as those of a deploy event.
const MAX_TEXT: usize = 256;
const MAX_REASON: usize = 4096;
/// The longest image URL, in bytes: a host, a name and a tag fit.
const MAX_IMAGE: usize = 1024;
/// Services of one deploy, and builds shown with it.
const MAX_SERVICES: usize = 256;
const MAX_BUILDS: usize = 100;

/// Whose deploy it is.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// The deploy's namespace, where more than one has a deploy of this id.
    pub(super) namespace: Option<String>,
}

/// A deploy that the principal may see.
pub(super) async fn visible_deploy(
    timeline: &Timeline,
    principal: &Principal,
    id: &str,
    whose: &Whose,
) -> Result<DeployRow, Refusal> {
    let absent = || Refusal::NotFound(format!("deploy {:?}", shortened(id)));
    if let Some(namespace) = &whose.namespace {
        let namespace: Namespace = parameter("namespace", namespace, "a namespace")?;
        principal.must_see(&namespace, || format!("deploy {:?}", shortened(id)))?;
        return timeline.database.deploy(&namespace, id).await?.ok_or_else(absent);
    }
    let mut found = timeline.database.deploys(id).await?;
    found.retain(|deploy| principal.namespaces.hold(&deploy.report.namespace));
    match found.len() {
        0 => Err(absent()),
        1 => Ok(found.swap_remove(0)),
        _ => {
            let names: Vec<&str> = found.iter().map(|deploy| deploy.report.namespace.as_str()).collect();
            let detail =
                format!("more than one namespace has this deploy; add ?namespace= ({})", names.join(", "));
            Err(Refusal::Conflict(detail))
        }
    }
}

/// Show a deploy with its builds
#[utoipa::path(get, path = "/deploys/{id}", params(("id" = String, Path), Whose), tag = "deploys", responses(
    (status = 200, body = Deploy),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "More than one namespace has it"),
))]
pub(super) async fn get(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(whose): Parameters<Whose>,
) -> Result<Json<Deploy>, Refusal> {
    detail(&timeline, &principal, id, whose.namespace).await.map(Json)
}

/// A deploy with its builds, for somebody who may see it.
pub(in crate::web) async fn detail(
    timeline: &Timeline,
    principal: &Principal,
    id: String,
    namespace: Option<String>,
) -> Result<Deploy, Refusal> {
    principal.must(Scope::Read)?;
    let deploy = visible_deploy(timeline, principal, &id, &Whose { namespace }).await?;
    show(timeline, id, deploy).await
}

async fn show(timeline: &Timeline, id: String, deploy: DeployRow) -> Result<Deploy, Refusal> {
    let DeployRow { report, reported_at, .. } = deploy;
    let now = OffsetDateTime::now_utc();
    let selection = Selection {
        namespace: Some(report.namespace.clone()),
        deploy_id: Some(id.clone()),
        ..Selection::default()
    };
    let builds = timeline.database.builds(&selection, MAX_BUILDS, now).await?;
    let log = timeline.database.log_state(&LogId::of_deploy(report.namespace.as_str(), &id)).await?;
    Ok(Deploy {
        id,
        report,
        entries: log.next_seq,
        reported_at,
        builds: builds.into_iter().map(|row| row.shown(&timeline.base, now)).collect(),
    })
}

/// Report a deploy
///
/// Its state, services and times; repeating it replaces what was reported before.
#[utoipa::path(put, path = "/deploys/{id}", params(("id" = String, Path)), tag = "deploys",
    request_body = DeployReport,
    responses(
        (status = 200, body = Deploy),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A namespace that this token may not see"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn put(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Json(report): Json<DeployReport>,
) -> Result<Json<Deploy>, Refusal> {
    principal.must(Scope::Deploy)?;
    principal.must_see(&report.namespace, || format!("namespace {}", report.namespace))?;
    check(&id, &report)?;
    let (name, kept, now) = (id.clone(), report.clone(), OffsetDateTime::now_utc());
    timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move { Ok(deploys::put(connection, &name, &kept, now).await?) })
        }))
        .await?;
    timeline.live.changed(&LogId::of_deploy(report.namespace.as_str(), &id).to_string());
    let row = DeployRow { id: id.clone(), report, reported_at: now };
    show(&timeline, id, row).await.map(Json)
}

fn check(id: &str, report: &DeployReport) -> Result<(), Refusal> {
    let refuse = |detail: String| Err(Refusal::Unprocessable(detail));
    if id.is_empty() || id.len() > MAX_TEXT || id.chars().any(char::is_control) {
        return refuse(format!("id: 1 to {MAX_TEXT} bytes without control characters are taken"));
    }
    // Clients take these out of an address before they send it.
    if matches!(id, "." | "..") {
        return refuse(format!("id: {id:?} is not taken: it cannot stand in an address"));
    }
    if report.services.len() > MAX_SERVICES {
        return refuse(format!("services: {}; at most {MAX_SERVICES} are taken", report.services.len()));
    }
    for service in &report.services {
        if let Err(error) = service.parse::<AppName>() {
            return refuse(format!("services: {}", error.to_string().replacen("app", "service", 1)));
        }
    }
    match report.image.as_deref() {
        Some(image) if image.len() > MAX_IMAGE => {
            return refuse(format!("image: {} bytes long; at most {MAX_IMAGE} are taken", image.len()));
        }
        Some(image) if image.is_empty() || image.chars().any(|c| c.is_control() || c.is_whitespace()) => {
            return refuse("image: it is empty, or has blanks or control characters in it".to_owned());
        }
        _ => {}
    }
    match report.reason.as_ref().map_or(0, String::len) {
        length if length > MAX_REASON => {
            refuse(format!("reason: {length} bytes long; at most {MAX_REASON} are taken"))
        }
        _ => Ok(()),
    }
}
