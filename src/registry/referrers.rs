//! What refers to a manifest: signatures, bills of materials and attestations that name it as their subject.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderName, HeaderValue, header};
use moka::sync::Cache;
use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};

use super::error::RegistryError;
use super::manifests;
use super::router::Registry;
use super::scope::Scope;
use crate::publish::name::ImageRepository;
use crate::store::digest::Digest;
use crate::store::{Store, StoreError};

/// The most descriptors of one page, and the most bytes that they take there, unless one alone takes more: clients
/// read an index of up to 4 MiB.
const MAX_PAGE: usize = 1000;
const MAX_PAGE_BYTES: usize = 1 << 20;

/// Manifests that are read at once for one request.
const READERS: usize = 8;

/// Bytes of memory for what is known of manifests: more than 100,000 of those that have no subject, which all are
/// that BuildGrid makes.
const MEMORY: u64 = 16 << 20;
/// What an entry takes beside the text in it.
const ENTRY: usize = 128;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// What is known of manifests by their digests, of which it is true for ever: whether they have a subject.
#[derive(Debug, Clone)]
pub(super) struct Subjects(Cache<Digest, Option<Arc<Referrer>>>);

/// A manifest that has a subject.
#[derive(Debug)]
struct Referrer {
    subject: Digest,
    descriptor: Descriptor,
    /// How long the descriptor is as JSON.
    length: usize,
}

/// In the index, with keys and annotations in one order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Default for Subjects {
    fn default() -> Self {
        let weigh = |_: &Digest, found: &Option<Arc<Referrer>>| {
            let length = ENTRY + found.as_ref().map_or(0, |referrer| 2 * referrer.length);
            u32::try_from(length).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().weigher(weigh).max_capacity(MEMORY).build())
    }
}

impl Subjects {
    /// A revision of the repository, if it has a subject. Its bytes are read the first time alone.
    async fn of(
        &self,
        store: &Store,
        repository: &ImageRepository,
        revision: Digest,
    ) -> Result<Option<Arc<Referrer>>, StoreError> {
        match self.0.get(&revision) {
            // Most are such, and nothing that goes away makes a difference.
            Some(None) => return Ok(None),
            // It may have been collected, or be in quarantine.
            Some(known) => {
                let is_there = store.has_manifest(repository, revision).await?;
                return Ok(known.filter(|_| is_there));
            }
            None => {}
        }
        let found = match store.manifest(repository, revision).await {
            Ok(Some(bytes)) => Referrer::read(revision, &bytes).map(Arc::new),
            // Collected meanwhile.
            Ok(None) => return Ok(None),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%error, %repository, "a manifest is left out of the list of referrers");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.0.insert(revision, found.clone());
        Ok(found)
    }
}

impl Referrer {
    /// `None` of a manifest without a subject, and of what is no manifest.
    fn read(digest: Digest, bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Manifest {
            subject: Named,
            artifact_type: Option<String>,
            config: Option<Kind>,
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        #[derive(Deserialize)]
        struct Named {
            digest: Digest,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            media_type: Option<String>,
        }
        let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
        let own = manifest.artifact_type.filter(|own| !own.is_empty());
        let descriptor = Descriptor {
            media_type: manifests::media_type(bytes).to_str().ok()?.to_owned(),
            digest,
            size: bytes.len(),
            artifact_type: own.or_else(|| manifest.config?.media_type),
            annotations: manifest.annotations,
        };
        let length = serde_json::to_vec(&descriptor).ok()?.len();
        Some(Self { subject: manifest.subject.digest, descriptor, length })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReferrersQuery {
    artifact_type: Option<String>,
    /// The digest that the page before ended with.
    last: Option<Digest>,
}

/// GET `/v2/<name>/referrers/<digest>` (OCI distribution specification 1.1, end-12a and end-12b). The subject need not
/// be there: of a digest that nothing refers to, the index is empty.
pub(super) async fn referrers(
    State(registry): State<Registry>,
    scope: Scope,
    query: Result<Query<ReferrersQuery>, QueryRejection>,
) -> Result<Response, RegistryError> {
    let subject: Digest = scope.target.parse().map_err(|_| RegistryError::DigestInvalid)?;
    // Of all that can be asked only `last` has a form.
    let Query(query) = query.map_err(|_| RegistryError::DigestInvalid)?;
    let repository = scope.repository.ok_or(RegistryError::NameUnknown)?;
    let revisions = registry.store.revisions(&repository).await?;
    if revisions.is_empty() {
        return Err(RegistryError::NameUnknown);
    }
    let after = |revision: &Digest| query.last.is_none_or(|last| *revision > last);
    let read = futures::stream::iter(revisions.into_iter().filter(after))
        .map(|revision| registry.subjects.of(&registry.store, &repository, revision))
        // In their order, which is that of the digests.
        .buffered(READERS);
    let is_wanted = |referrer: &Referrer| {
        let kind = &referrer.descriptor.artifact_type;
        referrer.subject == subject && (query.artifact_type.is_none() || query.artifact_type == *kind)
    };
    let mut found =
        std::pin::pin!(read.try_filter_map(async |referrer| Ok(referrer.filter(|it| is_wanted(it)))));
    let (mut page, mut bytes, mut more) = (Vec::new(), 0, false);
    while let Some(referrer) = found.try_next().await? {
        bytes += referrer.length;
        if page.len() == MAX_PAGE || (bytes > MAX_PAGE_BYTES && !page.is_empty()) {
            more = true;
            break;
        }
        page.push(referrer);
    }
    let link = page.last().filter(|_| more).map(|last| {
        let mut next = url::form_urlencoded::Serializer::new(String::new());
        if let Some(kind) = &query.artifact_type {
            next.append_pair("artifactType", kind);
        }
        let next = next.append_pair("last", &last.descriptor.digest.to_string()).finish();
        [(header::LINK, format!("</v2/{repository}/referrers/{subject}?{next}>; rel=\"next\""))]
    });
    let filtered = query.artifact_type.is_some();
    let filters = filtered.then_some([(FILTERS_APPLIED, HeaderValue::from_static("artifactType"))]);
    let kind = [(header::CONTENT_TYPE, MediaType::ImageIndex.to_string())];
    Ok((link, filters, kind, index(&page)).into_response())
}

/// An image index of these descriptors.
fn index(page: &[Arc<Referrer>]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index<'a> {
        schema_version: u32,
        media_type: String,
        manifests: Vec<&'a Descriptor>,
    }
    let manifests = page.iter().map(|referrer| &referrer.descriptor).collect();
    let index = Index { schema_version: 2, media_type: MediaType::ImageIndex.to_string(), manifests };
    serde_json::to_vec(&index).expect("text and numbers have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_says_of_itself() {
        let subject = Digest::of(b"subject");
        let read = |rest: &str| {
            let text = format!(r#"{{"schemaVersion":2,"subject":{{"digest":"{subject}"}}{rest}}}"#);
            let found = Referrer::read(Digest::of(text.as_bytes()), text.as_bytes())?;
            assert_eq!(found.subject, subject);
            Some((found.descriptor.media_type, found.descriptor.artifact_type))
        };
        let (image, index) = (MediaType::ImageManifest.to_string(), MediaType::ImageIndex.to_string());
        for (rest, media_type, artifact_type) in [
            ("", &image, None),
            (r#","artifactType":"a/b","config":{"mediaType":"c/d"}"#, &image, Some("a/b")),
            (r#","artifactType":"","config":{"mediaType":"c/d"}"#, &image, Some("c/d")),
            (r#","config":{}"#, &image, None),
            (r#","manifests":[],"artifactType":"a/b""#, &index, Some("a/b")),
            (r#","mediaType":"x/y","annotations":{"b":"2","a":"1"}"#, &"x/y".to_owned(), None),
        ] {
            let expected = (media_type.clone(), artifact_type.map(str::to_owned));
            assert_eq!(read(rest), Some(expected), "{rest}");
        }
        for none in ["", "x", "{}", r#"{"subject":{}}"#, r#"{"subject":{"digest":"sha512:00"}}"#, "[1]"] {
            assert!(Referrer::read(subject, none.as_bytes()).is_none(), "{none}");
        }
    }
}
