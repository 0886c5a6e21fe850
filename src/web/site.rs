//! The pages' routes: what a browser asks for, from the same functions that answer the API.

mod build;
mod log;
mod settings;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Form, FromRequest, FromRequestParts, OriginalUri, Path, Query, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum_extra::extract::CookieJar;
use http::StatusCode;
use http::request::Parts;
use secrecy::SecretString;
use serde::Deserialize;
use time::OffsetDateTime;

use super::access::session::{self, SignIn};
use super::access::{Identity, Principal, Scope};
use super::api::{self, apps};
use super::images;
use super::pages::{self, AppFilters, AppView, AppsView, BuildFilters, Viewer};
use super::refusal::Refusal;
use super::search;
use super::service::Timeline;
use super::timeline::{self, Wanted};
use crate::serving::Peer;
use crate::timeline::protocol::App;

/// Apps of a page: with the bars of each, half of what a page may weigh.
const APPS: usize = 40;
/// The most namespaces that a page offers to choose from.
const OFFERED: usize = 48;

/// The pages.
pub(super) fn router() -> Router<Arc<Timeline>> {
    Router::new()
        .route("/", get(all_apps))
        .route("/{namespace}/{app}", get(one_app))
        .route("/{namespace}/{app}/{service}", get(one_service))
        .route("/build", get(build::form).post(build::order))
        // Apps of a namespace that is called like one of these places.
        .route("/apps/{namespace}/{app}", get(one_app))
        .route("/apps/{namespace}/{app}/{service}", get(one_service))
        .route("/images/{namespace}/{image}", get(one_image))
        .route("/builds/{id}", get(log::of_build))
        .route("/deploys/{id}", get(log::of_deploy))
        .route("/builds/{id}/cancel", post(cancel))
        .route("/builds/{id}/rebuild", post(rebuild))
        .route("/search", get(find_any))
        .route("/settings/buildgrid", get(settings::settings).post(settings::change))
        .route("/sign-in", get(form).post(sign_in))
        .route("/sign-out", post(sign_out))
        .merge(pages::assets::router())
}

/// Someone who is signed in and may look.
struct Visitor(Principal);

impl Visitor {
    fn viewer(&self) -> Viewer {
        Viewer { name: self.0.name.clone(), can_build: self.0.may(Scope::Build) }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let known = parts.extensions.get::<Identity>().and_then(|identity| identity.0.clone());
        match known {
            Some(principal) if principal.may(Scope::Read) => Ok(Self(principal)),
            Some(_) => Err(Fault(Refusal::Forbidden(Scope::Read.words())).into_response()),
            None => {
                let OriginalUri(uri) = match OriginalUri::from_request_parts(parts, state).await {
                    Ok(uri) => uri,
                    Err(never) => match never {},
                };
                // What was to be done is not done by signing in.
                let unsent = "This login's session had ended: nothing was sent";
                let (next, what) = match (&parts.method, uri.path()) {
                    (&http::Method::GET, _) => (uri.path_and_query().map_or("/", |path| path.as_str()), None),
                    (_, "/build") => ("/build", Some(unsent)),
                    _ => ("/", Some(unsent)),
                };
                Err(pages::not_signed_in(next, what).into_response())
            }
        }
    }
}

/// A refusal, as a page.
pub(super) struct Fault(pub(super) Refusal);

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = self.0.status();
        let title = match status {
            StatusCode::NOT_FOUND => "Nothing here",
            StatusCode::FORBIDDEN => "Not for this login",
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "That address makes no sense",
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => "That form was not read",
            StatusCode::CONFLICT => "That cannot be done now",
            StatusCode::SERVICE_UNAVAILABLE => "Not at the moment",
            _ => "The service failed",
        };
        let detail = self.0.detail();
        let mut letters = detail.chars();
        let sentence: String =
            letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).chain(['.']).collect();
        pages::fault(status, title, &sentence).into_response()
    }
}

/// The query of a page; what makes no sense is a page of its own.
fn asked<T>(query: Asked<T>) -> Result<T, Fault> {
    query.map(|Query(query)| query).map_err(|rejection| Fault(Refusal::Malformed(rejection.body_text())))
}

type Asked<T> = Result<Query<T>, QueryRejection>;

/// The variable parts of a page's address; as [`asked`].
fn named<T>(path: Named<T>) -> Result<T, Fault> {
    path.map(|Path(parts)| parts).map_err(|rejection| Fault(Refusal::Malformed(rejection.body_text())))
}

type Named<T> = Result<Path<T>, PathRejection>;

async fn all_apps(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    query: Asked<AppFilters>,
) -> Result<Response, Fault> {
    let filters = asked(query)?;
    let query = apps::AppsQuery {
        namespace: filters.namespace.clone(),
        name: filters.app.clone(),
        limit: Some(APPS),
        cursor: filters.cursor.clone(),
    };
    let page = apps::page(&timeline, &visitor.0, &query).await?;
    let (database, now) = (&timeline.database, OffsetDateTime::now_utc());
    let mut recent = Vec::with_capacity(page.items.len());
    for app in &page.items {
        recent.push(database.recent(&app.namespace, &app.app, pages::BARS, now).await?);
    }
    let within = apps::within(&visitor.0, filters.namespace.as_deref())?;
    let names = visitor.0.namespaces.names();
    let view = AppsView {
        page: &page,
        recent: &recent,
        overview: database.overview(within.as_deref(), now).await?,
        namespaces: &database.namespaces(names.as_deref(), OFFERED).await?,
    };
    Ok(pages::apps(&visitor.viewer(), &view, &filters, now).into_response())
}

async fn one_app(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    path: Named<(String, String)>,
    query: Asked<BuildFilters>,
) -> Result<Response, Fault> {
    let (namespace, app) = named(path)?;
    let app = apps::visible(&timeline, &visitor.0, &namespace, &app).await?;
    show_app(&timeline, &visitor, &app, None, &asked(query)?).await
}

async fn one_service(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    path: Named<(String, String, String)>,
    query: Asked<BuildFilters>,
) -> Result<Response, Fault> {
    let (namespace, app, service) = named(path)?;
    let app = apps::with_service(&timeline, &visitor.0, &namespace, &app, &service).await?;
    show_app(&timeline, &visitor, &app, Some(&service), &asked(query)?).await
}

/// What is looked for.
#[derive(Deserialize)]
struct Sought {
    #[serde(default)]
    q: String,
}

async fn find_any(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    query: Asked<Sought>,
) -> Result<Response, Fault> {
    let query = asked(query)?.q;
    let found = search::find(&timeline, &visitor.0, &query).await?;
    Ok(pages::search(&visitor.viewer(), &query, &found, OffsetDateTime::now_utc()).into_response())
}

async fn one_image(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    path: Named<(String, String)>,
) -> Result<Response, Fault> {
    let (namespace, image) = named(path)?;
    let image = images::visible(&timeline, &visitor.0, &namespace, &image).await?;
    Ok(pages::image(&visitor.viewer(), &image, OffsetDateTime::now_utc()).into_response())
}

async fn show_app(
    timeline: &Timeline,
    visitor: &Visitor,
    app: &App,
    service: Option<&str>,
    filters: &BuildFilters,
) -> Result<Response, Fault> {
    let wanted = Wanted {
        service: service.or(filters.service.as_deref()).map(str::to_owned),
        state: filters.state,
        git_ref: filters.git_ref.clone(),
        cursor: filters.cursor.clone(),
    };
    let view = AppView {
        app,
        service,
        current: &timeline::current(timeline, app, service).await?,
        history: &timeline::page(timeline, app, &wanted).await?,
        registry: &timeline.registry_host(),
        base: &timeline.base,
    };
    Ok(pages::app(&visitor.viewer(), &view, filters, OffsetDateTime::now_utc()).into_response())
}

async fn cancel(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    path: Named<String>,
) -> Result<Redirect, Fault> {
    visitor.0.must(Scope::Build)?;
    let build = api::cancel_build(&timeline, &visitor.0, &api::build_id(&named(path)?)?).await?;
    Ok(Redirect::to(&format!("/builds/{}", build.id)))
}

async fn rebuild(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    path: Named<String>,
) -> Result<Redirect, Fault> {
    visitor.0.must(Scope::Build)?;
    let build = api::rebuild_build(&timeline, &visitor.0, &api::build_id(&named(path)?)?).await?;
    Ok(Redirect::to(&format!("/builds/{}", build.id)))
}

/// The page to go to after a sign-in.
#[derive(Deserialize)]
struct Next {
    next: Option<String>,
}

async fn form(query: Asked<Next>) -> Result<Response, Fault> {
    let next = asked(query)?.next.unwrap_or_default();
    Ok(pages::sign_in(None, &next).into_response())
}

/// The largest sign-in form, in bytes: a password of 1 KiB, escaped, with a name and an address.
const MAX_FORM: usize = 16 << 10;

#[derive(Deserialize)]
struct SignInForm {
    user: String,
    password: SecretString,
    #[serde(default)]
    next: String,
}

async fn sign_in(
    State(timeline): State<Arc<Timeline>>,
    jar: CookieJar,
    request: Request,
) -> Result<Response, Fault> {
    // Anybody can send this form: it is read within bounds, in size and in time.
    let (parts, sent) = request.into_parts();
    let source = parts.extensions.get::<Peer>().map(|peer| timeline.proxies.source(peer.0, &parts.headers));
    // Every request comes on a connection; one that does not shares its source with all such.
    let source = source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let bytes = api::body(Request::new(sent), MAX_FORM).await?;
    let form = Form::from_request(Request::from_parts(parts, bytes.into()), &()).await;
    let Form(SignInForm { user, password, next }) =
        form.map_err(|rejection| Fault(Refusal::Malformed(rejection.body_text())))?;
    match session::sign_in(&timeline, jar, source, &user, password).await? {
        SignIn::Done(jar) => Ok((jar, Redirect::to(pages::local_address(&next))).into_response()),
        SignIn::Wrong => Ok(pages::sign_in(Some("User or password is wrong"), &next).into_response()),
        SignIn::TooSoon(wait) => {
            let seconds = wait.as_secs() + 1;
            let page = pages::sign_in_later(seconds, &next);
            Ok(([(http::header::RETRY_AFTER, seconds.to_string())], page).into_response())
        }
    }
}

async fn sign_out(State(timeline): State<Arc<Timeline>>, jar: CookieJar) -> Result<Response, Fault> {
    let jar = session::sign_out(&timeline, jar).await?;
    Ok((jar, Redirect::to("/sign-in")).into_response())
}
