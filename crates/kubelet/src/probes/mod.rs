//! Probes: whether a container has started, lives and is ready.
//!
//! One task per probe of a running container; it ends with the container. What a probe says after its thresholds goes
//! to the pod's worker.

pub mod grpc;
pub mod http;
pub mod judge;
pub mod tcp;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::runtime::Runtime;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Has it started?
    Startup,
    /// Does it live?
    Liveness,
    /// Is it ready?
    Readiness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The probe of this kind.
    #[must_use]
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }

    /// The word in events.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What one attempt brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It passed.
    Success,
    /// It passed, and something is to be said (a redirect to elsewhere).
    Warning(String),
    /// It failed.
    Failure(String),
    /// It could not be made.
    Error(String),
}

/// Where a probe finds its container.
#[derive(Clone, Debug)]
pub struct Target {
    /// The container's id.
    pub container_id: String,
    /// The pod's address.
    pub pod_ip: String,
}

/// Makes one attempt.
pub async fn attempt(
    probe: &Probe,
    container: &Container,
    target: &Target,
    runtime: &Runtime,
) -> Attempt {
    let timeout = Duration::from_secs(
        u64::try_from(probe.timeout_seconds.unwrap_or(1))
            .unwrap_or(1)
            .max(1),
    );
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return exec_attempt(runtime, &target.container_id, &command, timeout).await;
    }
    if let Some(get) = &probe.http_get {
        return match http::Call::of(get, container, &target.pod_ip, "probe") {
            Ok(call) => http::attempt(&call, timeout).await,
            Err(error) => Attempt::Error(error),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.as_deref().filter(|h| !h.is_empty());
        let host = host.unwrap_or(&target.pod_ip);
        return match port(&tcp.port, container) {
            Ok(port) => tcp::attempt(host, port, timeout).await,
            Err(error) => Attempt::Error(error),
        };
    }
    if let Some(rpc) = &probe.grpc {
        let port = u16::try_from(rpc.port).unwrap_or_default();
        let service = rpc.service.as_deref().unwrap_or_default();
        return grpc::attempt(&target.pod_ip, port, service, timeout).await;
    }
    Attempt::Error("missing probe handler".to_owned())
}

async fn exec_attempt(
    runtime: &Runtime,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Attempt {
    const MAX_OUTPUT: usize = 10 * 1024;
    match runtime.exec(id, command, timeout).await {
        Ok(outcome) if outcome.exit_code == 0 => Attempt::Success,
        Ok(outcome) => {
            let shown = outcome.output.get(..outcome.output.len().min(MAX_OUTPUT));
            Attempt::Failure(String::from_utf8_lossy(shown.unwrap_or_default()).into_owned())
        }
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => Attempt::Failure(format!(
            "command timed out: {:?} timed out after {}s",
            command.join(" "),
            timeout.as_secs()
        )),
        Err(status) => Attempt::Error(crate::images::status_text(&status)),
    }
}

/// The number of a port that is given by number or by the name that the container has for it.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let mut named = ports.filter(|p| p.name.as_deref() == Some(name));
            match named.next() {
                Some(port) => Some(port.container_port),
                None => name.parse().ok(),
            }
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| match port {
            IntOrString::Int(number) => format!("invalid port number: {number}"),
            IntOrString::String(name) => format!("couldn't find port: {name:?}"),
        })
}

/// `host:port`, with brackets where the host is an IPv6 address.
#[must_use]
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Upstream's words for an error of a connection attempt.
#[must_use]
pub fn dial_error(address: &str, error: &std::io::Error) -> String {
    let reason = match error.raw_os_error() {
        Some(code) => match nix::errno::Errno::from_raw(code) {
            nix::errno::Errno::ECONNREFUSED => "connection refused".to_owned(),
            nix::errno::Errno::EHOSTUNREACH => "no route to host".to_owned(),
            nix::errno::Errno::ENETUNREACH => "network is unreachable".to_owned(),
            other => other.desc().to_lowercase(),
        },
        None => return format!("dial tcp: lookup {address}: {error}"),
    };
    format!("dial tcp {address}: connect: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerPort;

    #[test]
    fn ports() {
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 8080,
                ..Default::default()
            }]),
            ..Default::default()
        };
        let by_name = |name: &str| port(&IntOrString::String(name.into()), &container);
        assert_eq!(by_name("web"), Ok(8080));
        assert_eq!(by_name("81"), Ok(81));
        assert!(by_name("nope").is_err());
        assert!(port(&IntOrString::Int(70000), &container).is_err());
        assert_eq!(port(&IntOrString::Int(80), &container), Ok(80));
    }
}
