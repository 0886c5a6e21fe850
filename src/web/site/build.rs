//! Building a commit by a form. One that is refused comes back as it was typed, with what is wrong at its field.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::{StatusCode, Uri};

use super::{Fault, OFFERED, Visitor};
use crate::event::deploy::{BuildId, MAX_EVENT};
use crate::timeline::protocol::App;
use crate::web::access::Scope;
use crate::web::api::{self, apps, builds};
use crate::web::build_form::{APP, BuildForm, FieldFault, NAMESPACE};
use crate::web::pages;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// The largest form, in bytes. Escaped as it is, it holds less than an event can; what nobody types goes over the API. The
/// page that brings it back is a few times as long.
const MAX_FORM: usize = MAX_EVENT;

/// The form; for an app that is named in the address, as its last build was ordered, if there was one.
pub(super) async fn form(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    uri: Uri,
) -> Result<Response, Fault> {
    visitor.0.must(Scope::Build)?;
    let asked: Vec<_> = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
    let named = |name: &str| asked.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
    let app = match (named(NAMESPACE), named(APP)) {
        (Some(namespace), Some(app)) => known(&timeline, &visitor, namespace, app).await?,
        _ => None,
    };
    let mut form = match &app {
        Some(app) => {
            let last = builds::visible(&timeline, &visitor.0, &app.last.id).await?;
            // What is kept was parsed once; were it not JSON, the form would come empty.
            BuildForm::like(&serde_json::from_str(&last.event).unwrap_or_default())
        }
        None => BuildForm::default(),
    };
    form.fill(asked.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
    show(&timeline, &visitor, &form, &[], StatusCode::OK).await
}

/// An app of the visitor's namespaces; `None`: nothing has been built of it yet.
async fn known(
    timeline: &Timeline,
    visitor: &Visitor,
    namespace: &str,
    app: &str,
) -> Result<Option<App>, Refusal> {
    let own = || namespace.parse().is_ok_and(|namespace| visitor.0.namespaces.hold(&namespace));
    match apps::visible(timeline, &visitor.0, namespace, app).await {
        Ok(app) => Ok(Some(app)),
        Err(Refusal::NotFound(_)) if own() => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

pub(super) async fn order(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    request: Request,
) -> Result<Response, Fault> {
    visitor.0.must(Scope::Build)?;
    let mut form = BuildForm::read(&api::body(request, MAX_FORM).await?);
    let refusal = loop {
        let event = match form.event(&visitor.0, &timeline.rules()) {
            Ok(event) => event,
            Err(faults) => {
                return show(&timeline, &visitor, &form, &faults, StatusCode::UNPROCESSABLE_ENTITY).await;
            }
        };
        match api::accept(&timeline, &visitor.0, &event).await {
            Ok(build) => return Ok(Redirect::to(&format!("/builds/{}", build.id)).into_response()),
            // The form was sent before, with something else in it: this is another build. A new id is nobody's.
            Err(Refusal::Conflict(_)) => form.id = BuildId::generate(),
            Err(refusal) => break refusal,
        }
    };
    let fault = FieldFault::of(None, refusal.detail());
    show(&timeline, &visitor, &form, &[fault], refusal.status()).await
}

async fn show(
    timeline: &Timeline,
    visitor: &Visitor,
    form: &BuildForm,
    faults: &[FieldFault],
    status: StatusCode,
) -> Result<Response, Fault> {
    let about = (form.value(NAMESPACE).trim(), form.value(APP).trim());
    let app = match apps::visible(timeline, &visitor.0, about.0, about.1).await {
        Ok(app) => Some(app),
        Err(Refusal::NotFound(_)) => None,
        Err(refusal) => return Err(refusal.into()),
    };
    let of = app.as_ref().map(|app| (&app.namespace, &app.app));
    let names = visitor.0.namespaces.names();
    let namespaces = match &names {
        // A login may build in a namespace that has nothing yet.
        Some(own) => own.iter().take(OFFERED).cloned().collect(),
        None => timeline.database.namespaces(None, OFFERED).await?,
    };
    Ok(pages::build_form(&visitor.viewer(), form, of, &namespaces, faults, status).into_response())
}
