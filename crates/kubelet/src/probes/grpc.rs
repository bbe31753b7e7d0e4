//! gRPC probes: `grpc.health.v1.Health/Check` answers SERVING.

use std::time::Duration;

use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

use crate::probes::{Attempt, join_host_port};

/// Which service is asked after.
#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckRequest {
    /// The service; empty for the whole server.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// How it is.
#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// The number of SERVING.
const SERVING: i32 = 1;

/// Asks once.
pub async fn attempt(host: &str, port: u16, service: &str, timeout: Duration) -> Attempt {
    let address = join_host_port(host, port);
    let limit = format!("{}s", timeout.as_secs());
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint,
        Err(error) => return Attempt::Error(error.to_string()),
    };
    let endpoint = match endpoint.user_agent("kube-probe/1.36") {
        Ok(endpoint) => endpoint,
        Err(error) => return Attempt::Error(error.to_string()),
    };
    let talk = async {
        let channel = endpoint.connect().await.map_err(|error| {
            format!("error: failed to connect service at \"{address}\": {error}")
        })?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| error.to_string())?;
        let codec = tonic_prost_codec();
        let request = tonic::Request::new(HealthCheckRequest {
            service: service.to_owned(),
        });
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let answer = client.unary(request, path, codec).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| match status.code() {
                tonic::Code::Unimplemented => format!(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                    status.message()
                ),
                tonic::Code::DeadlineExceeded => {
                    format!("timeout: health rpc did not complete within {limit}")
                }
                _ => format!(
                    "error: health rpc probe failed: {}",
                    crate::images::status_text(&status)
                ),
            })
    };
    match tokio::time::timeout(timeout, talk).await {
        Err(_) => Attempt::Failure(format!(
            "timeout: failed to connect service \"{address}\" within {limit}: context deadline exceeded"
        )),
        Ok(Err(message)) => Attempt::Failure(message),
        Ok(Ok(answer)) if answer.status == SERVING => Attempt::Success,
        Ok(Ok(answer)) => Attempt::Failure(format!(
            "service unhealthy (responded with \"{}\")",
            match answer.status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            }
        )),
    }
}

fn tonic_prost_codec() -> tonic_prost::ProstCodec<HealthCheckRequest, HealthCheckResponse> {
    tonic_prost::ProstCodec::default()
}
