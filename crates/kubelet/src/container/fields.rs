//! The downward API: values of a pod's own fields and resources.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod::spec;
use crate::quantity;

/// What a field may refer to beyond the pod's spec.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The pod's addresses, the primary one first.
    pub pod_ips: Vec<String>,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// The node's allocatable processor time in thousandths: the limit of containers that have none.
    pub allocatable_cpu_milli: i64,
    /// The node's allocatable memory in bytes: the limit of containers that have none.
    pub allocatable_memory: i64,
    /// The node's allocatable disk in bytes.
    pub allocatable_storage: i64,
}

/// A field that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// There is no such field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// There is no such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// There is no such container.
    #[error("container {0} not found")]
    Container(String),
}

/// The value of `path`.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let pod_spec = spec::spec(pod);
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(FieldError::Field(path.to_owned())),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Some(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => pod_spec.node_name.clone(),
        "spec.serviceAccountName" => pod_spec.service_account_name.clone(),
        "status.hostIP" => facts.host_ips.first().cloned(),
        "status.hostIPs" => Some(facts.host_ips.join(",")),
        "status.podIP" => facts.pod_ips.first().cloned(),
        "status.podIPs" => Some(facts.pod_ips.join(",")),
        _ => return Err(FieldError::Field(path.to_owned())),
    };
    Ok(value.unwrap_or_default())
}

/// `key="value"` lines in the order of the keys.
fn format_map(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten();
    let lines: Vec<String> = lines.map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    lines.join("\n")
}

/// A string as a Go string literal, which is what users parse.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a container's resource, divided by the divisor and rounded up.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match (named, own) {
        (Some(name), _) => spec::container_named(pod, name)
            .map(|(_, c)| c)
            .ok_or_else(|| FieldError::Container(name.to_owned()))?,
        (None, Some(own)) => own.clone(),
        (None, None) => return Err(FieldError::Container(String::new())),
    };
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let supported =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let resources = container.resources.as_ref();
    let amount = match list {
        "limits" => {
            let set = resources.and_then(|r| quantity::amount(r.limits.as_ref(), name));
            set.filter(|amount| *amount != 0).unwrap_or(match name {
                "cpu" => facts.allocatable_cpu_milli,
                "memory" => facts.allocatable_memory,
                "ephemeral-storage" => facts.allocatable_storage,
                _ => 0,
            })
        }
        "requests" => resources
            .and_then(|r| quantity::amount(r.requests.as_ref(), name))
            .unwrap_or(0),
        _ => return Err(unsupported()),
    };
    if !supported {
        return Err(unsupported());
    }
    let divisor = selector.divisor.as_ref().map(|d| d.0.as_str());
    let divisor = match name {
        "cpu" => divisor
            .and_then(quantity::milli)
            .filter(|d| *d > 0)
            .unwrap_or(1000),
        _ => divisor
            .and_then(quantity::whole)
            .filter(|d| *d > 0)
            .unwrap_or(1),
    };
    Ok((amount / divisor + i64::from(amount % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod() -> Pod {
        let list = |cpu: &str, memory: &str| {
            Some(
                [("cpu", cpu), ("memory", memory)]
                    .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
                    .into(),
            )
        };
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                labels: Some([("b".into(), "2\"".into()), ("a".into(), "1".into())].into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                containers: vec![
                    Container {
                        name: "c".into(),
                        resources: Some(ResourceRequirements {
                            requests: list("250m", "64Mi"),
                            limits: list("1500m", "100M"),
                            ..Default::default()
                        }),
                        ..Default::default()
                    },
                    Container {
                        name: "free".into(),
                        ..Default::default()
                    },
                ],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn fields() {
        let facts = Facts {
            pod_ips: vec!["1.2.3.4".into(), "fd::1".into()],
            ..Facts::default()
        };
        for (path, wanted) in [
            ("metadata.name", "p"),
            ("metadata.labels", "a=\"1\"\nb=\"2\\\"\""),
            ("metadata.labels['a']", "1"),
            ("metadata.annotations['none']", ""),
            ("status.podIP", "1.2.3.4"),
            ("status.podIPs", "1.2.3.4,fd::1"),
        ] {
            assert_eq!(field(&pod(), path, &facts).unwrap(), wanted, "{path}");
        }
        assert!(field(&pod(), "spec.nope", &facts).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let facts = Facts {
            allocatable_cpu_milli: 2000,
            allocatable_memory: 1 << 30,
            ..Facts::default()
        };
        for (container, name, divisor, wanted) in [
            ("c", "limits.cpu", None, "2"),
            ("c", "limits.cpu", Some("1m"), "1500"),
            ("c", "requests.cpu", None, "1"),
            ("c", "requests.memory", Some("1Mi"), "64"),
            ("c", "limits.memory", None, "100000000"),
            ("c", "limits.memory", Some("1Mi"), "96"),
            ("free", "limits.cpu", None, "2"),
            ("free", "limits.memory", None, "1073741824"),
            ("free", "requests.memory", None, "0"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: Some(container.into()),
                resource: name.into(),
                divisor: divisor.map(|d| Quantity(d.into())),
            };
            let value = resource(&pod(), None, &selector, &facts);
            assert_eq!(value.unwrap(), wanted, "{container} {name}");
        }
    }
}
