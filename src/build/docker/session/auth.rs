//! Logins for the registries of base images (moby/buildkit, session/auth).

use bollard::moby::filesync::v1::auth_server::Auth;
use bollard::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};

use crate::build::credentials::Registries;

pub(super) struct LoginsOfBuild(pub(super) Registries);

#[tonic::async_trait]
impl Auth for LoginsOfBuild {
    /// For a registry that the build has no login for, an empty one: the engine then asks anonymously.
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        // Of this code the engine makes a fault that is not the build's.
        let login = self.0.login(&request.into_inner().host).await.map_err(Status::unavailable)?;
        Ok(Response::new(login.map_or_else(CredentialsResponse::default, |login| CredentialsResponse {
            username: login.user,
            secret: login.secret.expose_secret().to_owned(),
        })))
    }

    // By these a client could fetch registries' tokens in the engine's stead, from where the registry may not be
    // reached. Unless there is an authority, the engine fetches them itself, with the login.

    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented(FETCHES_ITSELF))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented(FETCHES_ITSELF))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented(FETCHES_ITSELF))
    }
}

const FETCHES_ITSELF: &str = "the engine fetches tokens itself";
