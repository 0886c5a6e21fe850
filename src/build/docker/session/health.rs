//! The engine asks every few seconds whether the session is there, and ends a build that has lost it
//! (moby/buildkit, session/grpc.go).

use std::collections::HashMap;

use bollard::health::health_check_response::ServingStatus;
use bollard::health::health_server::Health;
use bollard::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use tonic::{Request, Response, Status};

pub(super) struct Serving;

const SERVING: HealthCheckResponse = HealthCheckResponse { status: ServingStatus::Serving as i32 };

#[tonic::async_trait]
impl Health for Serving {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(SERVING))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Ok(Response::new(HealthListResponse { statuses: HashMap::from([(String::new(), SERVING)]) }))
    }

    type WatchStream = futures::stream::Pending<Result<HealthCheckResponse, Status>>;

    /// BuildKit does not use it; a client must take this answer for what it is (health.proto).
    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("only single questions are answered"))
    }
}
