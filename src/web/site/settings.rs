//! BuildGrid Settings: the registry's credentials. A form is answered with the page itself, so that a new
//! password stands in one answer and nowhere else.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use time::OffsetDateTime;

use super::{Fault, OFFERED, Visitor};
use crate::publish::name::Namespace;
use crate::store::UserName;
use crate::web::access::Scope;
use crate::web::api;
use crate::web::credentials;
use crate::web::pages::{self, Fresh, Settings};
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// Where the page lies, and its forms are sent.
const HERE: &str = "/settings/buildgrid";
/// The largest form, in bytes: as many namespaces as a credential may have.
const MAX_FORM: usize = 16 << 10;

pub(super) async fn settings(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
) -> Result<Response, Fault> {
    show(&timeline, &visitor, None).await
}

pub(super) async fn change(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    request: Request,
) -> Result<Response, Fault> {
    let principal = &visitor.0;
    principal.must(Scope::Credentials)?;
    let body = api::body(request, MAX_FORM).await?;
    match Wish::read(&body)? {
        Wish::Add(namespaces) => {
            let new = credentials::add(&timeline, principal, namespaces).await?;
            show(&timeline, &visitor, Some(Fresh { new: &new, rotated: false })).await
        }
        Wish::Rotate(user) => {
            let new = credentials::rotate(&timeline, principal, &user).await?;
            show(&timeline, &visitor, Some(Fresh { new: &new, rotated: true })).await
        }
        Wish::Remove(user) => {
            credentials::remove(&timeline, principal, &user).await?;
            Ok(Redirect::to(HERE).into_response())
        }
    }
}

async fn show(timeline: &Timeline, visitor: &Visitor, fresh: Option<Fresh<'_>>) -> Result<Response, Fault> {
    let principal = &visitor.0;
    let managed = match principal.may(Scope::Credentials) {
        true => Some(credentials::all(timeline, principal).await?),
        false => None,
    };
    let names = principal.namespaces.names();
    let namespaces = timeline.database.namespaces(names.as_deref(), OFFERED).await?;
    let settings = Settings {
        host: &timeline.registry_host(),
        managed: managed.as_ref(),
        fresh,
        namespaces: &namespaces,
        any_namespace: names.is_none(),
    };
    Ok(pages::settings(&visitor.viewer(), &settings, OffsetDateTime::now_utc()).into_response())
}

/// What a form asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Add(BTreeSet<Namespace>),
    Rotate(UserName),
    Remove(UserName),
}

impl Wish {
    /// A form has `do`, and `user` or any number of `namespace`, in each of which names are separated by blanks
    /// or commas.
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let malformed = |error: &dyn std::fmt::Display| Refusal::Malformed(error.to_string());
        let (mut action, mut user, mut namespaces) = (String::new(), String::new(), BTreeSet::new());
        for (name, value) in url::form_urlencoded::parse(body) {
            match name.as_ref() {
                "do" => action = value.into_owned(),
                "user" => user = value.into_owned(),
                "namespace" => {
                    let names = value.split([' ', ',', '\n', '\r', '\t']).filter(|name| !name.is_empty());
                    for name in names {
                        namespaces.insert(name.parse().map_err(|error| malformed(&error))?);
                    }
                }
                _ => {}
            }
        }
        let user = || user.parse().map_err(|error| malformed(&error));
        match action.as_str() {
            "add" => Ok(Self::Add(namespaces)),
            "rotate" => user().map(Self::Rotate),
            "remove" => user().map(Self::Remove),
            _ => Err(Refusal::Malformed("the form does not say what to do".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_one_thing() {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<_>>();
        let add = Wish::read(b"do=add&namespace=acme&namespace=smoke%2C+globex+&user=").unwrap();
        assert_eq!(add, Wish::Add(names(&["acme", "globex", "smoke"])));
        let rotate = Wish::read(b"do=rotate&user=acme-k3v9").unwrap();
        assert_eq!(rotate, Wish::Rotate("acme-k3v9".parse().unwrap()));
        for bad in ["", "do=drop&user=a", "do=rotate&user=../x", "do=rotate", "do=add&namespace=a.b"] {
            assert!(Wish::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
