//! `/api/v1`: one file for each kind of thing. Each handler reads the request, asks who may, and does one
//! thing; the OpenAPI document is made of the same functions.

mod appends;
pub(super) mod apps;
mod attempts;
pub(super) mod builds;
pub(super) mod cursor;
pub(super) mod deploys;
mod extract;
mod images;
mod log_query;
mod logs;
mod outlines;

use std::sync::Arc;

use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::service::Timeline;

pub(super) use builds::{accept, cancel_build, rebuild_build};
pub(super) use extract::{body, build_id};

/// Where the API lies.
pub(super) const BASE: &str = "/api/v1";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "BuildGrid timeline",
        description = "Builds, their logs and deploys. Errors are application/problem+json (RFC 9457). \
            Lists are paged by key: `next` is the `cursor` of the next page. What belongs to another \
            namespace is answered like what is not there."
    ),
    modifiers(&Logins),
    security(("token" = []), ("session" = []))
)]
struct Document;

struct Logins;

impl utoipa::Modify for Logins {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        let cookie = ApiKey::Cookie(ApiKeyValue::new("buildgrid"));
        components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}

/// The routes of the API, with the document that describes them.
pub(super) fn router() -> OpenApiRouter<Arc<Timeline>> {
    let routes = OpenApiRouter::new()
        .routes(routes!(builds::list, builds::enqueue))
        .routes(routes!(builds::get, attempts::claim))
        .routes(routes!(builds::cancel))
        .routes(routes!(builds::rebuild))
        .routes(routes!(attempts::report))
        .routes(routes!(appends::append))
        .routes(routes!(logs::of_build))
        .routes(routes!(outlines::of_build))
        .routes(routes!(outlines::hits_of_build))
        .routes(routes!(apps::list))
        .routes(routes!(apps::get))
        .routes(routes!(apps::service))
        .routes(routes!(deploys::get, deploys::put))
        .routes(routes!(images::in_use))
        .routes(routes!(logs::of_deploy, appends::append_to_deploy))
        .routes(routes!(outlines::of_deploy))
        .routes(routes!(outlines::hits_of_deploy));
    OpenApiRouter::with_openapi(Document::openapi()).nest(BASE, routes)
}
