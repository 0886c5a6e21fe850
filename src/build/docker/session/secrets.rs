//! Secrets for `RUN --mount=type=secret` (moby/buildkit, session/secrets).

use std::collections::BTreeSet;
use std::sync::Arc;

use bollard::moby::buildkit::secrets::v1::secrets_server::Secrets;
use bollard::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};

use super::server::Notes;
use crate::build::credentials::OF_THE_ENGINE;
use crate::build::credentials::SecretValues;

pub(super) struct SecretsOfBuild {
    pub(super) values: SecretValues,
    /// Those that every mount in the Dockerfile can do without, as it says itself.
    pub(super) optional: BTreeSet<String>,
    pub(super) notes: Arc<Notes>,
}

#[tonic::async_trait]
impl Secrets for SecretsOfBuild {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        if let Some(value) = self.values.get(&id) {
            return Ok(Response::new(GetSecretResponse { data: value.expose_secret().to_vec() }));
        }
        // Asked for without a mount, before it fetches what `ADD` names: it does without.
        if OF_THE_ENGINE.iter().any(|name| id.starts_with(name)) {
            return Err(Status::not_found("the build does not have it"));
        }
        // After "not found" the engine leaves a mount out unless it says `required`, and builds on in silence.
        if self.optional.contains(&id) {
            self.notes.omit(format!(
                "the secret {id:?} is not given to this build; its mounts are left out, as required=false says"
            ));
            return Err(Status::not_found("the build does not have it"));
        }
        let reason = format!(
            "the Dockerfile asks for the secret {id:?}, which build.secrets of the event does not name; name it there, \
             or say required=false in the mount"
        );
        self.notes.refuse(reason.clone());
        Err(Status::failed_precondition(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[tokio::test]
    async fn only_what_a_mount_asks_for_is_refused() {
        let notes = Arc::new(Notes::default());
        let values = [("token".to_owned(), b"value".to_vec().into())].into();
        let optional = ["npm".to_owned()].into();
        let secrets = SecretsOfBuild { values, optional, notes: Arc::clone(&notes) };
        let ask = async |id: &str| {
            let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
            let answer = secrets.get_secret(Request::new(request)).await;
            answer.map(|answer| answer.into_inner().data).map_err(|status| status.code())
        };
        assert_eq!(ask("token").await.unwrap(), b"value");
        for id in ["GIT_AUTH_TOKEN.git.example.com", "GIT_AUTH_HEADER", "npm"] {
            assert_eq!(ask(id).await.unwrap_err(), Code::NotFound, "{id}");
        }
        assert_eq!(notes.refused(), None);
        assert_eq!(ask("other").await.unwrap_err(), Code::FailedPrecondition);
        assert!(notes.refused().unwrap().contains("\"other\""));
    }
}
