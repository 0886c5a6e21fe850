//! Referrers: what names a manifest as its subject.

use std::fs;
use std::path::Path;

use buildgrid::store::digest::Digest;
use oci_spec::image::ImageIndex;
use reqwest::{Response, StatusCode};
use serde_json::json;

use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;

const REPOSITORY: &str = "acme/shop.storefront";
const SBOM: &str = "application/spdx+json";

/// A manifest that refers to `subject`, as signing and scanning tools write it.
fn referrer(subject: Digest, artifact_type: &str, note: &str) -> Vec<u8> {
    let empty = Digest::of(b"{}");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [],
        "subject": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": subject, "size": 1},
        "annotations": {"org.opencontainers.image.created": "2026-11-30T12:00:00Z", "note": note},
    });
    serde_json::to_vec(&manifest).unwrap()
}

async fn index_of(response: Response) -> ImageIndex {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/vnd.oci.image.index.v1+json");
    let index: ImageIndex = response.json().await.unwrap();
    assert_eq!(index.schema_version(), 2);
    index
}

fn digests(index: &ImageIndex) -> Vec<String> {
    index.manifests().iter().map(|descriptor| descriptor.digest().to_string()).collect()
}

#[tokio::test]
async fn are_listed_by_their_subject_and_type() {
    let registry = TestRegistry::start().await;
    let image = TestImage::saying("hello");
    image.publish(&registry.store, &image_name(REPOSITORY, "v1")).await;
    let repository = image_name(REPOSITORY, "v1").repository;
    let mut put = Vec::new();
    for (kind, note) in [(SBOM, "one"), (SBOM, "two"), ("application/vnd.in-toto+json", "three")] {
        let bytes = referrer(image.digest(), kind, note);
        put.push((registry.store.put_manifest(&repository, bytes.clone()).await.unwrap(), kind, note, bytes));
    }
    put.sort();
    // Of another image, and of this one in a repository of another namespace.
    let other = referrer(Digest::of(b"other"), SBOM, "other");
    registry.store.put_manifest(&repository, other).await.unwrap();
    let foreign = image_name("other/shop.storefront", "v1");
    image.publish(&registry.store, &foreign).await;
    let secret = referrer(image.digest(), SBOM, "secret");
    registry.store.put_manifest(&foreign.repository, secret).await.unwrap();

    let path = format!("/v2/{REPOSITORY}/referrers/{}", image.digest());
    let response = registry.get(&path).await;
    assert_eq!(response.headers().get("oci-filters-applied"), None);
    assert_eq!(response.headers().get("link"), None);
    let index = index_of(response).await;
    assert_eq!(index.manifests().len(), put.len());
    for (descriptor, (digest, kind, note, bytes)) in index.manifests().iter().zip(&put) {
        assert_eq!(descriptor.digest().to_string(), digest.to_string());
        assert_eq!(descriptor.size(), bytes.len() as u64);
        assert_eq!(descriptor.media_type().to_string(), "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(descriptor.artifact_type().as_ref().unwrap().to_string(), *kind);
        assert_eq!(descriptor.annotations().as_ref().unwrap()["note"], *note);
        let manifest = registry.get(&format!("/v2/{REPOSITORY}/manifests/{digest}")).await;
        assert_eq!(manifest.bytes().await.unwrap(), bytes);
    }
    // The same once more, by what is remembered.
    assert_eq!(index_of(registry.get(&path).await).await, index);
    assert_eq!(registry.head(&path).await.status(), StatusCode::OK);

    for (kind, count) in [(SBOM, 2), ("application/vnd.in-toto+json", 1), ("a/b", 0), ("", 0)] {
        let query: String = url::form_urlencoded::byte_serialize(kind.as_bytes()).collect();
        let response = registry.get(&format!("{path}?artifactType={query}")).await;
        assert_eq!(response.headers()["oci-filters-applied"], "artifactType");
        assert_eq!(index_of(response).await.manifests().len(), count, "{kind}");
    }

    // Nothing refers to what is not there, or to an image's layer.
    for subject in [Digest::of(b"absent"), Digest::of(&image.layer)] {
        let response = registry.get(&format!("/v2/{REPOSITORY}/referrers/{subject}")).await;
        assert_eq!(index_of(response).await.manifests().len(), 0);
    }
    let refused = registry.get(&format!("/v2/{REPOSITORY}/referrers/v1")).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await.unwrap().contains("DIGEST_INVALID"));
    let mut absent = Vec::new();
    for name in ["other/shop.storefront", "other/absent.x", "acme/absent.x", "absent/a.b"] {
        let refused = registry.get(&format!("/v2/{name}/referrers/{}", image.digest())).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
        absent.push(refused.text().await.unwrap());
    }
    assert!(absent[0].contains("NAME_UNKNOWN") && absent.iter().all(|body| *body == absent[0]), "{absent:?}");

    // What is collected, or put into quarantine, is not listed on.
    let gone = put[0].0.hex();
    fs::remove_file(data(registry.root(), &gone)).unwrap();
    let link = format!("docker/registry/v2/repositories/{REPOSITORY}/_manifests/revisions/sha256");
    fs::remove_file(registry.root().join(link).join(put[1].0.hex()).join("link")).unwrap();
    assert_eq!(digests(&index_of(registry.get(&path).await).await), [put[2].0.to_string()]);
    registry.stop().await;
}

fn data(root: &Path, hex: &str) -> std::path::PathBuf {
    root.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

/// Puts a manifest without waiting for the disk.
fn put(root: &Path, bytes: &[u8]) {
    let hex = Digest::of(bytes).hex();
    let links = format!("docker/registry/v2/repositories/{REPOSITORY}/_manifests/revisions/sha256");
    for (file, content) in [
        (data(root, &hex), bytes),
        (root.join(links).join(&hex).join("link"), format!("sha256:{hex}").as_bytes()),
    ] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
}

/// Bytes that this process, and so the registry, has read from anywhere.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn of_many_manifests_are_found_without_reading_all_of_them_each_time() {
    const REFERRERS: usize = 1100;
    let registry = TestRegistry::start().await;
    let subject = Digest::of(b"subject");
    let padding = "x".repeat(4000);
    for number in 0..1500 {
        put(registry.root(), format!(r#"{{"config":{{}},"n":{number},"p":"{padding}"}}"#).as_bytes());
    }
    for number in 0..REFERRERS {
        put(registry.root(), &referrer(subject, SBOM, &number.to_string()));
    }
    let path = format!("/v2/{REPOSITORY}/referrers/{subject}?artifactType={SBOM}");
    let mut pages = Vec::new();
    for round in ["reads", "remembers"] {
        let before = bytes_read();
        let (mut next, mut found) = (Some(path.replace('+', "%2B")), Vec::new());
        while let Some(path) = next.take() {
            let response = registry.get(&path).await;
            assert_eq!(response.headers()["oci-filters-applied"], "artifactType");
            let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
            next = link.map(|link| {
                let path = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
                path.unwrap().to_owned()
            });
            found.push(digests(&index_of(response).await));
        }
        let read = bytes_read() - before;
        assert_eq!(read > 6 << 20, round == "reads", "{read} bytes");
        assert_eq!(found.iter().map(Vec::len).sum::<usize>(), REFERRERS);
        assert!(found.len() > 1 && found.concat().is_sorted(), "{} pages", found.len());
        pages.push(found);
    }
    assert_eq!(pages[0], pages[1]);
    registry.stop().await;
}
