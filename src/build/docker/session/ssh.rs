//! SSH agents for `RUN --mount=type=ssh` (moby/buildkit, session/sshforward). Each connection of a step's SSH client
//! to its socket is one call here, answered by an agent in this process: keys lie neither in the step nor on a disk.

use std::pin::Pin;
use std::sync::Arc;

use bollard::moby::sshforward::v1::ssh_server::Ssh;
use bollard::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use futures::{Stream, stream};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::agent::{self, Requests};
use super::server::Notes;
use crate::build::credentials::SshKeys;
use crate::build::ssh_key::SshKey;

/// In which metadata the engine says which agent is meant, and which one is where it does not.
const ID: &str = "buildkit.ssh.id";
const DEFAULT: &str = "default";

pub(super) struct AgentsOfBuild {
    pub(super) keys: SshKeys,
    pub(super) notes: Arc<Notes>,
    /// Who may sign at the moment: a step with many clients takes no more than this from all other builds.
    pub(super) signing: Arc<Semaphore>,
}

/// So many requests of one build are answered at once.
pub(super) const SIGNING: usize = 2;

/// One client of an agent, and the requests of it that wait.
struct Client {
    keys: Arc<[SshKey]>,
    signing: Arc<Semaphore>,
    incoming: Streaming<BytesMessage>,
    requests: Requests,
}

impl Client {
    /// The answer to its next request, `None` once it has gone.
    async fn answer(&mut self) -> Result<Option<BytesMessage>, Status> {
        loop {
            let request = self.requests.next();
            if let Some(request) =
                request.map_err(|_| Status::invalid_argument("a message to the agent is too long"))?
            {
                let permit = self.signing.clone().acquire_owned().await;
                let keys = self.keys.clone();
                let answer = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    agent::answer(&keys, &request)
                });
                let data = answer.await.map_err(|error| Status::internal(error.to_string()))?;
                return Ok(Some(BytesMessage { data }));
            }
            match self.incoming.message().await? {
                Some(message) => self.requests.push(&message.data),
                None => return Ok(None),
            }
        }
    }
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
        let client = Client {
            keys: self.keys(id)?,
            signing: self.signing.clone(),
            incoming: request.into_inner(),
            requests: Requests::default(),
        };
        let answers = stream::try_unfold(client, async |mut client| {
            Ok(client.answer().await?.map(|answer| (answer, client)))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
