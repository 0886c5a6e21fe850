//! Any sequence of puts and collections of garbage gives what a few hash maps give, also after the store has been opened again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use buildgrid::publish::name::ImageName;
use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, StoreConfig, StoreError, TagOutcome, TagPut};
use proptest::prelude::*;

use crate::support::blob::bytes_of;
use crate::support::image::{TestImage, image_name, put_streamed};

const REPOSITORIES: [&str; 3] = ["acme/shop.storefront", "acme/shop.store.front", "smoke/a.fake"];
const TAGS: [&str; 2] = ["v1", "9fceb02d0ae598e95dc970b74767f19372d61af8"];
const IMAGES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// The blob of an image: its layer or its configuration.
    Put {
        image: usize,
        layer: bool,
    },
    Link {
        repository: usize,
        image: usize,
        layer: bool,
    },
    Manifest {
        repository: usize,
        image: usize,
    },
    /// Everything of an image but the tag.
    Publish {
        repository: usize,
        image: usize,
    },
    Tag {
        repository: usize,
        tag: usize,
        image: usize,
        put: Put,
    },
    /// A round of the collection of garbage, without a grace.
    Collect,
    Reopen,
}

#[derive(Debug, Clone)]
enum Put {
    IfAbsent,
    Expecting(Option<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = prop_oneof![
        2 => Just(Put::IfAbsent),
        1 => proptest::option::of(0..IMAGES).prop_map(Put::Expecting),
    ];
    let repository = || 0..REPOSITORIES.len();
    let step = prop_oneof![
        3 => (0..IMAGES, any::<bool>()).prop_map(|(image, layer)| Step::Put { image, layer }),
        6 => (repository(), 0..IMAGES, any::<bool>())
            .prop_map(|(repository, image, layer)| Step::Link { repository, image, layer }),
        4 => (repository(), 0..IMAGES).prop_map(|(repository, image)| Step::Manifest { repository, image }),
        3 => (repository(), 0..IMAGES).prop_map(|(repository, image)| Step::Publish { repository, image }),
        6 => (repository(), 0..TAGS.len(), 0..IMAGES, put)
            .prop_map(|(repository, tag, image, put)| Step::Tag { repository, tag, image, put }),
        3 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..80)
}

#[derive(Default)]
struct Model {
    blobs: HashSet<Digest>,
    links: HashSet<(usize, Digest)>,
    /// Links to manifests.
    revisions: HashSet<(usize, Digest)>,
    /// Those that can be read.
    manifests: HashMap<(usize, Digest), Vec<u8>>,
    tags: BTreeMap<(usize, usize), Digest>,
    /// What tags have named, by repository.
    named: HashSet<(usize, Digest)>,
    /// What the last collection has found without use, and nobody has touched since: repository (none: the blob
    /// itself) and digest.
    marks: HashSet<(Option<usize>, Digest)>,
}

impl Model {
    /// What putting a tag must answer; `None` for a refusal.
    fn tag(&mut self, at: (usize, usize), image: &TestImage, expected: Option<Digest>) -> Option<TagOutcome> {
        if let Some(&current) = self.tags.get(&at).filter(|&&current| Some(current) != expected) {
            return Some(TagOutcome::Exists(current));
        }
        let named = [Digest::of(&image.layer), Digest::of(&image.config)];
        self.touch(image.digest());
        if self.manifests.contains_key(&(at.0, image.digest())) {
            named.iter().for_each(|&part| self.touch(part));
        }
        let whole = self.manifests.contains_key(&(at.0, image.digest()))
            && named.iter().all(|&blob| self.blobs.contains(&blob) && self.links.contains(&(at.0, blob)));
        whole.then(|| {
            self.tags.insert(at, image.digest());
            self.named.insert((at.0, image.digest()));
            TagOutcome::Put
        })
    }

    /// The blob is every repository's that links it.
    fn put_manifest(&mut self, at: usize, digest: Digest, bytes: Vec<u8>) {
        self.touch(digest);
        self.blobs.insert(digest);
        self.revisions.insert((at, digest));
        for &(at, _) in self.revisions.iter().filter(|(_, linked)| *linked == digest) {
            self.manifests.insert((at, digest), bytes.clone());
        }
    }

    /// Whoever puts something, or is about to refer to it, has it for another round.
    fn touch(&mut self, digest: Digest) {
        self.marks.retain(|(_, marked)| *marked != digest);
    }

    /// What no tag leads to is marked by one round, and gone after the next.
    fn collect(&mut self, images: &[TestImage]) {
        let parts = |digest: Digest| {
            let image = images.iter().find(|image| image.digest() == digest).unwrap();
            [Digest::of(&image.layer), Digest::of(&image.config), digest]
        };
        let used: HashSet<(usize, Digest)> =
            self.named.iter().flat_map(|&(at, digest)| parts(digest).map(|part| (at, part))).collect();
        let held: HashSet<Digest> = used.iter().map(|(_, digest)| *digest).collect();
        // Manifests are blobs as well, and stay where any repository still needs them.
        let blobs =
            self.blobs.iter().copied().filter(|digest| !held.contains(digest)).map(|digest| (None, digest));
        let links = self.links.iter().chain(&self.revisions).filter(|link| !used.contains(link));
        let found: HashSet<_> = blobs.chain(links.map(|&(at, digest)| (Some(at), digest))).collect();
        for gone in found.intersection(&self.marks) {
            match *gone {
                (None, digest) => _ = self.blobs.remove(&digest),
                (Some(at), digest) => {
                    self.links.remove(&(at, digest));
                    self.revisions.remove(&(at, digest));
                }
            }
        }
        self.marks = found.difference(&self.marks).copied().collect();
        let (blobs, revisions) = (&self.blobs, &self.revisions);
        self.manifests
            .retain(|(at, digest), _| revisions.contains(&(*at, *digest)) && blobs.contains(digest));
    }
}

fn name(repository: usize, tag: usize) -> ImageName {
    image_name(REPOSITORIES[repository], TAGS[tag])
}

async fn run(steps: Vec<Step>) {
    // In memory: what is compared is content, and syncing a disk for each of many steps takes long.
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = StoreConfig::at(root.path().to_owned());
    let mut store = Store::open(&config).unwrap();
    let images: Vec<_> = (0..IMAGES).map(|image| TestImage::saying(&format!("image {image}"))).collect();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Put { image, layer: true } => {
                let digest = put_streamed(&store, images[image].layer.clone()).await;
                model.touch(digest);
                model.blobs.insert(digest);
            }
            Step::Put { image, layer: false } => {
                let digest = store.put_blob(images[image].config.clone()).await.unwrap();
                model.touch(digest);
                model.blobs.insert(digest);
            }
            Step::Link { repository, image, layer } => {
                let blob = if layer { &images[image].layer } else { &images[image].config };
                let linked = vec![Digest::of(blob)];
                store.link_blobs(&name(repository, 0).repository, linked).await.unwrap();
                model.touch(Digest::of(blob));
                model.links.insert((repository, Digest::of(blob)));
            }
            Step::Manifest { repository, image } => {
                let bytes = images[image].manifest.clone();
                let repository_name = name(repository, 0).repository;
                let digest = store.put_manifest(&repository_name, bytes.clone()).await.unwrap();
                model.put_manifest(repository, digest, bytes);
            }
            Step::Publish { repository, image } => {
                let image = &images[image];
                image.put_untagged(&store, &name(repository, 0).repository).await;
                for blob in [&image.layer, &image.config] {
                    model.touch(Digest::of(blob));
                    model.blobs.insert(Digest::of(blob));
                    model.links.insert((repository, Digest::of(blob)));
                }
                model.put_manifest(repository, image.digest(), image.manifest.clone());
            }
            Step::Tag { repository, tag, image, put } => {
                let (put, expected) = match put {
                    Put::IfAbsent => (TagPut::IfAbsent, None),
                    Put::Expecting(expected) => {
                        let expected = expected.map(|image| images[image].digest());
                        (TagPut::Replace { expected }, expected)
                    }
                };
                let name = name(repository, tag);
                let outcome = store.put_tag(&name, images[image].digest(), put).await;
                match model.tag((repository, tag), &images[image], expected) {
                    Some(outcome_of_model) => assert_eq!(outcome.unwrap(), outcome_of_model),
                    None => assert!(matches!(outcome, Err(StoreError::Incomplete { .. })), "{outcome:?}"),
                }
            }
            Step::Collect => {
                super::gc::collect(&store, std::time::Duration::ZERO);
                model.collect(&images);
            }
            Step::Reopen => store = Store::open(&config).unwrap(),
        }
    }
    compare(&store, &model, &images).await;
    compare(&Store::open_read_only(&config).unwrap(), &model, &images).await;
    assert_eq!(super::temporary_files(root.path()), [] as [std::path::PathBuf; 0]);
}

/// Everything that can be read is what the model has.
async fn compare(store: &Store, model: &Model, images: &[TestImage]) {
    let mut repositories = BTreeSet::new();
    for index in 0..REPOSITORIES.len() {
        let repository = name(index, 0).repository;
        for image in images {
            let found = store.manifest(&repository, image.digest()).await.unwrap();
            assert_eq!(found.as_deref(), model.manifests.get(&(index, image.digest())).map(Vec::as_slice));
            for bytes in [&image.layer, &image.config] {
                let digest = Digest::of(bytes);
                let readable = model.blobs.contains(&digest) && model.links.contains(&(index, digest));
                let found = store.blob(&repository, digest).await.unwrap();
                assert_eq!(found.is_some(), readable);
                if let Some(blob) = found {
                    assert_eq!(blob.size, bytes.len() as u64);
                    assert_eq!(bytes_of(&blob).await, *bytes);
                }
            }
        }
        let mut tags = Vec::new();
        for (tag, text) in TAGS.iter().enumerate() {
            let digest = model.tags.get(&(index, tag)).copied();
            assert_eq!(store.tag(&name(index, tag)).await.unwrap(), digest);
            tags.extend(digest.map(|_| (*text).to_owned()));
        }
        tags.sort();
        let found = store.tags(&repository).await.unwrap();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), tags);
        if model.links.iter().chain(&model.revisions).any(|link| link.0 == index) {
            repositories.insert(repository);
        }
    }
    assert_eq!(store.repositories().await.unwrap(), repositories.into_iter().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_what_the_model_is(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps));
    }
}
