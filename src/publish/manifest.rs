//! The manifest: which configuration and layers make the image, and by which definition it was built.

use std::collections::BTreeMap;

use anyhow::Context;
use oci_spec::image::{
    Descriptor, DescriptorBuilder, ImageManifest, ImageManifestBuilder, MediaType, Sha256Digest,
};

use crate::store::Layer;

/// The annotation with the digest of the build definition: what was asked for, beside the commit.
pub const DEFINITION: &str = "net.buildgrid.definition";
/// The annotation, and label, with the id of the build that made the image.
pub const BUILD: &str = "net.buildgrid.build";

/// The bytes of an image's manifest. Keys are sorted, so that the same image has the same digest
/// wherever it was published.
pub fn assemble(
    config: &Layer,
    layers: &[Layer],
    annotations: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<u8>> {
    let layers = layers.iter().map(descriptor).collect::<anyhow::Result<Vec<_>>>()?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(config)?)
        .layers(layers)
        .annotations(annotations.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
        .build()
        .context("assemble the manifest")?;
    let mut value = serde_json::to_value(&manifest).context("write the manifest")?;
    value.sort_all_objects();
    serde_json::to_vec(&value).context("write the manifest")
}

fn descriptor(blob: &Layer) -> anyhow::Result<Descriptor> {
    let digest: Sha256Digest = blob.digest.hex().parse().context("write a digest")?;
    DescriptorBuilder::default()
        .media_type(blob.media_type.clone())
        .digest(digest)
        .size(blob.size)
        .build()
        .context("describe a blob")
}

/// What a published manifest says of itself.
pub struct Summary {
    /// The sum of the configuration's and the layers' stored sizes, in bytes.
    pub size: u64,
    /// The digest of the definition it was built by, if it names one.
    pub definition: Option<String>,
}

impl Summary {
    pub fn read(manifest: &[u8]) -> anyhow::Result<Self> {
        let manifest: ImageManifest = serde_json::from_slice(manifest).context("read the manifest")?;
        let layers: u64 = manifest.layers().iter().map(Descriptor::size).sum();
        let annotations = manifest.annotations().as_ref();
        Ok(Self {
            size: manifest.config().size() + layers,
            definition: annotations.and_then(|all| all.get(DEFINITION)).cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::Digest;

    #[test]
    fn is_an_oci_manifest_with_sorted_keys() {
        let blob = |media_type, content: &[u8]| Layer {
            media_type,
            digest: Digest::of(content),
            size: content.len() as u64,
        };
        let config = blob(MediaType::ImageConfig, b"config");
        let layer = blob(MediaType::ImageLayerGzip, b"layer");
        let annotations: BTreeMap<String, String> =
            ["b", "a", DEFINITION].iter().map(|key| (key.to_string(), "x".to_owned())).collect();
        let bytes = assemble(&config, &[layer.clone(), layer.clone()], &annotations).unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            format!(
                concat!(
                    r#"{{"annotations":{{"a":"x","b":"x","net.buildgrid.definition":"x"}},"#,
                    r#""config":{{"digest":"{c}","mediaType":"application/vnd.oci.image.config.v1+json","size":6}},"#,
                    r#""layers":[{{"digest":"{l}","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":5}},"#,
                    r#"{{"digest":"{l}","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":5}}],"#,
                    r#""mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#,
                ),
                c = config.digest,
                l = layer.digest
            )
        );
        let summary = Summary::read(&bytes).unwrap();
        assert_eq!((summary.size, summary.definition.as_deref()), (16, Some("x")));
    }
}
