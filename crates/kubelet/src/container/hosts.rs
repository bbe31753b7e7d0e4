//! A pod's name for itself: host name, domain and `/etc/hosts`.

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod::spec;

/// The longest host name.
const MAX_HOSTNAME: usize = 63;

/// What a pod is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// The short name.
    pub name: String,
    /// The domain; empty without a subdomain.
    pub domain: String,
    /// What the kernel is told.
    pub kernel: String,
}

/// The names of a pod in a cluster domain.
#[must_use]
pub fn host_name(pod: &Pod, cluster_domain: &str) -> HostName {
    let pod_spec = spec::spec(pod);
    if let Some(own) = pod_spec
        .hostname_override
        .as_deref()
        .filter(|n| !n.is_empty())
    {
        return HostName {
            name: own.to_owned(),
            domain: String::new(),
            kernel: own.to_owned(),
        };
    }
    let chosen = pod_spec.hostname.as_deref().filter(|n| !n.is_empty());
    let name = chosen.unwrap_or_else(|| spec::name(pod));
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    let name = cut.trim_end_matches(['-', '.']).to_owned();
    let domain = match pod_spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    let kernel = if pod_spec.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        format!("{name}.{domain}")
    } else {
        name.clone()
    };
    HostName {
        name,
        domain,
        kernel,
    }
}

/// The `/etc/hosts` of a pod with a network of its own.
#[must_use]
pub fn hosts_file(pod: &Pod, ips: &[String], names: &HostName) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let HostName { name, domain, .. } = names;
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{name}\n"));
        } else {
            text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
        }
    }
    text.push_str(&aliases(pod));
    text
}

/// The `/etc/hosts` of a pod on the host's network.
#[must_use]
pub fn host_network_hosts_file(pod: &Pod, node_file: &str) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{node_file}{}",
        aliases(pod)
    )
}

fn aliases(pod: &Pod) -> String {
    let list: &[HostAlias] = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in list {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(spec: PodSpec) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                ..Default::default()
            },
            spec: Some(spec),
            ..Default::default()
        }
    }

    #[test]
    fn names() {
        let plain = host_name(&pod(PodSpec::default()), "cluster.local");
        assert_eq!((plain.kernel.as_str(), plain.domain.as_str()), ("p", ""));
        let named = PodSpec {
            hostname: Some("h".into()),
            subdomain: Some("sub".into()),
            set_hostname_as_fqdn: Some(true),
            ..Default::default()
        };
        let named = host_name(&pod(named), "cluster.local");
        assert_eq!(named.kernel, "h.sub.ns.svc.cluster.local");
        let mut long = pod(PodSpec::default());
        long.metadata.name = Some(format!("{}-tail", "x".repeat(62)));
        assert_eq!(host_name(&long, "cluster.local").kernel, "x".repeat(62));
    }

    #[test]
    fn hosts() {
        let pod = pod(PodSpec {
            subdomain: Some("sub".into()),
            host_aliases: Some(vec![HostAlias {
                ip: "1.2.3.4".into(),
                hostnames: Some(vec!["a".into(), "b".into()]),
            }]),
            ..Default::default()
        });
        let names = host_name(&pod, "cluster.local");
        let text = hosts_file(&pod, &["10.0.0.2".into()], &names);
        assert!(text.ends_with(
            "10.0.0.2\tp.sub.ns.svc.cluster.local\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
    }
}
