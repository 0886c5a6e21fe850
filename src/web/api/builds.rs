//! Builds: listing, showing, enqueueing, ending and repeating them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::cursor;
use super::extract::{Json, Parameter, Parameters, body, build_id, page_size, parameter, shortened};
use crate::event::deploy::{BuildId, DeployEvent, MAX_EVENT};
use crate::timeline::protocol::{Build, BuildDetail, BuildState, Page, Problem};
use crate::web::access::{Principal, Scope};
use crate::web::claims::{self, Cancel};
use crate::web::db::builds::{self, BuildRow};
use crate::web::db::millis;
use crate::web::db::selection::Selection;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;
use crate::web::turn;

/// Which builds to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::web) struct BuildsQuery {
    pub namespace: Option<String>,
    /// The name of an app; needs a namespace.
    pub app: Option<String>,
    /// Builds for this service; needs an app, a commit or a deploy.
    pub service: Option<String>,
    /// A state as it is shown, such as failed or interrupted.
    pub state: Option<String>,
    /// A full ref, or the name of a branch or tag; needs an app, a commit or a deploy.
    pub r#ref: Option<String>,
    /// A commit's id, or its beginning of at least four digits.
    pub commit: Option<String>,
    pub deploy_id: Option<String>,
    /// How many at most, 1 to 200.
    pub limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    pub cursor: Option<String>,
}

impl BuildsQuery {
    fn selection(&self, principal: &Principal) -> Result<Selection, Refusal> {
        let namespace = self.namespace.as_deref();
        let namespace = namespace.map(|name| parameter("namespace", name, "a namespace")).transpose()?;
        let app = self.app.as_deref().map(|name| parameter("app", name, "an app")).transpose()?;
        let app = match (app, &namespace) {
            (None, _) => None,
            (Some(app), Some(namespace)) => Some((Clone::clone(namespace), app)),
            (Some(_), None) => {
                return Err(Refusal::Malformed("app: an app is named with its namespace".to_owned()));
            }
        };
        // Of all builds they would be looked for one by one.
        let few = app.is_some() || self.commit.is_some() || self.deploy_id.is_some();
        for (name, given) in [("service", &self.service), ("ref", &self.r#ref)] {
            if given.is_some() && !few {
                let what = format!(
                    "{name}: is looked for in an app, a commit or a deploy: name one with it, an app with its namespace"
                );
                return Err(Refusal::Malformed(what));
            }
        }
        let state = self.state.as_deref().map(|state| {
            let words = format!("a state; there are {}", BuildState::list());
            parameter("state", state, &words)
        });
        if let Some(commit) = &self.commit
            && !((4..=40).contains(&commit.len())
                && commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        {
            let words = "is not a commit: 4 to 40 of 0-9 and a-f";
            return Err(Refusal::Malformed(format!("commit: {:?} {words}", shortened(commit))));
        }
        Ok(Selection {
            namespaces: principal.namespaces.names(),
            app,
            namespace,
            service: self.service.clone(),
            state: state.transpose()?,
            git_ref: self.r#ref.clone(),
            commit: self.commit.clone(),
            deploy_id: self.deploy_id.clone(),
            before: self.cursor.as_deref().map(cursor::read).transpose()?,
        })
    }
}

/// One page of builds; what the API and the pages show.
pub(in crate::web) async fn page(
    timeline: &Timeline,
    principal: &Principal,
    query: &BuildsQuery,
) -> Result<Page<Build>, Refusal> {
    let (size, now) = (page_size(query.limit)?, OffsetDateTime::now_utc());
    let selection = query.selection(principal)?;
    let mut rows = timeline.database.builds(&selection, size + 1, now).await?;
    let more = rows.len() > size;
    rows.truncate(size);
    let last = rows.last().filter(|_| more);
    let next = last.map(|row| cursor::write(&(millis(row.build.created_at), row.build.id.as_str())));
    Ok(Page { items: rows.into_iter().map(|row| row.shown(&timeline.base, now)).collect(), next })
}

/// A build that the principal may see.
pub(in crate::web) async fn visible(
    timeline: &Timeline,
    principal: &Principal,
    id: &BuildId,
) -> Result<BuildRow, Refusal> {
    let what = || format!("build {id}");
    let row = timeline.database.build(id).await?.ok_or_else(|| Refusal::NotFound(what()))?;
    principal.must_see(&row.build.namespace, what)?;
    Ok(row)
}

/// A build with its attempts.
pub(in crate::web) async fn detail(
    timeline: &Timeline,
    principal: &Principal,
    id: &BuildId,
) -> Result<BuildDetail, Refusal> {
    let build = visible(timeline, principal, id).await?.shown(&timeline.base, OffsetDateTime::now_utc());
    Ok(BuildDetail {
        attempts: timeline.database.attempts(id).await?,
        usual_s: timeline.database.usual(&build.namespace, &build.app).await?,
        build,
    })
}

/// List builds, newest first
#[utoipa::path(get, path = "/builds", params(BuildsQuery), tag = "builds", responses(
    (status = 200, body = Page<Build>),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "A filter or cursor that is none"),
))]
pub(super) async fn list(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameters(query): Parameters<BuildsQuery>,
) -> Result<Json<Page<Build>>, Refusal> {
    principal.must(Scope::Read)?;
    page(&timeline, &principal, &query).await.map(Json)
}

/// Show a build with its attempts
#[utoipa::path(get, path = "/builds/{id}", params(("id" = String, Path)), tag = "builds", responses(
    (status = 200, body = BuildDetail),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
) -> Result<Json<BuildDetail>, Refusal> {
    principal.must(Scope::Read)?;
    detail(&timeline, &principal, &build_id(&id)?).await.map(Json)
}

/// Enqueue a deploy event
///
/// The same event twice is one build; the same id with another event is a conflict.
#[utoipa::path(post, path = "/builds", tag = "builds",
    request_body(content = Object, description = "The deploy event, version 1"),
    responses(
        (status = 202, body = Build, description = "It is in the queue"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The id belongs to another event"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "An event that would be rejected"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "The queue does not take it"),
    ))]
pub(super) async fn enqueue(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    request: Request,
) -> Result<Response, Refusal> {
    principal.must(Scope::Build)?;
    let bytes = body(request, MAX_EVENT).await?;
    let build = accept(&timeline, &principal, &bytes).await?;
    Ok(accepted(build))
}

/// End a build
///
/// Its worker is told within seconds; one that no worker has ends at once. Repeating it changes nothing.
#[utoipa::path(post, path = "/builds/{id}/cancel", params(("id" = String, Path)), tag = "builds", responses(
    (status = 202, body = Build, description = "It is to be ended"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "It has ended otherwise"),
))]
pub(super) async fn cancel(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
) -> Result<Response, Refusal> {
    principal.must(Scope::Build)?;
    cancel_build(&timeline, &principal, &build_id(&id)?).await.map(accepted)
}

/// Build the same commit again
///
/// A new build of the same event, which replaces the image at its name.
#[utoipa::path(post, path = "/builds/{id}/rebuild", params(("id" = String, Path)), tag = "builds", responses(
    (status = 202, body = Build, description = "The new build is in the queue"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "The queue does not take it"),
))]
pub(super) async fn rebuild(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
) -> Result<Response, Refusal> {
    principal.must(Scope::Build)?;
    rebuild_build(&timeline, &principal, &build_id(&id)?).await.map(accepted)
}

fn accepted(build: Build) -> Response {
    let location = HeaderValue::try_from(format!("{}/builds/{}", super::BASE, build.id));
    let mut response = (StatusCode::ACCEPTED, Json(build)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Puts an event into the queue and takes its build down.
pub(in crate::web) async fn accept(
    timeline: &Timeline,
    principal: &Principal,
    bytes: &[u8],
) -> Result<Build, Refusal> {
    let (event, ignored) =
        DeployEvent::parse(bytes).map_err(|rejected| Refusal::Unprocessable(rejected.reason))?;
    principal.must_see(&event.namespace, || format!("namespace {}", event.namespace))?;
    if !ignored.is_empty() {
        tracing::info!(build_id = %event.id, fields = ignored.join(", "), "an event has fields that this version does not know; ignored");
    }
    let conflict = || Refusal::Conflict(format!("the id {} belongs to another event", event.id));
    match timeline.database.build(&event.id).await? {
        Some(row) if row.body != event.body => return Err(conflict()),
        Some(row) if row.build.state != BuildState::Queued => {
            return Ok(row.shown(&timeline.base, OffsetDateTime::now_utc()));
        }
        // One that is queued may have been lost on its way: once more does no harm.
        Some(_) | None => {}
    }
    // The queue first: a build that is taken down and in no queue would wait for ever.
    timeline.queue.publish(&event, bytes).await?;
    let (id, now) = (event.id.clone(), OffsetDateTime::now_utc());
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (body, policy) = (event.body, timeline.policy());
    let (row, others) = timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move {
                let others = turn::arrive(connection, &event, &text, &policy, now, now).await?;
                Ok((builds::get(connection, &event.id).await?, others))
            })
        }))
        .await?;
    [&id].into_iter().chain(&others).for_each(|changed| timeline.live.changed(changed.as_str()));
    match row {
        Some(row) if row.body == body => Ok(row.shown(&timeline.base, now)),
        _ => Err(Refusal::Conflict(format!("the id {id} belongs to another event"))),
    }
}

/// Asks for the end of a build that the principal may see.
pub(in crate::web) async fn cancel_build(
    timeline: &Timeline,
    principal: &Principal,
    id: &BuildId,
) -> Result<Build, Refusal> {
    visible(timeline, principal, id).await?;
    let now = OffsetDateTime::now_utc();
    let target = id.clone();
    let outcome = timeline
        .database
        .write(Box::new(move |connection| {
            Box::pin(async move { claims::cancel(connection, &target, now).await })
        }))
        .await?;
    timeline.live.changed(id.as_str());
    let build = visible(timeline, principal, id).await?.shown(&timeline.base, now);
    tracing::info!(build_id = %id, by = principal.name, state = %build.state, "a build is to be ended");
    match outcome {
        Cancel::Over if build.state != BuildState::Cancelled => {
            Err(Refusal::Conflict(format!("build {id} has ended: it is {}", build.state)))
        }
        Cancel::Over | Cancel::Asked => Ok(build),
    }
}

/// Enqueues the event of a build again, under another id.
pub(in crate::web) async fn rebuild_build(
    timeline: &Timeline,
    principal: &Principal,
    id: &BuildId,
) -> Result<Build, Refusal> {
    let row = visible(timeline, principal, id).await?;
    let mut event: serde_json::Value = serde_json::from_str(&row.event)
        .map_err(|error| Refusal::Conflict(format!("the event of build {id} cannot be read: {error}")))?;
    event["id"] = BuildId::generate().as_str().into();
    event["requested_by"] = principal.name.as_str().into();
    if !event["build"].is_object() {
        event["build"] = serde_json::json!({});
    }
    event["build"]["rebuild"] = true.into();
    accept(timeline, principal, event.to_string().as_bytes()).await
}
