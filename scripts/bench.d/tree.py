"""Images in the store's tree (src/store/layout.rs), as the publisher leaves them, without its syncs."""

import hashlib
import json

REPOSITORIES = "docker/registry/v2/repositories"


def image(store, repository, layers, tag=None):
    """An image of these layers, under a tag or under none; the digests of its manifest and its layers."""
    layers = [blob(store, layer) for layer in layers]
    # Another one for each image.
    content = {"rootfs": {"type": "layers", "diff_ids": [digest for digest, _ in layers]}}
    config = blob(store, json.dumps(content).encode())
    manifest = {
        "annotations": {"net.buildgrid.definition": config[0]},
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "schemaVersion": 2,
    }
    manifest = blob(store, json.dumps(manifest).encode())
    below = store / REPOSITORIES / repository
    for digest, _ in [config, *layers]:
        link(below / "_layers/sha256" / digest[7:], digest)
    link(below / "_manifests/revisions/sha256" / manifest[0][7:], manifest[0])
    if tag:
        link(below / "_manifests/tags" / tag / "index/sha256" / manifest[0][7:], manifest[0])
        link(below / "_manifests/tags" / tag / "current", manifest[0])
    return manifest[0], [digest for digest, _ in layers]


def blob(store, content):
    """The digest and length of a blob that is put."""
    digest = hashlib.sha256(content).hexdigest()
    folder = store / "docker/registry/v2/blobs/sha256" / digest[:2] / digest
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(content)
    return f"sha256:{digest}", len(content)


def described(part, media_type):
    return {"mediaType": media_type, "digest": part[0], "size": part[1]}


def link(folder, digest):
    folder.mkdir(parents=True)
    (folder / "link").write_text(digest)
