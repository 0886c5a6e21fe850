//! The private tag that a build's image has on the engine until it is published.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// The repository of all private tags. Its host does not exist, so that nothing can be pushed there.
const REPOSITORY: &str = "buildgrid.local/build";

/// What the engine knows a build by: it can be cancelled by it, and its private tag is called after it. It
/// is of one run alone: workers that share an engine and build the same event do not share a tag, which the
/// first to end would remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineBuildId(Uuid);

impl EngineBuildId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    pub(super) fn private_tag(self) -> String {
        format!("{REPOSITORY}:{self}")
    }
}

impl fmt::Display for EngineBuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Removes a private tag, and its image if nothing else names it. That it is not there is success.
pub(super) async fn remove(docker: &Docker, tag: &str) -> Result<(), Error> {
    // Forced, because a container that was started from the image would keep the tag.
    let options = RemoveImageOptions { force: true, ..RemoveImageOptions::default() };
    match docker.remove_image(tag, Some(options), None).await {
        Ok(_) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The private tags that were set longer than `age` ago, each with the size of its image.
pub(super) async fn older_than(docker: &Docker, age: Duration) -> Result<Vec<(String, i64)>, Error> {
    let filters = HashMap::from([("reference".to_owned(), vec![REPOSITORY.to_owned()])]);
    let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
    let now = OffsetDateTime::now_utc();
    let outlived = |set: OffsetDateTime| {
        // An age beyond what a date can tell has not been reached.
        let end = time::Duration::try_from(age).ok().and_then(|age| set.checked_add(age));
        end.is_some_and(|end| end <= now)
    };
    let mut old = Vec::new();
    for image in docker.list_images(Some(options)).await? {
        let size = image.size;
        let tags = image.repo_tags.into_iter().filter(|tag| tag.starts_with(REPOSITORY));
        for tag in tags {
            let metadata = match docker.inspect_image(&tag).await {
                Ok(image) => image.metadata,
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => continue,
                Err(error) => return Err(error),
            };
            let set = metadata.and_then(|metadata| metadata.last_tag_time);
            if set.is_none_or(outlived) {
                old.push((tag, size));
            }
        }
    }
    Ok(old)
}
