//! Whatever lies in the store's files, nothing that reads them panics, answers with content that its digest does not
//! name, lets anybody in, or takes away what another image needs.

use std::path::{Path, PathBuf};

use buildgrid::publish::name::ImageName;
use buildgrid::store::digest::Digest;
use buildgrid::store::{Part, Store};
use oci_spec::image::MediaType;
use proptest::prelude::*;
use proptest::sample::Index;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::gc::{NONE, collect, is_whole};
use super::store;
use crate::support::image::{TestImage, image_name};

/// What becomes of a file.
#[derive(Debug, Clone)]
enum Damage {
    Whole(Vec<u8>),
    /// So many bytes at a place are these instead.
    Spliced {
        at: Index,
        cut: usize,
        put: Vec<u8>,
    },
    /// A value of it is another one, so that it still is JSON.
    Value {
        nth: Index,
        put: Vec<u8>,
    },
}

impl Damage {
    fn of(&self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Whole(bytes) => bytes.clone(),
            Self::Spliced { at, cut, put } => {
                let at = at.index(bytes.len() + 1);
                let end = (at + cut).min(bytes.len());
                [&bytes[..at], put, &bytes[end..]].concat()
            }
            Self::Value { nth, put } => {
                let text = String::from_utf8_lossy(bytes);
                let colons: Vec<_> = text.match_indices(':').map(|(at, _)| at + 1).collect();
                let Some(&at) = colons.get(nth.index(colons.len().max(1))) else { return put.clone() };
                let end = text[at..].find([',', '}', '\n']).map_or(text.len(), |end| at + end);
                [text[..at].as_bytes(), put, text[end..].as_bytes()].concat()
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(
            &[
                "null",
                "-1",
                "18446744073709551615",
                "18446744073709551616",
                "1e999",
                "\"\"",
                "[]",
                "{}",
                "true",
                "[null]",
                "\"../../../../etc/passwd\"",
                "\"sha256:\"",
                "{\"digest\":\"sha512:00\",\"size\":1}",
                "\u{0}",
                "\u{feff}",
                "\n",
            ][..]
        )
        .prop_map(|text| text.as_bytes().to_vec()),
        (1usize..200_000).prop_map(|depth| b"[".repeat(depth)),
    ];
    prop_oneof![
        value.clone().prop_map(Damage::Whole),
        (any::<Index>(), 0usize..20, value.clone()).prop_map(|(at, cut, put)| Damage::Spliced {
            at,
            cut,
            put
        }),
        (any::<Index>(), value).prop_map(|(nth, put)| Damage::Value { nth, put }),
    ]
}

/// Which file it is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Credential,
    TagLink,
    IndexLink,
    RevisionLink,
    LayerLink,
    Blob,
    Marks,
    LayerIndex,
    Usage,
}

fn kind() -> impl Strategy<Value = Kind> {
    use Kind::*;
    prop::sample::select(
        &[Credential, TagLink, IndexLink, RevisionLink, LayerLink, Blob, Marks, LayerIndex, Usage][..],
    )
}

/// The files of an image, of a login, and of what is known beside them.
fn file(root: &Path, kind: Kind, image: &TestImage, user: &str) -> PathBuf {
    let repository = root.join("docker/registry/v2/repositories/acme/shop.storefront");
    let (manifest, layer) = (image.digest().hex(), Digest::of(&image.layer).hex());
    let own = root.join("buildgrid");
    match kind {
        Kind::Credential => own.join(format!("credentials/{user}.json")),
        Kind::TagLink => repository.join("_manifests/tags/v1/current/link"),
        Kind::IndexLink => repository.join(format!("_manifests/tags/v1/index/sha256/{manifest}/link")),
        Kind::RevisionLink => repository.join(format!("_manifests/revisions/sha256/{manifest}/link")),
        Kind::LayerLink => repository.join(format!("_layers/sha256/{layer}/link")),
        Kind::Blob => {
            root.join(format!("docker/registry/v2/blobs/sha256/{}/{manifest}/data", &manifest[..2]))
        }
        Kind::Marks => own.join(format!("gc/condemned/{}", &layer[..2])),
        Kind::LayerIndex => own.join(format!("layers/{}/{layer}.json", &layer[..2])),
        Kind::Usage => own.join("usage/acme.json"),
    }
}

/// What everybody asks who reads a store.
async fn read_all(store: &Store, name: &ImageName, image: &TestImage) {
    if let Ok(Some(digest)) = store.tag(name).await
        && let Ok(Some(manifest)) = store.manifest(&name.repository, digest).await
    {
        assert_eq!(Digest::of(&manifest), digest, "a manifest that is another's");
    }
    if let Ok(Some(manifest)) = store.manifest(&name.repository, image.digest()).await {
        assert_eq!(manifest, image.manifest);
    }
    let _ = store.is_whole(&name.repository, image.digest()).await;
    let _ = store.tags(&name.repository).await;
    let _ = store.revisions(&name.repository).await;
    let _ = store.list_repositories(None);
    let _ = store.list_images(&name.repository);
    let _ = store.disk_usage();
    let _ = store.usage(&name.repository.namespace).await;
    let _ = store.recounted_usage(&name.repository.namespace).await;
    let _ = store.credentials().await;
    let _ = store.sweep_credentials();
}

/// Puts a tag that names whatever it is, as the store itself would not.
pub(super) async fn tagged(root: &Path, store: &Store, manifest: &[u8]) -> ImageName {
    let name = image_name("acme/shop.storefront", "strange");
    let digest = store.put_manifest(&name.repository, manifest.to_vec()).await.unwrap();
    let tag = root.join("docker/registry/v2/repositories/acme/shop.storefront/_manifests/tags/strange");
    for link in [tag.join("current"), tag.join("index/sha256").join(digest.hex())] {
        std::fs::create_dir_all(&link).unwrap();
        std::fs::write(link.join("link"), digest.to_string()).unwrap();
    }
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_no_disk_has_are_the_most_there_is_and_no_less() {
    let (root, store) = store();
    let part =
        |text: &str| format!("{{\"digest\": \"{}\", \"size\": {}}}", Digest::of(text.as_bytes()), u64::MAX);
    let manifest = format!("{{\"layers\": [{}, {}], \"config\": {}}}", part("1"), part("2"), part("3"));
    let name = tagged(root.path(), &store, manifest.as_bytes()).await;
    let listed = store.list_repositories(None).unwrap();
    assert_eq!(listed.rows[0].bytes, u64::MAX);
    assert_eq!(store.list_images(&name.repository).unwrap().unwrap().rows[0].size, Some(u64::MAX));
    assert!(store.disk_usage().unwrap().rows.iter().any(|row| row.bytes == u64::MAX));
    assert_eq!(store.usage(&name.repository.namespace).await.unwrap(), u64::MAX);
    store.note_usage(&name.repository, vec![(Digest::of(b"4"), u64::MAX)]).await.unwrap();
    assert_eq!(store.usage(&name.repository.namespace).await.unwrap(), u64::MAX);
    tokio::task::block_in_place(|| collect(&store, NONE));
}

async fn survives(kind: Kind, damage: Damage) {
    let (root, store) = store();
    let name = image_name("acme/shop.storefront", "v1");
    let (image, neighbour) = (TestImage::saying("hello"), TestImage::saying("another"));
    let (beside, elsewhere) = (image_name("acme/shop.storefront", "v2"), image_name("acme/shop.other", "v1"));
    for (name, image) in [(&name, &image), (&beside, &neighbour), (&elsewhere, &image)] {
        image.publish(&store, name).await;
    }
    let login = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    let (user, password) = (login.credential.user.as_str(), login.password.expose_secret());
    let entry = buildgrid::store::Layer {
        media_type: MediaType::ImageLayerGzip,
        digest: Digest::of(&image.layer),
        size: image.layer.len() as u64,
    };
    store.index_layer(Digest::of(&image.layer), &entry).await.unwrap();
    store.usage(&name.repository.namespace).await.unwrap();
    // A list with a mark of long ago on something that is needed, as one who lost a race may leave.
    let layer = Digest::of(&image.layer);
    let marked = format!("docker/registry/v2/blobs/sha256/{}/{}/data", &layer.hex()[..2], layer.hex());
    let marks = file(root.path(), Kind::Marks, &image, user);
    std::fs::create_dir_all(marks.parent().unwrap()).unwrap();
    let mark = format!("{{\"key\":\"{marked}\",\"digest\":\"{layer}\",\"since\":1,\"round\":\"before\"}}\n");
    std::fs::write(marks, mark).unwrap();

    let path = file(root.path(), kind, &image, user);
    let bytes = damage.of(&std::fs::read(&path).unwrap());
    std::fs::write(&path, &bytes).unwrap();

    read_all(&store, &name, &image).await;
    for wrong in ["", "wrong", &password[1..]] {
        let let_in = store.verify_credential(user, wrong).await;
        assert!(
            !matches!(let_in, Ok(Some(_))),
            "a wrong password is let in: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
    if !matches!(kind, Kind::Credential) {
        assert!(store.verify_credential(user, password).await.unwrap().is_some());
    }
    // As a manifest that another registry has put, under its own digest.
    let strange = tagged(root.path(), &store, &bytes).await;
    assert_eq!(store.tag(&strange).await.unwrap(), Some(Digest::of(&bytes)));
    assert_eq!(
        store.manifest(&strange.repository, Digest::of(&bytes)).await.unwrap().as_deref(),
        Some(&bytes[..])
    );
    read_all(&store, &strange, &image).await;
    // Whoever looks after the store; the second round without a grace, with the first one's marks.
    for _ in 0..2 {
        let _ = tokio::task::block_in_place(|| collect(&store, NONE));
    }
    let scrubbed = tokio::task::block_in_place(|| store.scrub(Part::ALL, true, &CancellationToken::new()));
    assert!(scrubbed.is_ok(), "{scrubbed:?}");
    read_all(&store, &name, &image).await;
    assert!(
        is_whole(&store, &beside, &neighbour).await,
        "an image of the same repository has lost something"
    );
    if !matches!(kind, Kind::Blob) {
        assert!(
            is_whole(&store, &elsewhere, &image).await,
            "an image with the same layers has lost something"
        );
    }
    // Building it again mends it, whatever it was.
    image.put_untagged(&store, &name.repository).await;
    assert!(is_whole(&store, &name, &image).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_with_any_bytes_harm_nobody(kind in kind(), damage in damage()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(survives(kind, damage));
    }
}
