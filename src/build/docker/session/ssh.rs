//! SSH agents for `RUN --mount=type=ssh` (moby/buildkit, session/sshforward). Each connection of a step's SSH client
//! to its socket is one call here, answered by an agent in this process: keys lie neither in the step nor on a disk.

use std::pin::Pin;
use std::sync::Arc;

use bollard::moby::sshforward::v1::ssh_server::Ssh;
use bollard::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::agent::Agent;
use super::server::Notes;
use crate::build::credentials::SshKeys;
use crate::build::ssh_key::SshKey;

/// In which metadata the engine says which agent is meant, and which one is where it does not.
const ID: &str = "buildkit.ssh.id";
const DEFAULT: &str = "default";

pub(super) struct AgentsOfBuild {
    pub(super) keys: SshKeys,
    pub(super) notes: Arc<Notes>,
}

impl AgentsOfBuild {
    fn keys(&self, id: &str) -> Result<Arc<[SshKey]>, Status> {
        let id = if id.is_empty() { DEFAULT } else { id };
        self.keys.get(id).cloned().ok_or_else(|| {
            // The engine leaves the mount out unless it says `required`, and the step's client finds no agent.
            let reason = format!(
                "the Dockerfile asks for the SSH agent {id:?}, which build.ssh of the event does not name"
            );
            self.notes.omit(reason.clone());
            Status::not_found(reason)
        })
    }
}

#[tonic::async_trait]
impl Ssh for AgentsOfBuild {
    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.keys(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    type ForwardAgentStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get(ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let mut agent = Agent::new(self.keys(id)?);
        let answers = request.into_inner().map(move |message| {
            let data = agent.take(&message?.data);
            let data = data.map_err(|_| Status::invalid_argument("a message to the agent is too long"))?;
            Ok(BytesMessage { data })
        });
        // A message in pieces has no answer until its last.
        let answers = answers.filter(|answer| {
            std::future::ready(answer.as_ref().map_or(true, |answer| !answer.data.is_empty()))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
