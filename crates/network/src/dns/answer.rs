//! The answer to a question, from what is known.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::records::{DnsEndpoint, Entry, Records, ServiceKind, protocol_label};
use crate::proxy::{ServiceId, SlicePort};

/// The version of the DNS specification, under the name `dns-version`.
const SPECIFICATION: &str = "1.1.0";

/// What kind of record is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Another name.
    Cname,
    /// Ports and the names that serve them.
    Srv,
    /// The name of an address.
    Ptr,
    /// Text.
    Txt,
    /// Name servers.
    Ns,
    /// Start of authority.
    Soa,
    /// Something that is never there.
    Other,
}

/// A question: labels in lower case, the leftmost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name's labels.
    pub labels: Vec<String>,
    /// The kind of record.
    pub kind: Kind,
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address, of either family.
    Address(IpAddr),
    /// Another name, fully qualified.
    Cname(String),
    /// A port and the name that serves it.
    Srv {
        /// Its share among the records of the answer.
        weight: u16,
        /// The port.
        port: u16,
        /// The name, fully qualified.
        target: String,
    },
    /// The name of an address, fully qualified.
    Ptr(String),
    /// Text.
    Txt(String),
    /// A name server, fully qualified.
    Ns(String),
    /// The start of authority of the cluster's domain.
    Soa,
}

/// A record; without a name it is about the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// The fully qualified name.
    pub name: Option<String>,
    /// The content.
    pub data: Data,
}

/// What is known about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records, and more that the client will ask for next.
    Found {
        /// The answer.
        answers: Vec<Resource>,
        /// The addresses of names in the answer.
        additionals: Vec<Resource>,
    },
    /// The name is another name outside the cluster, which is to be asked for.
    Elsewhere(String),
    /// The name exists, but not with this kind of record.
    NoData,
    /// The name does not exist.
    NoSuchName,
    /// The name is not in the cluster's domain.
    NotOurs,
}

impl Answer {
    fn of(answers: Vec<Resource>) -> Self {
        Self::with(answers, Vec::new())
    }

    fn with(answers: Vec<Resource>, additionals: Vec<Resource>) -> Self {
        if answers.is_empty() {
            return Self::NoData;
        }
        Self::Found {
            answers,
            additionals,
        }
    }
}

impl Records {
    /// Answers a question.
    #[must_use]
    pub fn answer(&self, question: &Question) -> Answer {
        let labels: Vec<&str> = question.labels.iter().map(String::as_str).collect();
        let zone: Vec<&str> = self.zone.iter().map(String::as_str).collect();
        let Some(name) = labels.strip_suffix(zone.as_slice()) else {
            return self.reverse_answer(&labels, question.kind);
        };
        match name {
            [] => self.apex(question.kind),
            ["dns-version"] => match question.kind {
                Kind::Txt => Answer::of(vec![plain(Data::Txt(SPECIFICATION.into()))]),
                _ => Answer::NoData,
            },
            ["dns" | "svc" | "pod"] => Answer::NoData,
            ["ns", "dns"] => addresses([self.own].into_iter(), question.kind),
            [namespace, "svc" | "pod"] => self.namespace(namespace),
            [ip, namespace, "pod"] => self.pod(ip, namespace, question.kind),
            [rest @ .., name, namespace, "svc"] => {
                let id = ServiceId::new(namespace, name);
                match self.entries.get(&id) {
                    Some(entry) => self.service(&id, entry, rest, question.kind),
                    None => Answer::NoSuchName,
                }
            }
            _ => Answer::NoSuchName,
        }
    }

    /// The cluster's domain with the dot at its end.
    #[must_use]
    pub fn zone_name(&self) -> String {
        format!("{}.", self.zone.join("."))
    }

    fn apex(&self, kind: Kind) -> Answer {
        match kind {
            Kind::Soa => Answer::of(vec![plain(Data::Soa)]),
            Kind::Ns => {
                let server = format!("ns.dns.{}", self.zone_name());
                let address = Resource {
                    name: Some(server.clone()),
                    data: Data::Address(self.own),
                };
                Answer::with(vec![plain(Data::Ns(server))], vec![address])
            }
            _ => Answer::NoData,
        }
    }

    fn namespace(&self, namespace: &str) -> Answer {
        match self.namespaces.contains(namespace) {
            true => Answer::NoData,
            false => Answer::NoSuchName,
        }
    }

    /// `1-2-3-4.namespace.pod` stands for 1.2.3.4; whether there is such a pod is not looked at.
    fn pod(&self, label: &str, namespace: &str, kind: Kind) -> Answer {
        let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        let ip = v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        match ip {
            Ok(ip) if self.namespaces.contains(namespace) => addresses([ip].into_iter(), kind),
            _ => Answer::NoSuchName,
        }
    }

    fn service(&self, id: &ServiceId, entry: &Entry, rest: &[&str], kind: Kind) -> Answer {
        let Some(service) = &entry.service else {
            return Answer::NoSuchName;
        };
        if let ServiceKind::External(target) = &service.kind {
            return match (rest, kind) {
                ([], Kind::Cname) => Answer::of(vec![plain(Data::Cname(qualified(target)))]),
                ([], Kind::A | Kind::Aaaa) => Answer::Elsewhere(qualified(target)),
                ([], _) => Answer::NoData,
                _ => Answer::NoSuchName,
            };
        }
        match rest {
            [] => self.service_name(id, entry, kind),
            [port, protocol] if port.starts_with('_') => {
                self.service_port(id, entry, port, protocol, kind)
            }
            [protocol] if protocol.starts_with('_') => {
                match Self::has_protocol(entry, protocol.trim_start_matches('_')) {
                    true => Answer::NoData,
                    false => Answer::NoSuchName,
                }
            }
            [host] if service.kind == ServiceKind::Headless => {
                let mut found = entry.endpoints().filter(|e| e.label() == *host).peekable();
                match found.peek() {
                    Some(_) => addresses(found.map(|endpoint| endpoint.ip), kind),
                    None => Answer::NoSuchName,
                }
            }
            _ => Answer::NoSuchName,
        }
    }

    fn service_name(&self, id: &ServiceId, entry: &Entry, kind: Kind) -> Answer {
        if kind == Kind::Srv {
            return self.srv(id, entry, &|_| true);
        }
        match entry.service.as_ref().map(|service| &service.kind) {
            Some(ServiceKind::Cluster(ips)) => addresses(ips.iter().copied(), kind),
            Some(ServiceKind::Headless) => {
                let ips: BTreeSet<IpAddr> = entry.endpoints().map(|e| e.ip).collect();
                match ips.is_empty() {
                    // Upstream: a headless service that has no endpoints has no name.
                    true => Answer::NoSuchName,
                    false => addresses(ips.into_iter(), kind),
                }
            }
            _ => Answer::NoSuchName,
        }
    }

    fn service_port(
        &self,
        id: &ServiceId,
        entry: &Entry,
        port: &str,
        protocol: &str,
        kind: Kind,
    ) -> Answer {
        let (Some(name), Some(protocol)) = (port.strip_prefix('_'), protocol_label(protocol))
        else {
            return Answer::NoSuchName;
        };
        let wanted = |port: &SlicePort| port.name == name && port.protocol == protocol;
        match self.srv(id, entry, &wanted) {
            Answer::NoData => Answer::NoSuchName,
            _ if kind != Kind::Srv => Answer::NoData,
            found => found,
        }
    }

    /// The SRV records of the ports that are wanted.
    fn srv(&self, id: &ServiceId, entry: &Entry, wanted: &dyn Fn(&SlicePort) -> bool) -> Answer {
        let name = self.service_fqdn(id);
        let mut targets: Vec<(u16, String, IpAddr)> = Vec::new();
        match entry
            .service
            .as_ref()
            .map(|service| (&service.kind, service))
        {
            Some((ServiceKind::Cluster(ips), service)) => {
                for port in service.ports.iter().filter(|port| wanted(port)) {
                    targets.extend(ips.iter().map(|ip| (port.port, name.clone(), *ip)));
                }
            }
            Some((ServiceKind::Headless, _)) => {
                for slice in entry.slices.values() {
                    for port in slice.ports.iter().filter(|port| wanted(port)) {
                        targets.extend(
                            slice.endpoints.iter().map(|endpoint| {
                                (port.port, host_fqdn(endpoint, &name), endpoint.ip)
                            }),
                        );
                    }
                }
            }
            _ => {}
        }
        let pairs: BTreeSet<(u16, String)> = targets
            .iter()
            .map(|(port, target, _)| (*port, target.clone()))
            .collect();
        let weight = 100 / u16::try_from(pairs.len().clamp(1, 100)).unwrap_or(100);
        let answers = pairs.into_iter().map(|(port, target)| {
            plain(Data::Srv {
                weight,
                port,
                target,
            })
        });
        let additionals: BTreeSet<Resource> = targets
            .into_iter()
            .map(|(_, target, ip)| Resource {
                name: Some(target),
                data: Data::Address(ip),
            })
            .collect();
        Answer::with(answers.collect(), additionals.into_iter().collect())
    }

    fn reverse_answer(&self, labels: &[&str], kind: Kind) -> Answer {
        let Some(ip) = reverse_address(labels) else {
            return Answer::NotOurs;
        };
        let Some(owners) = self.reverse.get(&ip) else {
            return Answer::NotOurs;
        };
        if kind != Kind::Ptr {
            return Answer::NoData;
        }
        let mut names = BTreeSet::new();
        for id in owners {
            let Some(entry) = self.entries.get(id) else {
                continue;
            };
            let name = self.service_fqdn(id);
            if self.is_headless(id) {
                let hosts = entry.endpoints().filter(|endpoint| endpoint.ip == ip);
                names.extend(hosts.map(|endpoint| host_fqdn(endpoint, &name)));
            } else {
                names.insert(name);
            }
        }
        Answer::of(
            names
                .into_iter()
                .map(|name| plain(Data::Ptr(name)))
                .collect(),
        )
    }

    fn service_fqdn(&self, id: &ServiceId) -> String {
        format!("{}.{}.svc.{}", id.name, id.namespace, self.zone_name())
    }
}

fn host_fqdn(endpoint: &DnsEndpoint, service: &str) -> String {
    format!("{}.{service}", endpoint.label())
}

fn plain(data: Data) -> Resource {
    Resource { name: None, data }
}

fn qualified(name: &str) -> String {
    match name.ends_with('.') {
        true => name.to_owned(),
        false => format!("{name}."),
    }
}

/// The addresses of the kind that is asked for.
fn addresses(ips: impl Iterator<Item = IpAddr>, kind: Kind) -> Answer {
    let wanted = ips.filter(|ip| match kind {
        Kind::A => ip.is_ipv4(),
        Kind::Aaaa => ip.is_ipv6(),
        _ => false,
    });
    Answer::of(wanted.map(|ip| plain(Data::Address(ip))).collect())
}

/// The address in a name such as `4.3.2.1.in-addr.arpa`.
fn reverse_address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}")
            .parse::<Ipv4Addr>()
            .ok()
            .map(IpAddr::V4),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut value: u128 = 0;
            for nibble in nibbles.iter().rev() {
                let digit = match nibble.as_bytes() {
                    [digit] => char::from(*digit).to_digit(16)?,
                    _ => return None,
                };
                value = (value << 4) | u128::from(digit);
            }
            Some(IpAddr::V6(Ipv6Addr::from(value)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
