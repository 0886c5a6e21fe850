//! The calls of a worker: claim, report, append.

use anyhow::Context;
use bytes::Bytes;

use super::api::TimelineClient;
use super::error::CallError;
use crate::event::deploy::BuildId;
use crate::timeline::protocol::{AttemptId, Claim, ClaimAnswer, NDJSON, Progress, StateReport};

/// The level of the log's compression: text shrinks to a tenth, at a cost below that of the connection.
const LEVEL: i32 = 1;

impl TimelineClient {
    /// May this attempt build it?
    pub async fn claim(&self, id: &BuildId, claim: &Claim) -> Result<ClaimAnswer, CallError> {
        self.put_json(&format!("builds/{id}"), claim).await
    }

    /// Reports a stage or the end of an attempt. Saying it again changes nothing.
    pub async fn report(
        &self,
        id: &BuildId,
        attempt: AttemptId,
        report: &StateReport,
    ) -> Result<Progress, CallError> {
        self.post_json(&format!("builds/{id}/attempts/{attempt}/state"), report).await
    }

    /// Sends whole lines of an attempt's log, which the service takes once however often they are sent;
    /// no lines at all renew the lease.
    pub async fn append(
        &self,
        id: &BuildId,
        attempt: AttemptId,
        lines: Lines,
    ) -> Result<Progress, CallError> {
        let path = format!("builds/{id}/attempts/{attempt}/log");
        self.post_bytes(&path, NDJSON, Some("zstd"), lines.0).await
    }
}

/// Lines of a log, compressed for sending.
#[derive(Debug, Clone)]
pub struct Lines(Bytes);

impl Lines {
    /// Compresses whole lines, each with its line feed; at most
    /// [`MAX_APPEND`](crate::timeline::protocol::MAX_APPEND) bytes.
    pub fn compress(lines: &[u8]) -> anyhow::Result<Self> {
        let compressed = zstd::bulk::compress(lines, LEVEL).context("compress a part of the log")?;
        Ok(Self(compressed.into()))
    }
}
