//! Tags: the last step of publishing, put if absent or compared and set, and the listings of what
//! can be pulled.

use super::backend::{Backend, Swap};
use super::condemned;
use super::digest::Digest;
use super::error::StoreError;
use super::handle::Store;
use super::layout::{self, Key};
use super::manifests::verify_whole;
use crate::publish::name::{ImageName, ImageRepository, Namespace, Tag};

/// On which condition a tag is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagPut {
    /// The first one wins.
    IfAbsent,
    /// Only if the tag still is what the caller has seen: `expected`, or `None` for no tag. A tag
    /// that is gone meanwhile is put, too: nobody else's choice is overwritten.
    Replace { expected: Option<Digest> },
}

/// What became of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagOutcome {
    /// The tag names the manifest now.
    Put,
    /// The tag names another manifest, or named this one already, and has been left.
    Exists(Digest),
}

impl Store {
    /// Puts a tag. Of any number of processes that do so at once, one wins.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when something that the manifest names is not in the store, and
    /// then the tag is left as it was. After any other error it may stand already.
    pub async fn put_tag(
        &self,
        name: &ImageName,
        digest: Digest,
        put: TagPut,
    ) -> Result<TagOutcome, StoreError> {
        let name = name.clone();
        self.blocking(move |backend| {
            let key = layout::tag_current_link(&name);
            let expected = match put {
                TagPut::IfAbsent => None,
                TagPut::Replace { expected } => expected,
            };
            // Before anything is written, so that a lost race leaves no trace in the usual case.
            let current = backend.read(&key)?.map(|link| digest_in(backend, &key, &link)).transpose()?;
            if let Some(current) = current.filter(|&current| Some(current) != expected) {
                // Whoever put it may be short of having synced it; the caller will rely on it.
                backend.settle(&key)?;
                return Ok(TagOutcome::Exists(current));
            }
            verify_whole(backend, &name.repository, digest)?;
            let link = digest.to_string();
            let index = layout::tag_index_link(&name, digest);
            let before: &[(&Key, &[u8])] = &[(&index, link.as_bytes())];
            let was_named = backend.size(&index)?.is_some();
            let swap = match expected {
                None => backend.put_if_absent(before, &key, link.as_bytes())?,
                Some(expected) => backend.compare_and_set(
                    &layout::tags_lock(),
                    before,
                    &key,
                    expected.to_string().as_bytes(),
                    link.as_bytes(),
                )?,
            };
            match swap {
                Swap::Done => {
                    // A collection of garbage that began before the tag was there has either been seen now, or sees it
                    // in its second look.
                    match verify_whole(backend, &name.repository, digest) {
                        Err(error @ StoreError::Incomplete { .. }) => {
                            take_back(backend, &key, link.as_bytes(), current)?;
                            if !was_named {
                                forget(backend, &key, &index, digest)?;
                            }
                            Err(error)
                        }
                        // Nobody has looked, then. The tag stays; putting it again is safe.
                        Err(error) => Err(error),
                        Ok(()) => Ok(TagOutcome::Put),
                    }
                }
                Swap::Found(found) => {
                    if !was_named {
                        forget(backend, &key, &index, digest)?;
                    }
                    Ok(TagOutcome::Exists(digest_in(backend, &key, &found)?))
                }
            }
        })
        .await
    }

    /// The manifest that a tag names.
    pub async fn tag(&self, name: &ImageName) -> Result<Option<Digest>, StoreError> {
        let name = name.clone();
        self.blocking(move |backend| tagged(backend, &name)).await
    }

    /// The manifest that a tag names, for one who is going to rely on it: neither of them is removed as garbage for a
    /// whole grace from now on.
    pub async fn tag_to_rely_on(&self, name: &ImageName) -> Result<Option<Digest>, StoreError> {
        let key = layout::tag_current_link(name);
        self.blocking(move |backend| {
            let read = || backend.read(&key)?.map(|link| digest_in(backend, &key, &link)).transpose();
            let Some(mut digest) = read()? else { return Ok(None) };
            loop {
                condemned::spare(backend, [digest])?;
                // It may have been removed, or replaced, before.
                match read()? {
                    Some(other) if other != digest => digest = other,
                    found => return Ok(found),
                }
            }
        })
        .await
    }

    /// A repository's tags, sorted.
    pub async fn tags(&self, repository: &ImageRepository) -> Result<Vec<Tag>, StoreError> {
        let repository = repository.clone();
        self.blocking(move |backend| {
            // A tag's directory is there before its first link, and stays if a crash comes between.
            Ok(parsed(backend.list_having(&layout::tags(&repository), "current/link")?).collect())
        })
        .await
    }

    /// All repositories, sorted.
    pub async fn repositories(&self) -> Result<Vec<ImageRepository>, StoreError> {
        self.blocking(|backend| {
            let mut all = Vec::new();
            for namespace in parsed::<Namespace>(backend.list(&layout::namespaces())?) {
                all.extend(repositories(backend, &namespace)?);
            }
            Ok(all)
        })
        .await
    }

    /// The repositories of one namespace, sorted.
    pub async fn repositories_of(&self, namespace: &Namespace) -> Result<Vec<ImageRepository>, StoreError> {
        let namespace = namespace.clone();
        self.blocking(move |backend| repositories(backend, &namespace)).await
    }
}

/// The manifest that a tag names.
pub(super) fn tagged(backend: &Backend, name: &ImageName) -> Result<Option<Digest>, StoreError> {
    let key = layout::tag_current_link(name);
    backend.read(&key)?.map(|link| digest_in(backend, &key, &link)).transpose()
}

/// Lets a tag be what it was before it was `link`, unless it has become something else.
fn take_back(backend: &Backend, key: &Key, link: &[u8], before: Option<Digest>) -> Result<(), StoreError> {
    let lock = layout::tags_lock();
    match before {
        None => backend.remove_if(&lock, key, link, None)?,
        Some(before) => backend.compare_and_set(&lock, &[], key, link, before.to_string().as_bytes())?,
    };
    Ok(())
}

/// Removes the link that says that a tag has named this manifest, unless it names it now.
fn forget(backend: &Backend, key: &Key, index: &Key, digest: Digest) -> Result<(), StoreError> {
    let names_it = |link: Vec<u8>| link == digest.to_string().as_bytes();
    if !backend.read(key)?.is_some_and(names_it) {
        backend.discard(index)?;
    }
    Ok(())
}

fn repositories(backend: &Backend, namespace: &Namespace) -> Result<Vec<ImageRepository>, StoreError> {
    let names = backend.list(&layout::repositories(namespace))?;
    Ok(parsed(names.iter().map(|name| format!("{namespace}/{name}"))).collect())
}

/// The names that follow the grammar; nothing else in the tree is BuildGrid's.
fn parsed<T: std::str::FromStr>(names: impl IntoIterator<Item = String>) -> impl Iterator<Item = T> {
    names.into_iter().filter_map(|name| name.parse().ok())
}

fn digest_in(backend: &Backend, key: &Key, link: &[u8]) -> Result<Digest, StoreError> {
    let digest = std::str::from_utf8(link).ok().and_then(|text| text.trim_end().parse().ok());
    digest.ok_or_else(|| StoreError::Damaged {
        path: backend.place(key),
        reason: "it does not hold a digest".into(),
    })
}
