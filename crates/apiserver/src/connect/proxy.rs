//! `proxy` of pods, services and nodes: HTTP passed through.

use std::net::IpAddr;

use axum::body::Body;
use http::Response;
use k8s_openapi::api::core::v1::{Pod, Service};
use skiff_api::{ApiError, ApiResult};

use super::backend::{Endpoint, forward};
use super::endpoints::{ready_endpoint, unavailable};
use super::kubelet;
use crate::registry::Resource;
use crate::server::Call;

/// A name in a proxy path: `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str) -> ApiResult<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return Err(invalid(text)),
        };
        if !matches!(scheme, "" | "http" | "https") || name.is_empty() {
            return Err(invalid(text));
        }
        Ok(Self {
            https: scheme == "https",
            name,
            port,
        })
    }
}

fn invalid(text: &str) -> ApiError {
    ApiError::bad_request(format!("invalid proxy request {text:?}"))
}

/// Passes a request on.
pub(crate) async fn answer(
    mut call: Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    let text = call.info.name.clone();
    let named = Named::parse(&text)?;
    let endpoint = match &*resource.kind.plural {
        "nodes" => kubelet::endpoint(&call.server, named.name).await?,
        "pods" => pod(&call, resource, &named).await?,
        _ => service(&call, resource, &named).await?,
    };
    let endpoint = allowed(endpoint).await?;
    let rest = if call.info.rest.is_empty() {
        "/"
    } else {
        &call.info.rest
    };
    let path = match call.parts.uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    forward(&mut call.parts, body, &endpoint, &path).await
}

/// The endpoint, if it is one of the network: a client must not reach through the server what only the server's own host (or link)
/// can. A name is looked up once, so that what was checked is what is spoken to.
async fn allowed(mut endpoint: Endpoint) -> ApiResult<Endpoint> {
    let host = endpoint.host.trim_matches(['[', ']']);
    let found: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => tokio::net::lookup_host((host, endpoint.port))
            .await
            .map_err(|error| ApiError::bad_request(format!("lookup {host}: {error}")))?
            .map(|address| address.ip())
            .collect(),
    };
    if found.is_empty() {
        return Err(ApiError::bad_request("no addresses for hostname"));
    }
    if !found.iter().all(|address| is_global_unicast(*address)) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    endpoint.address = found.first().copied();
    Ok(endpoint)
}

/// As Go's `net.IP.IsGlobalUnicast`.
fn is_global_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_link_local()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local())
        }
    }
}

fn tls(call: &Call, https: bool) -> ApiResult<Option<std::sync::Arc<rustls::ClientConfig>>> {
    if !https {
        return Ok(None);
    }
    let tls = call.server.kubelet_tls();
    tls.map(Some)
        .ok_or_else(|| ApiError::internal("no client configuration for HTTPS backends"))
}

async fn pod(call: &Call, pods: &Resource, named: &Named<'_>) -> ApiResult<Endpoint> {
    let entry = call
        .server
        .lookup(pods, &call.info.namespace, named.name)
        .await?;
    let entry = entry.ok_or_else(|| ApiError::not_found("", "pods", named.name))?;
    let pod: Pod = entry.decode().ok_or_else(|| ApiError::internal("no pod"))?;
    let host = pod
        .status
        .and_then(|status| status.pod_ip)
        .filter(|ip| !ip.is_empty());
    let host = host.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let mut ports = containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    let port = match named.port {
        "" => ports.next().map(|port| port.container_port),
        text => match text.parse::<i32>() {
            Ok(port) => Some(port),
            Err(_) => ports
                .find(|port| port.name.as_deref() == Some(text))
                .map(|port| port.container_port),
        },
    };
    let fallback = if named.https { 443 } else { 80 };
    let port = u16::try_from(port.unwrap_or(fallback)).map_err(|_| invalid(&call.info.name))?;
    Ok(Endpoint {
        host,
        port,
        tls: tls(call, named.https)?,
        server_name: None,
        address: None,
    })
}

async fn service(call: &Call, services: &Resource, named: &Named<'_>) -> ApiResult<Endpoint> {
    let server = &call.server;
    let namespace = &call.info.namespace;
    let entry = server.lookup(services, namespace, named.name).await?;
    let entry = entry.ok_or_else(|| ApiError::not_found("", "services", named.name))?;
    let service: Service = entry
        .decode()
        .ok_or_else(|| ApiError::internal("no service"))?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    // Slices name their ports as the service does.
    let port_name = match named.port {
        "" if ports.len() == 1 => ports[0].name.clone().unwrap_or_default(),
        text => ports
            .iter()
            .find(|port| port.name.as_deref() == Some(text) || port.port.to_string() == text)
            .map(|port| port.name.clone().unwrap_or_default())
            .ok_or_else(|| {
                unavailable(&format!(
                    "no service port {text:?} found for service {:?}",
                    named.name
                ))
            })?,
    };
    let (host, port) = ready_endpoint(server, namespace, named.name, &port_name).await?;
    Ok(Endpoint {
        host,
        port,
        tls: tls(call, named.https)?,
        server_name: None,
        address: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_and_link_local_are_not_reached() {
        let allowed = async |host: &str| {
            let endpoint = Endpoint {
                host: host.to_owned(),
                port: 80,
                tls: None,
                server_name: None,
                address: None,
            };
            allowed(endpoint).await.map(|endpoint| endpoint.address)
        };
        for host in [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "[::1]",
            "fe80::1",
            "::",
            "::ffff:127.0.0.1",
            "ff02::1",
            "localhost",
        ] {
            let error = allowed(host).await.unwrap_err();
            assert_eq!(
                (error.code, error.message.as_str()),
                (400, "address not allowed"),
                "{host}"
            );
        }
        for host in ["10.0.0.1", "8.8.8.8", "fd00::1"] {
            assert_eq!(allowed(host).await.unwrap(), host.parse().ok());
        }
    }

    #[test]
    fn reads_names_with_scheme_and_port() {
        let named = |https, name, port| Named { https, name, port };
        assert_eq!(Named::parse("web").unwrap(), named(false, "web", ""));
        assert_eq!(Named::parse("web:80").unwrap(), named(false, "web", "80"));
        assert_eq!(Named::parse("https:web:").unwrap(), named(true, "web", ""));
        assert_eq!(
            Named::parse("http:web:x").unwrap(),
            named(false, "web", "x")
        );
        for bad in ["ftp:web:1", "a:b:c:d", ":80"] {
            assert_eq!(Named::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
