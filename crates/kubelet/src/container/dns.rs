//! The resolver configuration of a pod by its `dnsPolicy` and `dnsConfig`.

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec;

/// The most name servers that a resolver takes.
const MAX_SERVERS: usize = 3;
/// The most search domains that a resolver takes.
const MAX_SEARCHES: usize = 32;
/// The longest search line.
const MAX_SEARCH_CHARS: usize = 2048;
/// The longest search domain.
const MAX_DOMAIN: usize = 253;

/// What goes into `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// Reads the text of a `resolv.conf`.
#[must_use]
pub fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.servers.extend(words.next().map(ToOwned::to_owned)),
            Some("search") => {
                resolver.searches = words
                    .map(|w| match w {
                        "." => w.to_owned(),
                        w => w.trim_end_matches('.').to_owned(),
                    })
                    .collect();
            }
            Some("options") => {
                for option in words {
                    set_option(&mut resolver.options, option.to_owned());
                }
            }
            _ => {}
        }
    }
    resolver
}

/// What the cluster offers.
#[derive(Clone, Debug, Default)]
pub struct ClusterDns {
    /// The addresses of the cluster's DNS.
    pub servers: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
}

/// The resolver of a pod, and the warnings for its events.
#[must_use]
pub fn pod_resolver(pod: &Pod, host: &Resolver, cluster: &ClusterDns) -> (Resolver, Vec<String>) {
    let pod_spec = spec::spec(pod);
    let policy = pod_spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    };
    let mut resolver = if policy == "None" {
        Resolver::default()
    } else if in_cluster && !cluster.servers.is_empty() {
        let domain = &cluster.domain;
        let namespace = spec::namespace(pod);
        let own = [
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        Resolver {
            servers: cluster.servers.clone(),
            searches: unique(own.into_iter().chain(host.searches.iter().cloned())),
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        host.clone()
    };
    if let Some(own) = &pod_spec.dns_config {
        let servers = own.nameservers.iter().flatten().cloned();
        resolver.servers = unique(resolver.servers.into_iter().chain(servers));
        let searches = own.searches.iter().flatten().cloned();
        resolver.searches = unique(resolver.searches.into_iter().chain(searches));
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let text = match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            set_option(&mut resolver.options, text);
        }
    }
    let warnings = fit(&mut resolver);
    (resolver, warnings)
}

/// Sets an option; one of the same name is replaced.
fn set_option(options: &mut Vec<String>, option: String) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|o| name(o) == name(&option)) {
        Some(old) => *old = option,
        None => options.push(option),
    }
}

fn unique(list: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for item in list {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// Cuts what resolvers would not take.
fn fit(resolver: &mut Resolver) -> Vec<String> {
    let mut warnings = Vec::new();
    if resolver.servers.len() > MAX_SERVERS {
        resolver.servers.truncate(MAX_SERVERS);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolver.servers.join(" ")
        ));
    }
    let before = resolver.searches.len();
    resolver.searches.truncate(MAX_SEARCHES);
    resolver.searches.retain(|s| s.len() <= MAX_DOMAIN);
    while resolver.searches.join(" ").len() > MAX_SEARCH_CHARS {
        resolver.searches.pop();
    }
    if resolver.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolver.searches.join(" ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};

    fn pod(policy: &str, host_network: bool, config: Option<PodDNSConfig>) -> Pod {
        Pod {
            spec: Some(PodSpec {
                dns_policy: Some(policy.into()),
                host_network: Some(host_network),
                dns_config: config,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn resolved(pod: &Pod) -> Resolver {
        let host = parse("nameserver 9.9.9.9\nsearch example.com.\noptions timeout:1 ndots:1\n");
        let cluster = ClusterDns {
            servers: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
        };
        pod_resolver(pod, &host, &cluster).0
    }

    #[test]
    fn policies() {
        let cluster = resolved(&pod("ClusterFirst", false, None));
        assert_eq!(cluster.servers, ["10.96.0.10"]);
        assert_eq!(
            cluster.searches,
            [
                "default.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "example.com"
            ]
        );
        assert_eq!(cluster.options, ["ndots:5"]);
        for pod in [pod("Default", false, None), pod("ClusterFirst", true, None)] {
            let host = resolved(&pod);
            assert_eq!(host.servers, ["9.9.9.9"]);
            assert_eq!(host.options, ["timeout:1", "ndots:1"]);
        }
        let both = resolved(&pod("ClusterFirstWithHostNet", true, None));
        assert_eq!(both.servers, ["10.96.0.10"]);
    }

    #[test]
    fn own_configuration() {
        let option = |name: &str, value: Option<&str>| PodDNSConfigOption {
            name: Some(name.into()),
            value: value.map(Into::into),
        };
        let config = PodDNSConfig {
            nameservers: Some(vec!["1.1.1.1".into()]),
            searches: Some(vec!["my.domain".into()]),
            options: Some(vec![option("ndots", Some("2")), option("edns0", None)]),
        };
        let none = resolved(&pod("None", false, Some(config.clone())));
        assert_eq!(none.servers, ["1.1.1.1"]);
        assert_eq!(none.options, ["ndots:2", "edns0"]);
        let cluster = resolved(&pod("ClusterFirst", false, Some(config)));
        assert_eq!(cluster.servers, ["10.96.0.10", "1.1.1.1"]);
        assert_eq!(cluster.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn too_much_is_cut() {
        let config = PodDNSConfig {
            nameservers: Some((0..5).map(|i| format!("1.1.1.{i}")).collect()),
            searches: Some((0..40).map(|i| format!("d{i}")).collect()),
            options: None,
        };
        let pod = pod("None", false, Some(config));
        let (resolver, warnings) = pod_resolver(&pod, &Resolver::default(), &ClusterDns::default());
        assert_eq!(resolver.servers.len(), 3);
        assert_eq!(resolver.searches.len(), 32);
        assert_eq!(warnings.len(), 2);
    }
}
