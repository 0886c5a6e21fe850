//! The tree on disk: exactly that of the CNCF Distribution registry (its `paths.go`), and beside it,
//! under `buildgrid/`, what only BuildGrid reads.
//!
//! ```text
//! <root>
//! ├── docker/registry/v2
//! │   ├── blobs/sha256/<first two digits>/<digest>/data    every blob: layers, configurations, manifests
//! │   └── repositories/<namespace>/<app>.<repository>
//! │       ├── _layers/sha256/<digest>/link                 layers and configurations readable through this repository
//! │       └── _manifests
//! │           ├── revisions/sha256/<digest>/link           manifests readable through this repository
//! │           └── tags/<tag>
//! │               ├── current/link                         the manifest that the tag names
//! │               └── index/sha256/<digest>/link           every manifest that the tag has named
//! └── buildgrid
//!     ├── version                                          the schema version of this directory: "1"
//!     ├── credentials/<user>.json                          registry logins (`credentials`)
//!     ├── ends/<two digits>/<event id>.json                how an event ended, for all workers (`ends`)
//!     ├── gc/condemned/<first two digits>                  what is to be removed, unless it is used before (`condemned`)
//!     ├── gc/{collection,scrub}                            locked while one goes on; with .json: what the last has found
//!     ├── layers/<first two digits>/<diff id>.json         uncompressed layer → descriptor of its blob (`layers`)
//!     ├── locks/{tags,ends,condemned}                      locked while a tag, a damaged end or such a list is replaced
//!     ├── quarantine/<digest>                              what the disk has made of a blob (`scrub`)
//!     ├── usage/<namespace>.json, usage/<namespace>/       what a namespace has, and what was added since (`usage`)
//!     └── tmp                                              files being written; swept at start
//! ```
//!
//! A link file holds the digest it points to, `sha256:<64 hex digits>`, without a line end.

use super::digest::Digest;
use super::user::UserName;
use crate::event::deploy::BuildId;
use crate::publish::name::{ImageName, ImageRepository, Namespace};

/// The place of an object in the store: a relative path whose parts are all checked names, so that
/// it cannot leave the store. An object store would take it as a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What lies in the directory at this key, by a name that was found there.
    pub fn below(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }
}

const BLOBS: &str = "docker/registry/v2/blobs/sha256";
const REPOSITORIES: &str = "docker/registry/v2/repositories";

pub fn blob(digest: Digest) -> Key {
    let hex = digest.hex();
    Key(format!("{BLOBS}/{}/{hex}/data", &hex[..2]))
}

/// Whether it is the place of a blob.
pub(super) fn is_blob(key: &Key) -> bool {
    key.0.strip_prefix(BLOBS).is_some_and(|below| below.starts_with('/') && below.ends_with("/data"))
}

/// The directories over which the blobs are spread, by the first two digits of their digests.
pub fn blobs() -> Key {
    Key(BLOBS.to_owned())
}

/// One of these directories.
pub fn blobs_in(shard: &str) -> Key {
    Key(format!("{BLOBS}/{shard}"))
}

/// The repository, or directory of repositories, at a path that was found below that of all.
pub fn tree(path: &str) -> Key {
    match path {
        "" => namespaces(),
        path => Key(format!("{REPOSITORIES}/{path}")),
    }
}

/// The directory of a repository's links to layers and configurations.
pub fn layer_links(repository: &Key) -> Key {
    repository.below("_layers/sha256")
}

/// The directory of a repository's links to manifests.
pub fn revision_links(repository: &Key) -> Key {
    repository.below("_manifests/revisions/sha256")
}

/// The directory of a repository's tags, which has one for each.
pub fn tag_directories(repository: &Key) -> Key {
    repository.below("_manifests/tags")
}

/// The directory of the lists of what is to be removed.
pub fn condemned_lists() -> Key {
    Key("buildgrid/gc/condemned".to_owned())
}

/// What is to be removed of what has to do with digests that begin with these two digits.
pub fn condemned(shard: &str) -> Key {
    Key(format!("buildgrid/gc/condemned/{shard}"))
}

pub fn condemned_lock() -> Key {
    Key("buildgrid/locks/condemned".to_owned())
}

pub fn scrub_lease() -> Key {
    Key("buildgrid/gc/scrub".to_owned())
}

/// What the last scrub has found.
pub fn scrub_report() -> Key {
    Key("buildgrid/gc/scrub.json".to_owned())
}

/// The directory of what the disk has damaged.
pub fn quarantine() -> Key {
    Key("buildgrid/quarantine".to_owned())
}

pub fn quarantined(blob: Digest) -> Key {
    quarantine().below(&blob.hex())
}

/// One of the tags of which it cannot be told what they named.
pub fn quarantined_tag(id: &str) -> Key {
    quarantine().below(&format!("tag-{id}"))
}

/// The directory of what namespaces have in the store.
pub fn usages() -> Key {
    Key("buildgrid/usage".to_owned())
}

/// What was counted of a namespace.
pub fn usage_counted(namespace: &str) -> Key {
    usages().below(&format!("{namespace}.json"))
}

/// The directory of what was added since.
pub fn usage_added(namespace: &str) -> Key {
    usages().below(namespace)
}

/// What the last collection has found.
pub fn collection_report() -> Key {
    Key("buildgrid/gc/collection.json".to_owned())
}

pub fn collection_lease() -> Key {
    Key("buildgrid/gc/collection".to_owned())
}

/// The directory of namespaces.
pub fn namespaces() -> Key {
    Key(REPOSITORIES.to_owned())
}

/// The directory of a namespace's repositories.
pub fn repositories(namespace: &Namespace) -> Key {
    Key(format!("{REPOSITORIES}/{namespace}"))
}

/// Lets a layer or a configuration be read through the repository.
pub fn layer_link(repository: &ImageRepository, digest: Digest) -> Key {
    Key(format!("{REPOSITORIES}/{repository}/_layers/sha256/{}/link", digest.hex()))
}

/// Lets a manifest be read through the repository.
pub fn revision_link(repository: &ImageRepository, digest: Digest) -> Key {
    Key(format!("{REPOSITORIES}/{repository}/_manifests/revisions/sha256/{}/link", digest.hex()))
}

/// The directory of a repository's tags.
pub fn tags(repository: &ImageRepository) -> Key {
    Key(format!("{REPOSITORIES}/{repository}/_manifests/tags"))
}

pub fn tag_current_link(name: &ImageName) -> Key {
    Key(format!("{}/{}/current/link", tags(&name.repository).0, name.tag))
}

pub fn tag_index_link(name: &ImageName, digest: Digest) -> Key {
    Key(format!("{}/{}/index/sha256/{}/link", tags(&name.repository).0, name.tag, digest.hex()))
}

pub fn version() -> Key {
    Key("buildgrid/version".to_owned())
}

/// What tells this store from all others.
pub fn identity() -> Key {
    Key("buildgrid/id".to_owned())
}

pub fn temporary_files() -> Key {
    Key("buildgrid/tmp".to_owned())
}

pub fn tags_lock() -> Key {
    Key("buildgrid/locks/tags".to_owned())
}

pub fn layer_index(diff_id: Digest) -> Key {
    let hex = diff_id.hex();
    Key(format!("buildgrid/layers/{}/{hex}.json", &hex[..2]))
}

/// One of the directories over which the layer index is spread.
pub fn layer_indices(shard: &str) -> Key {
    Key(format!("buildgrid/layers/{shard}"))
}

/// The directory of registry logins.
pub fn credentials() -> Key {
    Key("buildgrid/credentials".to_owned())
}

pub fn credential(user: &UserName) -> Key {
    Key(format!("buildgrid/credentials/{user}.json"))
}

pub fn ends_lock() -> Key {
    Key("buildgrid/locks/ends".to_owned())
}

/// The directory of the ends of events.
pub fn ends() -> Key {
    Key("buildgrid/ends".to_owned())
}

/// The directories over which ends are spread.
pub fn ends_in(shard: &str) -> Key {
    Key(format!("buildgrid/ends/{shard}"))
}

/// The end of an event, or the one that it came to after an operator had put it back to the queue: ids have
/// no dot, and a requeue may be called anything.
pub fn end(id: &BuildId, requeue: Option<&str>) -> Key {
    let shard = &Digest::of(id.as_str().as_bytes()).hex()[..2];
    let requeue = requeue.map(|requeue| format!(".{}", &Digest::of(requeue.as_bytes()).hex()[..32]));
    Key(format!("buildgrid/ends/{shard}/{id}{}.json", requeue.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths as Distribution's `paths.go` documents them.
    #[test]
    fn is_the_tree_of_distribution() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = Digest::of(b"");
        let name =
            ImageName { repository: "acme/shop.storefront".parse().unwrap(), tag: "v1".parse().unwrap() };
        let repository = "docker/registry/v2/repositories/acme/shop.storefront";
        for (key, path) in [
            (blob(digest), format!("docker/registry/v2/blobs/sha256/e3/{hex}/data")),
            (layer_link(&name.repository, digest), format!("{repository}/_layers/sha256/{hex}/link")),
            (
                revision_link(&name.repository, digest),
                format!("{repository}/_manifests/revisions/sha256/{hex}/link"),
            ),
            (tag_current_link(&name), format!("{repository}/_manifests/tags/v1/current/link")),
            (
                tag_index_link(&name, digest),
                format!("{repository}/_manifests/tags/v1/index/sha256/{hex}/link"),
            ),
        ] {
            assert_eq!(key.as_str(), path);
        }
    }
}
