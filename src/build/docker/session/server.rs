//! The server of a session, on a connection that began as a request to the engine.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard::errors::Error;
use bollard::health::health_server::{HealthServer, SERVICE_NAME as HEALTH};
use bollard::moby::buildkit::secrets::v1::secrets_server::{SERVICE_NAME as SECRETS, SecretsServer};
use bollard::moby::filesync::v1::auth_server::{AuthServer, SERVICE_NAME as AUTH};
use bollard::moby::filesync::v1::file_sync_server::{FileSyncServer, SERVICE_NAME as FILES};
use bollard::moby::sshforward::v1::ssh_server::{SERVICE_NAME as SSH, SshServer};
use http::header::{CONNECTION, UPGRADE};
use http::{Request, StatusCode};
use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tonic::service::Routes;

use super::auth::LoginsOfBuild;
use super::files::FilesOfBuild;
use super::health::Serving;
use super::secrets::SecretsOfBuild;
use super::ssh::{AgentsOfBuild, SIGNING};
use crate::build::credentials::BuildCredentials;
use crate::build::docker::tags::EngineBuildId;
use crate::build::docker::transport::Transport;
use crate::source::files::ContextFiles;

/// What a build may ask for.
pub(in super::super) struct Offer {
    pub(in super::super) credentials: BuildCredentials,
    /// The secrets that the Dockerfile says it can do without.
    pub(in super::super) optional_secrets: BTreeSet<String>,
    /// The context, where it is not in the request.
    pub(in super::super) files: Option<ContextFiles>,
    /// Tells the files of this context from all others: what the engine has of them it does not ask for again.
    pub(in super::super) shared_key: String,
}

/// A session that the engine knows, by the id of its build, until the transport is severed.
pub(in super::super) struct Session {
    notes: Arc<Notes>,
}

impl Session {
    /// Opens a session over `transport`.
    ///
    /// # Errors
    /// The engine is away, or does not take sessions.
    pub(in super::super) async fn open(
        transport: &Transport,
        id: EngineBuildId,
        offer: Offer,
    ) -> Result<Self, Error> {
        let mut request = Request::post("/session")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "h2c")
            .header("X-Docker-Expose-Session-Uuid", id.to_string())
            .header("X-Docker-Expose-Session-Name", "buildgrid")
            .header("X-Docker-Expose-Session-Sharedkey", &offer.shared_key);
        // The engine asks for nothing that is not announced.
        for (service, methods) in SERVED {
            for method in *methods {
                request =
                    request.header("X-Docker-Expose-Session-Grpc-Method", format!("/{service}/{method}"));
            }
        }
        let request = request.body(bollard::body_full(bytes::Bytes::new()))?;
        let response = transport.clone().send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::DockerResponseServerError {
                status_code: response.status().as_u16(),
                message: "it takes no session; BuildKit is needed".to_owned(),
            });
        }
        let connection = hyper::upgrade::on(response).await?;
        let notes = Arc::new(Notes::default());
        let service = TowerToHyperService::new(services(offer, &notes));
        // Ends with the connection, at the latest when it is severed.
        tokio::spawn(async move {
            let mut server = http2::Builder::new(TokioExecutor::new());
            // With a request for files comes every pattern of the .dockerignore.
            server.max_header_list_size(MAX_HEADERS);
            if let Err(error) = server.serve_connection(connection, service).await {
                tracing::debug!(%error, "a build's session ended");
            }
        });
        Ok(Self { notes })
    }

    /// What was asked for in vain and can be done without, since the last time.
    pub(in super::super) fn omitted(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().omitted)
    }

    /// Why something that the build cannot do without was refused, if it was.
    pub(in super::super) fn refused(&self) -> Option<String> {
        self.notes.refused()
    }
}

/// The longest headers of a request, in bytes: what gRPC's own servers take (grpc-go, `MaxHeaderListSize`).
const MAX_HEADERS: u32 = 16 << 20;

const SERVED: &[(&str, &[&str])] = &[
    (HEALTH, &["Check"]),
    (SECRETS, &["GetSecret"]),
    (AUTH, &["Credentials"]),
    (FILES, &["DiffCopy"]),
    (SSH, &["CheckAgent", "ForwardAgent"]),
];

fn services(offer: Offer, notes: &Arc<Notes>) -> Routes {
    let BuildCredentials { secrets, registries, ssh } = offer.credentials;
    let signing = Arc::new(Semaphore::new(SIGNING));
    let agents = AgentsOfBuild { keys: ssh, notes: Arc::clone(notes), signing };
    let secrets =
        SecretsOfBuild { values: secrets, optional: offer.optional_secrets, notes: Arc::clone(notes) };
    Routes::new(HealthServer::new(Serving))
        .add_service(SecretsServer::new(secrets))
        .add_service(AuthServer::new(LoginsOfBuild(registries)))
        .add_service(SshServer::new(agents))
        .add_service(FileSyncServer::new(FilesOfBuild(offer.files)))
}

/// What a session has to say to its build.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    omitted: Vec<String>,
    /// The first of them: it ends the build.
    refused: Option<String>,
}

impl Notes {
    pub(super) fn omit(&self, words: String) {
        let mut said = self.lock();
        // Parallel steps may ask for the same.
        if !said.omitted.contains(&words) {
            said.omitted.push(words);
        }
    }

    pub(super) fn refuse(&self, reason: String) {
        self.lock().refused.get_or_insert(reason);
    }

    pub(super) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
