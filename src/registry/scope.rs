//! What a request is about: a repository, as far as who asks may know of it.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use super::error::RegistryError;
use super::login::Reader;
use super::router::Registry;
use crate::publish::name::{ImageRepository, RepositoryName};

/// The parts of a path under `/v2/{namespace}/{name}/`.
pub(super) struct Scope {
    /// `None` both for a repository that cannot exist and for one of a foreign namespace: from here
    /// on nothing can tell them apart.
    pub(super) repository: Option<ImageRepository>,
    /// The `{reference}` or `{digest}` of the path; empty where the route has none.
    pub(super) target: String,
}

impl FromRequestParts<Registry> for Scope {
    type Rejection = RegistryError;

    async fn from_request_parts(parts: &mut Parts, registry: &Registry) -> Result<Self, RegistryError> {
        let params = RawPathParams::from_request_parts(parts, registry)
            .await
            .map_err(|_| RegistryError::NameInvalid)?;
        let (mut namespace, mut name, mut target) = ("", "", "");
        for (key, value) in &params {
            match key {
                "namespace" => namespace = value,
                "name" => name = value,
                _ => target = value,
            }
        }
        // The grammar of any repository's component, which is wider than that of a namespace.
        if namespace.parse::<RepositoryName>().is_err() || name.parse::<RepositoryName>().is_err() {
            return Err(RegistryError::NameInvalid);
        }
        let reader = parts.extensions.get::<Reader>().ok_or(RegistryError::Unauthorized)?;
        let repository = format!("{namespace}/{name}").parse::<ImageRepository>().ok();
        Ok(Self {
            repository: repository.filter(|found| reader.may_read(&found.namespace)),
            target: target.to_owned(),
        })
    }
}
