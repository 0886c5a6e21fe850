//! One BuildKit build: the request, its messages, its end, and how it is cancelled.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{BuildInfo, BuildInfoAux};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::engine::DockerEngine;
use super::failure;
use super::progress::Progress;
use super::request::{BuildRequest, Context};
use super::room::Room;
use super::session::{Offer, Session};
use super::suspect;
use super::tags::EngineBuildId;
use super::transport::Transport;
use crate::build::engine::BuildError;
use crate::timeline::sink::{Entry, LogSink};

/// How long a cancelled build may take to stop before its connections are cut. Its worker may have heard of
/// the cancel five seconds late, and ten seconds after it was asked for no process of it is to be left.
const CANCEL_GRACE: Duration = Duration::from_secs(4);

/// Builds `request` over connections that end when `transport` is severed. Answers what the engine calls the image.
pub(super) async fn solve(
    engine: &DockerEngine,
    transport: &Transport,
    request: BuildRequest,
    log: &LogSink,
    cancel: &CancellationToken,
) -> Result<String, BuildError> {
    let (options, shared_key) = (request.options(), request.shared_key());
    for words in suspect::warnings(&request.args) {
        log.status(words).await;
    }
    let BuildRequest { id, context, dockerfile, text, credentials, .. } = request;
    let (body, files) = match context {
        Context::Tar(tar) => (bollard::body_try_stream(tar), None),
        Context::Files(files) => (bollard::body_full(Bytes::new()), Some(files)),
    };
    let offer = Offer { credentials, optional_secrets: text.optional_secrets(), files, shared_key };
    let opening = cancel.run_until_cancelled(engine.within(Session::open(transport, id, offer)));
    let session = Box::pin(opening).await.unwrap_or(Err(BuildError::Cancelled))?;
    let docker = with_buildkit(engine.docker(transport.clone(), engine.longest_build()), id);
    let room = Box::pin(Room::on(engine)).await;
    let run = async {
        let stream = docker.build_image(options, None, Some(body));
        let mut progress = Progress::new(log.mask());
        let ended = Box::pin(follow(engine, stream, &session, &mut progress, log)).await;
        write(log, progress.finish()).await;
        match ended {
            Ok(id) => Ok(id),
            Err(Ended::Error(Error::DockerStreamError { error })) => {
                let failed = progress.failed(&error);
                let error = match session.refused() {
                    Some(reason) => failure::refused(reason, failed),
                    None => failure::classify(&error, failed, &dockerfile, room.ran_out().await),
                };
                Err(failure::located(error, &dockerfile, &text))
            }
            Err(Ended::Error(error)) => Err(failure::of_build_call(&engine.config().host, error)),
            Err(Ended::Silent) => Err(engine.lost("stopped answering in the middle of the build")),
            Err(Ended::WithoutResult) => Err(engine.lost("ended the build without a result")),
        }
    };
    tokio::pin!(run);
    tokio::select! {
        result = &mut run => return result,
        () = cancel.cancelled() => {}
    }
    // Told by its id, the engine stops the step's processes before it ends the stream; only when it
    // does not are the connections cut, which it takes for a cancellation, too.
    let stopped = async { tokio::join!(Box::pin(engine.cancel_build(id)), run) };
    if tokio::time::timeout(CANCEL_GRACE, stopped).await.is_err() {
        tracing::warn!(engine_build = %id, "the docker engine did not stop a cancelled build in time; leaving it");
    }
    Err(BuildError::Cancelled)
}

/// Why there is no image.
enum Ended {
    Error(Error),
    Silent,
    WithoutResult,
}

async fn follow(
    engine: &DockerEngine,
    stream: impl futures::Stream<Item = Result<BuildInfo, Error>>,
    session: &Session,
    progress: &mut Progress,
    log: &LogSink,
) -> Result<String, Ended> {
    let mut stream = std::pin::pin!(stream);
    let pulse = engine.pulse();
    let mut image = None;
    while let Some(message) = pulse.next(&mut stream).await.map_err(|_| Ended::Silent)? {
        for words in session.omitted() {
            log.status(format!("warning: {words}")).await;
        }
        // It says something where something has changed, such as how much of an image is there.
        log.is_alive();
        match message.map_err(Ended::Error)?.aux {
            Some(BuildInfoAux::BuildKit(status)) => write(log, progress.update(status)).await,
            Some(BuildInfoAux::Default(id)) => image = id.id.or(image),
            None => {}
        }
    }
    image.ok_or(Ended::WithoutResult)
}

async fn write(log: &LogSink, entries: Vec<Entry>) {
    for entry in entries {
        log.put(entry).await;
    }
}

/// Has a build done by BuildKit, in our own session, and gives it an id by which it can be cancelled
/// (`POST /build/cancel?id=`). bollard has no parameter for the id, and left to it a build by BuildKit would get a
/// session of bollard's.
fn with_buildkit(docker: Docker, id: EngineBuildId) -> Docker {
    docker.with_request_modifier(move |mut request| {
        let uri = request.uri();
        if uri.path().ends_with("/build") {
            let query =
                uri.query().unwrap_or_default().split('&').filter(|part| !part.starts_with("version="));
            let query = query.collect::<Vec<_>>().join("&");
            let whole = format!("{}?{query}&version=2&session={id}&buildid={id}", uri.path());
            if let Ok(whole) = rebuilt(uri, &whole) {
                *request.uri_mut() = whole;
            }
        }
        request
    })
}

fn rebuilt(uri: &http::Uri, path_and_query: &str) -> Result<http::Uri, http::Error> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse()?);
    Ok(http::Uri::from_parts(parts)?)
}
