use super::super::records::{DnsService, DnsSlice};
use super::*;
use crate::pod::Protocol;

const ZONE: &str = "svc.cluster.local";

fn port(name: &str, protocol: Protocol, port: u16) -> SlicePort {
    SlicePort {
        name: name.into(),
        protocol,
        port,
    }
}

fn records() -> Records {
    let mut records = Records::new("cluster.local", [10, 96, 0, 10].into());
    records.set_namespace("default", true);
    let web = DnsService {
        kind: ServiceKind::Cluster(vec![[10, 96, 0, 1].into(), "fd00::1".parse().unwrap()]),
        ports: vec![port("https", Protocol::Tcp, 443)],
    };
    records.set_service(&ServiceId::new("default", "kubernetes"), Some(web));
    let db = ServiceId::new("default", "db");
    let headless = DnsService {
        kind: ServiceKind::Headless,
        ports: vec![port("sql", Protocol::Tcp, 5432)],
    };
    records.set_service(&db, Some(headless));
    let slice = DnsSlice {
        ports: vec![port("sql", Protocol::Tcp, 15432)],
        endpoints: vec![
            DnsEndpoint {
                ip: [10, 244, 0, 5].into(),
                hostname: Some("db-0".into()),
            },
            DnsEndpoint {
                ip: [10, 244, 0, 6].into(),
                hostname: None,
            },
        ],
    };
    records.set_slice(&db, "db-abc", Some(slice));
    let alias = DnsService {
        kind: ServiceKind::External("example.org".into()),
        ports: vec![],
    };
    records.set_service(&ServiceId::new("default", "alias"), Some(alias));
    records
}

fn ask(records: &Records, name: &str, kind: Kind) -> Answer {
    records.answer(&Question {
        labels: name.split('.').map(str::to_owned).collect(),
        kind,
    })
}

fn texts(answer: Answer) -> Vec<String> {
    let Answer::Found { answers, .. } = answer else {
        return vec![format!("{answer:?}")];
    };
    answers
        .into_iter()
        .map(|resource| match resource.data {
            Data::Address(ip) => ip.to_string(),
            Data::Srv {
                weight,
                port,
                target,
            } => format!("{weight} {port} {target}"),
            Data::Ptr(name) | Data::Cname(name) | Data::Txt(name) | Data::Ns(name) => name,
            Data::Soa => "SOA".into(),
        })
        .collect()
}

#[test]
fn names_are_answered_as_the_specification_says() {
    let records = records();
    let cases: &[(&str, Kind, &[&str])] = &[
        // Services with an address.
        (
            "kubernetes.default.svc.cluster.local",
            Kind::A,
            &["10.96.0.1"],
        ),
        (
            "kubernetes.default.svc.cluster.local",
            Kind::Aaaa,
            &["fd00::1"],
        ),
        (
            "kubernetes.default.svc.cluster.local",
            Kind::Txt,
            &["NoData"],
        ),
        (
            "_https._tcp.kubernetes.default.svc.cluster.local",
            Kind::Srv,
            &["100 443 kubernetes.default.svc.cluster.local."],
        ),
        (
            "kubernetes.default.svc.cluster.local",
            Kind::Srv,
            &["100 443 kubernetes.default.svc.cluster.local."],
        ),
        (
            "_https._tcp.kubernetes.default.svc.cluster.local",
            Kind::A,
            &["NoData"],
        ),
        (
            "_https._udp.kubernetes.default.svc.cluster.local",
            Kind::Srv,
            &["NoSuchName"],
        ),
        (
            "_http._tcp.kubernetes.default.svc.cluster.local",
            Kind::Srv,
            &["NoSuchName"],
        ),
        (
            "_tcp.kubernetes.default.svc.cluster.local",
            Kind::Srv,
            &["NoData"],
        ),
        (
            "x.kubernetes.default.svc.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        // Headless services.
        (
            "db.default.svc.cluster.local",
            Kind::A,
            &["10.244.0.5", "10.244.0.6"],
        ),
        ("db.default.svc.cluster.local", Kind::Aaaa, &["NoData"]),
        (
            "db-0.db.default.svc.cluster.local",
            Kind::A,
            &["10.244.0.5"],
        ),
        (
            "10-244-0-6.db.default.svc.cluster.local",
            Kind::A,
            &["10.244.0.6"],
        ),
        (
            "10-244-0-5.db.default.svc.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        (
            "_sql._tcp.db.default.svc.cluster.local",
            Kind::Srv,
            &[
                "50 15432 10-244-0-6.db.default.svc.cluster.local.",
                "50 15432 db-0.db.default.svc.cluster.local.",
            ],
        ),
        // Aliases.
        (
            "alias.default.svc.cluster.local",
            Kind::Cname,
            &["example.org."],
        ),
        (
            "alias.default.svc.cluster.local",
            Kind::A,
            &["Elsewhere(\"example.org.\")"],
        ),
        // Pods.
        (
            "10-244-0-9.default.pod.cluster.local",
            Kind::A,
            &["10.244.0.9"],
        ),
        (
            "10-244-0-9.nowhere.pod.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        (
            "10-244-0.default.pod.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        (
            "fd00--7.default.pod.cluster.local",
            Kind::Aaaa,
            &["fd00::7"],
        ),
        // Reverse.
        (
            "1.0.96.10.in-addr.arpa",
            Kind::Ptr,
            &["kubernetes.default.svc.cluster.local."],
        ),
        (
            "5.0.244.10.in-addr.arpa",
            Kind::Ptr,
            &["db-0.db.default.svc.cluster.local."],
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            Kind::Ptr,
            &["kubernetes.default.svc.cluster.local."],
        ),
        ("9.9.9.9.in-addr.arpa", Kind::Ptr, &["NotOurs"]),
        // The domain itself.
        ("cluster.local", Kind::Soa, &["SOA"]),
        ("cluster.local", Kind::Ns, &["ns.dns.cluster.local."]),
        ("cluster.local", Kind::A, &["NoData"]),
        ("ns.dns.cluster.local", Kind::A, &["10.96.0.10"]),
        ("dns-version.cluster.local", Kind::Txt, &["1.1.0"]),
        (ZONE, Kind::A, &["NoData"]),
        ("default.svc.cluster.local", Kind::A, &["NoData"]),
        ("nowhere.svc.cluster.local", Kind::A, &["NoSuchName"]),
        ("web.default.svc.cluster.local", Kind::A, &["NoSuchName"]),
        (
            "default.svc.cluster.local.default.svc.cluster.local",
            Kind::A,
            &["NoSuchName"],
        ),
        ("cluster.local.cluster.local", Kind::A, &["NoSuchName"]),
        // Others.
        ("example.org", Kind::A, &["NotOurs"]),
        ("local", Kind::A, &["NotOurs"]),
        ("", Kind::Ns, &["NotOurs"]),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(
            texts(ask(&records, name, *kind)),
            *expected,
            "{name} {kind:?}"
        );
    }
}

#[test]
fn srv_answers_carry_the_addresses() {
    let answer = ask(
        &records(),
        "_sql._tcp.db.default.svc.cluster.local",
        Kind::Srv,
    );
    let Answer::Found { additionals, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(additionals.len(), 2);
    assert_eq!(
        additionals[1].name.as_deref(),
        Some("db-0.db.default.svc.cluster.local.")
    );
}

#[test]
fn what_is_removed_is_forgotten() {
    let mut records = records();
    let db = ServiceId::new("default", "db");
    records.set_slice(&db, "db-abc", None);
    let name = "db.default.svc.cluster.local";
    assert_eq!(ask(&records, name, Kind::A), Answer::NoSuchName);
    for name in ["db", "kubernetes", "alias"] {
        records.set_service(&ServiceId::new("default", name), None);
    }
    records.set_namespace("default", false);
    assert!(records.entries.is_empty());
    assert!(records.reverse.is_empty());
    assert!(records.namespaces.is_empty());
}
