//! Finding things by what one has of them: an app's name, the beginning of a commit, a ref, an image's name or
//! digest, a deploy's or a build's id. Each is looked for in an index, and a few of each are shown.

use time::OffsetDateTime;

use super::access::Principal;
use super::db::builds::BuildRow;
use super::db::finding::Line;
use super::refusal::Refusal;
use super::service::Timeline;
use crate::event::deploy::BuildId;
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::{Build, DeployReport};

/// How much of a query is looked for, in bytes.
const MAX_QUERY: usize = 512;
/// The most of each kind that are shown.
pub const SHOWN: usize = 8;
/// Commits that begin with the same digits, and builds of each.
const COMMITS: usize = 4;
const BUILDS: usize = 4;
/// The least digits of a commit and of a digest that are looked for: fewer are in too many.
const MIN_COMMIT: usize = 4;
const MIN_DIGEST: usize = 8;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub apps: Vec<(Namespace, AppName)>,
    /// By commit, id, or the id of their deploy; newest first.
    pub builds: Vec<Build>,
    /// The builds that ended with the images.
    pub images: Vec<Build>,
    /// Refs of apps.
    pub refs: Vec<(Namespace, AppName, String)>,
    pub deploys: Vec<(String, DeployReport)>,
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty()
            && self.builds.is_empty()
            && self.images.is_empty()
            && self.refs.is_empty()
            && self.deploys.is_empty()
    }
}

/// What of a principal's namespaces is called like `query`, or begins so.
pub(super) async fn find(timeline: &Timeline, principal: &Principal, query: &str) -> Result<Found, Refusal> {
    let query = query.trim();
    let end = (0..=query.len().min(MAX_QUERY)).rev().find(|&end| query.is_char_boundary(end));
    let query = &query[..end.unwrap_or_default()];
    if query.is_empty() {
        return Ok(Found::default());
    }
    let (database, now) = (&timeline.database, OffsetDateTime::now_utc());
    let names = principal.namespaces.names();
    let names = names.as_deref();
    let wanted = Wanted::read(query);
    let shown = |rows: Vec<BuildRow>| rows.into_iter().map(|row| row.shown(&timeline.base, now));
    let mut found = Found::default();

    if let Some((namespace, app)) = &wanted.app {
        let own = namespace.as_deref().map(|namespace| own(principal, namespace));
        let namespaces = own.or_else(|| names.map(<[String]>::to_vec));
        found.apps = database.apps(namespaces.as_deref(), Some(app), None, SHOWN).await?;
    }
    if let Ok(id) = query.parse::<BuildId>() {
        let row = database.build(&id).await?.filter(|row| principal.namespaces.hold(&row.build.namespace));
        found.builds.extend(shown(row.into_iter().collect()));
    }
    if let Some(commit) = &wanted.commit {
        for commit in database.commits_like(commit, names, COMMITS).await? {
            found.builds.extend(shown(database.builds_of_commit(&commit, names, BUILDS).await?));
        }
    }
    found.builds.extend(shown(database.builds_of_any_deploy(query, names, BUILDS).await?));
    if let Some(digest) = &wanted.digest {
        found.images.extend(shown(database.builds_of_digest(digest, names, SHOWN).await?));
    }
    if let Some(image) = &wanted.image {
        let within = image.namespaces(principal);
        let within = within.as_deref().or(names);
        for commit in database.commits_like(&image.commit, within, COMMITS).await? {
            let line =
                Line { app: &image.app, repository: &image.repository, variant: image.variant.as_deref() };
            let rows = database.images_of_commit(&commit, &line, within, SHOWN).await?;
            found.images.extend(shown(rows));
        }
    }
    found.refs = database.refs_like(query, names, SHOWN).await?;
    let deploys = database.deploys_like(query, names, SHOWN).await?;
    found.deploys = deploys.into_iter().map(|row| (row.id, row.report)).collect();

    for builds in [&mut found.builds, &mut found.images] {
        builds.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
        builds.dedup_by(|one, other| one.id == other.id);
        builds.truncate(SHOWN);
    }
    // A commit's builds are shown once, as builds.
    found.images.retain(|image| found.builds.iter().all(|build| build.id != image.id));
    Ok(found)
}

/// What a query may be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// A namespace, and a part of an app's name.
    app: Option<(Option<String>, String)>,
    /// The beginning of a commit.
    commit: Option<String>,
    /// The beginning of a digest, with `sha256:` before it.
    digest: Option<String>,
    image: Option<WantedImage>,
}

/// An image by the end of its URL: `shop.storefront:9fceb02`.
#[derive(Debug, PartialEq, Eq)]
struct WantedImage {
    namespace: Option<String>,
    app: String,
    repository: String,
    commit: String,
    /// What follows the commit, such as `-debug`; `None`: the tag ends within the commit.
    variant: Option<String>,
}

/// A namespace, if it is one of the principal's own; else none, which is not all of them.
fn own(principal: &Principal, namespace: &str) -> Vec<String> {
    let own = namespace.parse::<Namespace>().ok().filter(|own| principal.namespaces.hold(own));
    own.into_iter().map(|own| own.to_string()).collect()
}

impl WantedImage {
    /// Where it is looked for, if its name says so.
    fn namespaces(&self, principal: &Principal) -> Option<Vec<String>> {
        self.namespace.as_deref().map(|namespace| own(principal, namespace))
    }
}

impl Wanted {
    fn read(query: &str) -> Self {
        let hex = |text: &str, least: usize, most: usize| {
            let fits = (least..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            fits.then(|| text.to_ascii_lowercase())
        };
        let (reference, digest) = match query.rsplit_once("sha256:") {
            Some((before, digits)) => (before.trim_end_matches('@'), hex(digits, MIN_DIGEST, 64)),
            None => (query, None),
        };
        let digest = digest.map(|digits| format!("sha256:{digits}"));
        let segments: Vec<&str> = reference.split('/').collect();
        let (last, namespace) = match segments.as_slice() {
            [.., namespace, last] => (*last, Some((*namespace).to_owned())),
            [last] => (*last, None),
            [] => ("", None),
        };
        let image = last.split_once(':').and_then(|(name, tag)| {
            let (app, repository) = name.split_once('.')?;
            // A tag is the commit, and what may follow it.
            let (commit, rest) = tag.split_at_checked(40).unwrap_or((tag, ""));
            let variant = (commit.len() == 40).then(|| rest.to_owned());
            let commit = hex(commit, MIN_COMMIT, 40)?;
            Some(WantedImage {
                namespace: namespace.clone(),
                app: app.to_owned(),
                repository: repository.to_owned(),
                commit,
                variant,
            })
        });
        // `<namespace>/<app>`, of which `.<repository>:<tag>` says nothing more.
        let app = last.split(['.', ':']).next().unwrap_or_default();
        let app = (segments.len() <= 3 && !app.is_empty()).then(|| (namespace, app.to_owned()));
        Self { app, commit: hex(query, MIN_COMMIT, 40), digest, image }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_what_it_looks_like() {
        let app = |query: &str| {
            Wanted::read(query).app.map(|(namespace, app)| (namespace.unwrap_or_default(), app))
        };
        assert_eq!(app("shop"), Some((String::new(), "shop".to_owned())));
        assert_eq!(app("acme/shop"), Some(("acme".to_owned(), "shop".to_owned())));
        assert_eq!(app("acme/"), None);
        assert_eq!(Wanted::read("9FCEB02").commit.as_deref(), Some("9fceb02"));
        assert!(Wanted::read("9fc").commit.is_none() && Wanted::read("shop").commit.is_none());
        let url =
            "registry.example.com:5000/acme/shop.storefront:9fceb02d0ae598e95dc970b74767f19372d61af8-debug";
        let image = Wanted::read(url).image.unwrap();
        assert_eq!((image.namespace.as_deref(), image.app.as_str()), (Some("acme"), "shop"));
        assert_eq!(
            (image.repository.as_str(), &image.commit[..7], image.commit.len()),
            ("storefront", "9fceb02", 40)
        );
        assert_eq!(image.variant.as_deref(), Some("-debug"));
        let image = Wanted::read("shop.storefront:9fce").image.unwrap();
        assert_eq!((image.namespace, image.variant), (None, None));
        let digest = Wanted::read("r.example.com/acme/shop.storefront@sha256:3A7BD3E2F5");
        assert_eq!(digest.digest.as_deref(), Some("sha256:3a7bd3e2f5"));
        assert_eq!(Wanted::read("sha256:3a7").digest, None);
        for odd in ["/", ":", "//", "é", "a:b:c", "sha256:", "@"] {
            let _ = Wanted::read(odd);
        }
    }
}
