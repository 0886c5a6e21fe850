//! BuildKit's build cache. What a build uses at the moment is never pruned.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::PruneBuildOptionsBuilder;

/// What of the build cache goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// The longest unused, until no more than so many bytes are left.
    DownTo(u64),
    /// What has not been used for so long.
    UnusedFor(Duration),
    /// Everything.
    All,
}

pub(super) async fn prune(docker: Docker, which: Prune) -> Result<u64, Error> {
    // Without `all`, what comes from images and mounts is left out.
    let options = PruneBuildOptionsBuilder::new().all(true);
    let (docker, options) = match which {
        Prune::All => (docker, options),
        Prune::UnusedFor(time) => {
            let until = format!("{}s", time.as_secs());
            (docker, options.filters(&HashMap::from([("until", vec![until])])))
        }
        Prune::DownTo(bytes) => {
            let most = i64::try_from(bytes).unwrap_or(i64::MAX);
            (keeping(docker, most), options.max_used_space(most))
        }
    };
    let pruned = docker.prune_build(Some(options.build())).await?;
    Ok(pruned.space_reclaimed.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
}

/// Says the size to engines before API 1.48 too, which know it by another name, and prune everything if they
/// are not told: bollard has no parameter for it. Later ones take it for a floor, which is no more than the
/// ceiling.
fn keeping(docker: Docker, bytes: i64) -> Docker {
    docker.with_request_modifier(move |mut request| {
        let uri = request.uri();
        let separator = if uri.query().is_some() { '&' } else { '?' };
        if let Ok(uri) = format!("{uri}{separator}keep-storage={bytes}").parse() {
            *request.uri_mut() = uri;
        }
        request
    })
}
