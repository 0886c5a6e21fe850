//! Images: which the store must keep.

use std::sync::Arc;

use axum::extract::State;

use super::extract::Json;
use crate::timeline::protocol::{ImagesInUse, Problem};
use crate::web::access::{Namespaces, Principal, Scope};
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// List the images that deploys run
///
/// Of each service the newest deploy that is done, and all that are not over; and of which apps it is known at all what
/// runs. What retention must not remove; so it is
/// answered as a whole, to workers' and Maestro's tokens for all namespaces.
#[utoipa::path(get, path = "/images/in-use", tag = "deploys", responses(
    (status = 200, body = ImagesInUse),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn in_use(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
) -> Result<Json<ImagesInUse>, Refusal> {
    if !principal.may(Scope::Work) {
        principal.must(Scope::Deploy)?;
    }
    if principal.namespaces != Namespaces::All {
        // A part of them would be taken for all.
        return Err(Refusal::Forbidden(
            "see what runs in all namespaces: that needs a token for all of them",
        ));
    }
    Ok(Json(timeline.database.images_in_use().await?))
}
