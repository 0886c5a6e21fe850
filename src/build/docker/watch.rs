//! Waiting for an engine that may be silent for hours, because a step is, but must stay alive.

use std::time::Duration;

use bollard::Docker;
use futures::{Stream, StreamExt};

use crate::telemetry::pulse as telemetry;

/// How long the engine may be silent before it is asked whether it is there; no longer than it may take to
/// answer.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// How many questions in a row it may leave without an answer.
const MISSES: u32 = 3;

/// Asks an engine whether it is alive, over connections of their own.
pub(super) struct Pulse {
    pub(super) docker: Docker,
    pub(super) timeout: Duration,
    pub(super) silence: Duration,
    /// Beats with the engine's.
    pub(super) of_run: telemetry::Pulse,
}

/// The engine has stopped answering.
#[derive(Debug)]
pub(super) struct Silent;

impl Pulse {
    /// The next item of a stream from this engine.
    pub(super) async fn next<S: Stream + Unpin>(&self, stream: &mut S) -> Result<Option<S::Item>, Silent> {
        let mut misses = 0;
        loop {
            match tokio::time::timeout(self.silence, stream.next()).await {
                Ok(item) => return Ok(item),
                Err(_) if self.beats().await => misses = 0,
                Err(_) => misses += 1,
            }
            if misses == MISSES {
                return Err(Silent);
            }
        }
    }

    async fn beats(&self) -> bool {
        let beats = matches!(tokio::time::timeout(self.timeout, self.docker.ping()).await, Ok(Ok(_)));
        if beats {
            self.of_run.beat();
        }
        beats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::docker::{DockerEngine, EngineConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// The pulse of an engine that answers `answer` to everything, or nothing at all.
    fn pulse(directory: &tempfile::TempDir, answer: Option<&'static str>) -> Pulse {
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                connection.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
                if let Some(answer) = answer {
                    connection.write_all(answer.as_bytes()).await.unwrap();
                }
                open.push(connection);
            }
        });
        let host = format!("unix://{}", socket.display());
        let engine = DockerEngine::connect(
            &EngineConfig { host, ..EngineConfig::default() },
            Duration::from_secs(3600),
        )
        .unwrap();
        let moment = Duration::from_millis(20);
        Pulse { timeout: moment * 5, silence: moment, ..engine.pulse() }
    }

    #[tokio::test]
    async fn an_engine_that_has_stopped_answering_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let pulse = pulse(&directory, None);
        let next = pulse.next(&mut futures::stream::pending::<()>()).await;
        assert!(matches!(next, Err(Silent)));
    }

    #[tokio::test]
    async fn an_engine_that_answers_may_be_silent_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let pulse = pulse(&directory, Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"));
        let mut late = Box::pin(futures::stream::once(tokio::time::sleep(Duration::from_secs(1))));
        assert!(matches!(pulse.next(&mut late).await, Ok(Some(()))));
    }
}
