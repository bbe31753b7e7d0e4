//! The variables that tell a container where the services of its namespace are.

use k8s_openapi::api::core::v1::Service;

/// The variables of these services, in their order.
#[must_use]
pub fn variables<'a>(services: impl IntoIterator<Item = &'a Service>) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for service in services {
        of_one(service, &mut all);
    }
    all
}

/// A name in upper case, with underscores.
fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn of_one(service: &Service, all: &mut Vec<(String, String)>) -> Option<()> {
    let spec = service.spec.as_ref()?;
    let ip = spec.cluster_ip.as_deref()?;
    if ip.is_empty() || ip == "None" {
        return None;
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    let first = ports.first()?;
    let prefix = variable_name(service.metadata.name.as_deref()?);
    all.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
    let port_name = format!("{prefix}_SERVICE_PORT");
    all.push((port_name.clone(), first.port.to_string()));
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let name = format!("{port_name}_{}", variable_name(name));
            all.push((name, port.port.to_string()));
        }
    }
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            all.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.push((link.clone(), url));
        all.push((format!("{link}_PROTO"), lower));
        all.push((format!("{link}_PORT"), port.port.to_string()));
        all.push((format!("{link}_ADDR"), ip.to_owned()));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn service(name: &str, ip: &str) -> Service {
        Service {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..Default::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some(ip.into()),
                ports: Some(vec![
                    ServicePort {
                        name: Some("web-ui".into()),
                        port: 80,
                        ..Default::default()
                    },
                    ServicePort {
                        name: Some("dns".into()),
                        port: 53,
                        protocol: Some("UDP".into()),
                        ..Default::default()
                    },
                ]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn names_and_values() {
        let services = [service("my-app", "10.96.0.9"), service("headless", "None")];
        let all = variables(&services);
        let text: Vec<String> = all.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text,
            [
                "MY_APP_SERVICE_HOST=10.96.0.9",
                "MY_APP_SERVICE_PORT=80",
                "MY_APP_SERVICE_PORT_WEB_UI=80",
                "MY_APP_SERVICE_PORT_DNS=53",
                "MY_APP_PORT=tcp://10.96.0.9:80",
                "MY_APP_PORT_80_TCP=tcp://10.96.0.9:80",
                "MY_APP_PORT_80_TCP_PROTO=tcp",
                "MY_APP_PORT_80_TCP_PORT=80",
                "MY_APP_PORT_80_TCP_ADDR=10.96.0.9",
                "MY_APP_PORT_53_UDP=udp://10.96.0.9:53",
                "MY_APP_PORT_53_UDP_PROTO=udp",
                "MY_APP_PORT_53_UDP_PORT=53",
                "MY_APP_PORT_53_UDP_ADDR=10.96.0.9",
            ]
        );
    }
}
