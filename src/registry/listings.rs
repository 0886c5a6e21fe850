//! Listings, in pages: a repository's tags, and the repositories that a login may read.

use std::collections::BTreeSet;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header;
use serde::Deserialize;
use serde_json::json;

use super::error::RegistryError;
use super::login::Reader;
use super::router::Registry;
use super::scope::Scope;

/// The most entries of one page, also when more are asked for: the rest is behind its `Link`.
const MAX_PAGE: usize = 1000;
/// The largest count of entries that is taken for one. Clients that want all ask for what they think is enough, such
/// as 10,000 (crane and Renovate, of tags), and follow the links.
const MAX_ASKED: usize = 100_000;

#[derive(Debug, Default, Deserialize)]
pub(super) struct PageQuery {
    n: Option<usize>,
    last: Option<String>,
}

impl PageQuery {
    fn checked(query: Result<Query<Self>, QueryRejection>) -> Result<Self, RegistryError> {
        let Query(query) = query.map_err(|_| RegistryError::PageInvalid)?;
        match query.n {
            Some(n) if n > MAX_ASKED => Err(RegistryError::PageInvalid),
            _ => Ok(query),
        }
    }
}

/// GET `/v2/<name>/tags/list` (OCI distribution specification 1.1, end-8).
pub(super) async fn tags(
    State(registry): State<Registry>,
    scope: Scope,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, RegistryError> {
    let query = PageQuery::checked(query)?;
    let repository = scope.repository.ok_or(RegistryError::NameUnknown)?;
    let tags = registry.store.tags(&repository).await?;
    if tags.is_empty() {
        return Err(RegistryError::NameUnknown);
    }
    let tags = tags.iter().map(ToString::to_string).collect();
    let page = Page::of(tags, query);
    let link = page.link(&format!("/v2/{repository}/tags/list"));
    Ok((link, Json(json!({"name": repository.to_string(), "tags": page.entries}))).into_response())
}

/// GET `/v2/_catalog` (CNCF Distribution): the repositories that the login may read, and no others.
pub(super) async fn catalog(
    State(registry): State<Registry>,
    Extension(reader): Extension<Reader>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, RegistryError> {
    let query = PageQuery::checked(query)?;
    let mut names = Vec::new();
    for namespace in reader.namespaces().collect::<BTreeSet<_>>() {
        let repositories = registry.store.repositories_of(namespace).await?;
        names.extend(repositories.iter().map(ToString::to_string));
    }
    // As whole strings, which `last` is compared with: '-' sorts before the '/' after a namespace.
    names.sort_unstable();
    let page = Page::of(names, query);
    let link = page.link("/v2/_catalog");
    Ok((link, Json(json!({"repositories": page.entries}))).into_response())
}

#[derive(Debug, PartialEq, Eq)]
struct Page {
    entries: Vec<String>,
    size: usize,
    more: bool,
}

impl Page {
    /// The page of the sorted `entries` after `last`.
    fn of(mut entries: Vec<String>, query: PageQuery) -> Self {
        let size = query.n.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        if let Some(last) = query.last {
            entries.retain(|entry| *entry > last);
        }
        // Of n = 0 nothing follows: a client would ask for the same page for ever.
        let more = size > 0 && entries.len() > size;
        entries.truncate(size);
        Self { entries, size, more }
    }

    /// The `Link` header to the next page (RFC 8288), where there is one.
    fn link(&self, path: &str) -> Option<[(header::HeaderName, String); 1]> {
        let last = self.entries.last().filter(|_| self.more)?;
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("n", &self.size.to_string())
            .append_pair("last", last)
            .finish();
        Some([(header::LINK, format!("<{path}?{query}>; rel=\"next\""))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: Option<usize>, last: Option<&str>) -> Page {
        let entries = ["a", "b", "c"].map(str::to_owned).to_vec();
        Page::of(entries, PageQuery { n, last: last.map(str::to_owned) })
    }

    #[test]
    fn pages_follow_one_another() {
        let first = page(Some(2), None);
        assert_eq!(first.entries, ["a", "b"]);
        let [(_, link)] = first.link("/v2/x/y.z/tags/list").unwrap();
        assert_eq!(link, "</v2/x/y.z/tags/list?n=2&last=b>; rel=\"next\"");
        for (page, entries) in [
            (page(Some(2), Some("b")), &["c"][..]),
            (page(Some(3), None), &["a", "b", "c"]),
            (page(None, Some("aa")), &["b", "c"]),
            (page(Some(0), None), &[]),
            (page(Some(1), Some("c")), &[]),
        ] {
            assert_eq!(page.entries, entries);
            assert_eq!(page.link("/v2/_catalog"), None);
        }
        let [(_, link)] = Page::of(vec!["a/b.c".into(), "d".into()], PageQuery { n: Some(1), last: None })
            .link("/v2/_catalog")
            .unwrap();
        assert_eq!(link, "</v2/_catalog?n=1&last=a%2Fb.c>; rel=\"next\"");
    }

    #[test]
    fn a_page_is_bounded() {
        let many = (0..MAX_PAGE + 1).map(|tag| format!("{tag:05}")).collect();
        let page = Page::of(many, PageQuery { n: Some(usize::MAX), last: None });
        assert_eq!(page.entries.len(), MAX_PAGE);
        assert!(page.link("/v2/_catalog").is_some());
    }
}
