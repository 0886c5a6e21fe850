//! Archives as the engines' generations write them, and broken ones.

use std::io::Write;

use super::*;

/// What stands in an archive: a file, or a symbolic link.
enum Item<'a> {
    File(String, Vec<u8>),
    Link(String, &'a str),
}

fn file(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Item<'static> {
    Item::File(name.into(), bytes.into())
}

fn read(items: &[Item]) -> io::Result<BuiltImage> {
    read_bytes(&archive(items))
}

fn read_bytes(bytes: &[u8]) -> io::Result<BuiltImage> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    image(file, &Index::read(bytes)?)
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match item {
            Item::File(name, bytes) => {
                header.set_size(bytes.len() as u64);
                archive.append_data(&mut header, name, &bytes[..]).unwrap();
            }
            Item::Link(name, target) => {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    archive.into_inner().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap()
}

fn manifest(config: &str, layers: &[&str]) -> Item<'static> {
    let manifest = serde_json::json!([{"Config": config, "RepoTags": ["x:1"], "Layers": layers}]);
    file("manifest.json", manifest.to_string())
}

fn contents(image: &BuiltImage) -> Vec<Vec<u8>> {
    let content = |index| {
        let mut bytes = Vec::new();
        image.open_layer(index).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    (0..image.diff_ids.len()).map(content).collect()
}

fn error(items: &[Item]) -> String {
    read(items).err().expect("an error").to_string()
}

#[test]
fn reads_the_layout_of_docker_20_with_a_repeated_layer() {
    let config = config(&[b"one", b"two", b"one"]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let image = read(&[
        file("aaa/layer.tar", "one"),
        file("bbb/layer.tar", "two"),
        Item::Link("ccc/layer.tar".into(), "../aaa/layer.tar"),
        file(&name, config.clone()),
        manifest(&name, &["aaa/layer.tar", "bbb/layer.tar", "ccc/layer.tar"]),
    ])
    .unwrap();
    assert_eq!(image.config, config);
    assert_eq!(contents(&image), [b"one", b"two", b"one"]);
    assert_eq!(image.diff_ids[2], Digest::of(b"one"));
}

#[test]
fn reads_the_oci_layout_with_compressed_layers() {
    let config = config(&[b"plain", b"gzipped twice", b"zstd"]);
    let name = format!("blobs/sha256/{}", Digest::of(&config).hex());
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let image = read(&[
        file("./oci-layout", "{}"),
        file("./blobs/sha256/1", "plain"),
        file("./blobs/sha256/2", [gzip(b"gzipped "), gzip(b"twice")].concat()),
        file("./blobs/sha256/3", zstd::encode_all(&b"zstd"[..], 3).unwrap()),
        file(&name, config.clone()),
        manifest(&name, &["blobs/sha256/1", "blobs/sha256/2", "blobs/sha256/3"]),
    ])
    .unwrap();
    assert_eq!(contents(&image), [&b"plain"[..], b"gzipped twice", b"zstd"]);
}

#[test]
fn an_image_without_layers_is_said_to_be_one() {
    let config = config(&[]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let saved = serde_json::json!([{"Config": name, "RepoTags": null, "Layers": null}]);
    let error = error(&[file(&name, config), file("manifest.json", saved.to_string())]);
    assert!(error.contains("the image has no layer; let the Dockerfile"), "{error}");
}

#[test]
fn says_what_is_wrong_with_an_archive() {
    let config = config(&[b"one"]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let whole = || file(&name, config.clone());
    assert!(error(&[]).ends_with("manifest.json is missing"));
    assert!(error(&[file("manifest.json", "[")]).contains("manifest.json: EOF"));
    assert!(error(&[file("manifest.json", "[]")]).contains("exactly one image"));
    assert!(error(&[manifest(&name, &["a"])]).ends_with(&format!("{name} is missing")));
    assert!(error(&[whole(), manifest(&name, &["a"])]).ends_with("a is missing"));
    assert!(error(&[whole(), manifest(&name, &[])]).ends_with("0 layers, but 1 diff ids"));
    assert!(error(&[file(&name, "{}"), manifest(&name, &[])]).contains("does not have the digest"));
    assert!(error(&[file("x.json", "{}"), manifest("x.json", &[])]).contains("not named by its digest"));
    let looped = [whole(), Item::Link("a".into(), "a"), manifest(&name, &["a"])];
    assert!(error(&looped).ends_with("a is a link to itself"));
    let large = file("manifest.json", vec![b' '; MAX_DOCUMENT as usize + 1]);
    assert!(error(&[large]).contains("at most 8388608 are taken"));
    let bad = serde_json::json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ["md5:x"]}})
    .to_string();
    let name = format!("{}.json", Digest::of(bad.as_bytes()).hex());
    assert!(error(&[file(&name, bad), manifest(&name, &["a"])]).contains("\"md5:x\" is not a digest"));
}

#[test]
fn a_link_cannot_leave_the_archive() {
    let config = config(&[b"one"]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let passwd = Item::Link("a".into(), "../../../../etc/passwd");
    assert!(error(&[file(&name, config), passwd, manifest(&name, &["a"])]).ends_with("a is missing"));
}

#[test]
fn an_archive_that_breaks_off_is_an_error() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5000);
    archive.append_data(&mut header, "layer", &[1; 5000][..]).unwrap();
    let bytes = archive.into_inner().unwrap();
    assert!(Index::read(&bytes[..3000]).is_err());
    assert!(Index::read(&b"garbage that is no archive".repeat(100)[..]).is_err());
}

proptest::proptest! {
    /// Whatever has become of an archive's bytes, reading it ends, and what it gives are spans of it.
    #[test]
    fn any_damage_is_read_or_refused(
        damage in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..8),
        rest in proptest::prelude::any::<proptest::sample::Index>(),
        is_cut in proptest::bool::ANY,
    ) {
        let config = config(&[b"one", b"two"]);
        let name = format!("{}.json", Digest::of(&config).hex());
        let mut bytes = archive(&[
            file("a/layer.tar", "one"),
            Item::Link("b/layer.tar".to_owned(), "../a/layer.tar"),
            file(&name, config.clone()),
            manifest(&name, &["a/layer.tar", "b/layer.tar"]),
        ]);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if is_cut {
            bytes.truncate(rest.index(bytes.len()));
        }
        if let Ok(image) = read_bytes(&bytes) {
            for index in 0..image.diff_ids.len() {
                let mut layer = Vec::new();
                if image.open_layer(index).is_ok_and(|mut layers| layers.read_to_end(&mut layer).is_ok()) {
                    proptest::prop_assert!(layer.len() <= bytes.len());
                }
            }
        }
    }
}
