use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::nft::{Assembly, Model, Op, Transaction};
use crate::proxy::base::base;
use crate::proxy::rows::{Hints, SlicePort};

fn node() -> NodeRow {
    NodeRow {
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: Some("10.96.0.0/16".parse().unwrap()),
        held: vec![Ipv4Addr::new(10, 96, 0, 10)],
        masquerade_bit: 0x4000,
        masquerade_all: false,
        zone: "z1".into(),
    }
}

fn port(name: &str, protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port,
    }
}

fn endpoint(last: u8, local: bool, state: &str) -> Endpoint {
    Endpoint {
        ip: Ipv4Addr::new(10, 244, 0, last),
        local,
        ready: state == "ready",
        serving: state != "down",
        terminating: state == "terminating",
        hints: None,
    }
}

/// A ready endpoint that is hinted to be used from this node or not, and from those zones.
fn hinted(last: u8, node: Option<bool>, zones: &[&str]) -> Endpoint {
    Endpoint {
        hints: Some(Hints {
            node,
            zones: zones.iter().map(|zone| Box::from(*zone)).collect(),
        }),
        ..endpoint(last, last == 1, "ready")
    }
}

#[test]
fn hints_keep_traffic_near() {
    let all = |endpoints: Vec<Endpoint>| {
        let slice = web(endpoints);
        targets(&plan(&service(), &[&slice]), "ep-all/")
    };
    let (here, there) = (Some(true), Some(false));
    // For this node before its zone.
    let both = || {
        vec![
            hinted(1, here, &["z1"]),
            hinted(2, there, &["z1"]),
            hinted(3, there, &["z2"]),
        ]
    };
    assert_eq!(all(both()), [1]);
    // No endpoint is for this node: its zone.
    let of_zone = vec![hinted(1, there, &["z2"]), hinted(2, there, &["z1", "z3"])];
    assert_eq!(all(of_zone), [2]);
    // None is for its zone either, or one has no hint: all of them.
    assert_eq!(
        all(vec![hinted(1, None, &["z2"]), hinted(2, None, &["z3"])]),
        [1, 2]
    );
    let mut some = both();
    some.push(endpoint(4, false, "ready"));
    assert_eq!(all(some), [1, 2, 3, 4]);
    // What is not ready has no say, and does not serve.
    let mut draining = both();
    draining.push(endpoint(4, false, "terminating"));
    assert_eq!(all(draining), [1]);
    let mut gone = hinted(1, here, &[]);
    gone.ready = false;
    assert_eq!(all(vec![gone, hinted(2, there, &[])]), [2]);

    // Traffic that has to stay here does not go by hints, and goes on meaning this node's endpoints.
    let local = ServiceRow {
        internal_local: true,
        ..service()
    };
    let slice = web(vec![hinted(1, there, &["z2"]), hinted(2, here, &["z1"])]);
    let plan = plan(&local, &[&slice]);
    assert_eq!(targets(&plan, "ep-local/"), [1]);
}

fn web(endpoints: Vec<Endpoint>) -> SliceRow {
    SliceRow {
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints,
    }
}

fn service() -> ServiceRow {
    ServiceRow {
        cluster_ips: vec![Ipv4Addr::new(10, 96, 1, 1)],
        ports: vec![port("http", Protocol::Tcp, 80, Some(30080))],
        ..ServiceRow::default()
    }
}

fn plan(service: &ServiceRow, slices: &[&SliceRow]) -> ServicePlan {
    plan_service(&ServiceId::new("default", "web"), service, slices, &node())
}

fn shared<'a>(plan: &'a ServicePlan, set: &str) -> Vec<&'a Value> {
    plan.fragment
        .shared
        .iter()
        .filter(|((name, _), _)| &**name == set)
        .map(|(_, value)| value)
        .collect()
}

fn targets(plan: &ServicePlan, set: &str) -> Vec<u8> {
    let set = plan
        .fragment
        .sets
        .iter()
        .find(|(name, _)| name.starts_with(set));
    let values = set.map(|(_, set)| set.elements.values());
    values
        .into_iter()
        .flatten()
        .map(|value| match value {
            Value::Data(key) => key.0[3],
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn ready_endpoints_serve_and_draining_ones_stand_in() {
    let slice = web(vec![
        endpoint(2, true, "ready"),
        endpoint(3, false, "terminating"),
        endpoint(4, false, "down"),
    ]);
    let serving = plan(&service(), &[&slice]);
    assert_eq!(targets(&serving, "ep-all/"), [2]);
    assert_eq!(shared(&serving, SERVICES).len(), 1);
    assert_eq!(shared(&serving, NODE_PORTS).len(), 1);
    assert_eq!(shared(&serving, HAIRPIN).len(), 1);

    let slice = web(vec![
        endpoint(3, false, "terminating"),
        endpoint(4, false, "down"),
    ]);
    let draining = plan(&service(), &[&slice]);
    assert_eq!(targets(&draining, "ep-all/"), [3]);
}

#[test]
fn without_endpoints_it_is_refused() {
    let slice = web(vec![endpoint(4, false, "down")]);
    let refused = plan(&service(), &[&slice]);
    assert_eq!(shared(&refused, REFUSED), [&rejected()]);
    assert_eq!(shared(&refused, REFUSED_NODE_PORTS), [&rejected()]);
    assert!(shared(&refused, SERVICES).is_empty());
    assert_eq!(shared(&refused, CLUSTER_IPS).len(), 1);
}

#[test]
fn headless_and_held_services_need_nothing() {
    let slice = web(vec![endpoint(2, true, "ready")]);
    let headless = ServiceRow {
        cluster_ips: vec![],
        ..service()
    };
    assert_eq!(plan(&headless, &[&slice]), ServicePlan::default());
    let dns = ServiceRow {
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 10)],
        ..service()
    };
    assert_eq!(plan(&dns, &[&slice]), ServicePlan::default());
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let mut slice = web(vec![endpoint(2, true, "ready")]);
    slice.ports.push(SlicePort {
        name: "dns".into(),
        protocol: Protocol::Udp,
        port: 5353,
    });
    let both = ServiceRow {
        ports: vec![
            port("http", Protocol::Tcp, 80, None),
            port("dns", Protocol::Udp, 53, None),
            port("dns-tcp", Protocol::Tcp, 53, None),
        ],
        ..service()
    };
    let plan = plan(&both, &[&slice]);
    assert_eq!(shared(&plan, SERVICES).len(), 2);
    assert_eq!(shared(&plan, REFUSED).len(), 1);
    assert_eq!(plan.datagrams.0.len(), 1);
}

#[test]
fn local_policies_keep_traffic_on_the_node() {
    let elsewhere = web(vec![endpoint(2, false, "ready")]);
    let internal = ServiceRow {
        internal_local: true,
        ports: vec![port("http", Protocol::Tcp, 80, None)],
        ..service()
    };
    assert_eq!(
        shared(&plan(&internal, &[&elsewhere]), REFUSED),
        [&Value::Drop]
    );
    let external = ServiceRow {
        external_local: true,
        ..service()
    };
    let last_rule = |slice: &SliceRow| {
        let plan = plan(&external, &[slice]);
        let chain = plan.fragment.chains["ext/default/web/tcp/http"].clone();
        chain.rules.last().unwrap().clone()
    };
    assert_eq!(last_rule(&elsewhere), [Statement::Drop]);
    let here = web(vec![
        endpoint(2, false, "ready"),
        endpoint(3, true, "ready"),
    ]);
    assert_eq!(
        last_rule(&here),
        [Statement::Goto("svl/default/web/tcp/http".into())]
    );
    assert_eq!(targets(&plan(&external, &[&here]), "ep-local/"), [3]);
}

#[test]
fn load_balancer_sources_are_a_firewall() {
    let here = web(vec![endpoint(3, true, "ready")]);
    let open = ServiceRow {
        load_balancer_ips: vec![Ipv4Addr::new(198, 51, 100, 7)],
        external_ips: vec![Ipv4Addr::new(198, 51, 100, 8)],
        ..service()
    };
    assert!(
        !plan(&open, &[&here])
            .fragment
            .chains
            .contains_key("fw/default/web/tcp/http")
    );
    let closed = ServiceRow {
        load_balancer_sources: vec!["203.0.113.0/24".parse().unwrap()],
        ..open
    };
    let plan = plan(&closed, &[&here]);
    let firewall = &plan.fragment.chains["fw/default/web/tcp/http"].rules;
    assert_eq!(firewall.len(), 2);
    assert_eq!(firewall[1], [Statement::Drop]);
    let through: Vec<_> = shared(&plan, SERVICES)
        .into_iter()
        .filter(|value| **value == Value::Goto("fw/default/web/tcp/http".into()))
        .collect();
    assert_eq!(through.len(), 1);
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let states = prop::sample::select(vec!["ready", "terminating", "down"]);
    (2..12u8, any::<bool>(), states).prop_map(|(last, local, state)| endpoint(last, local, state))
}

fn any_slice() -> impl Strategy<Value = SliceRow> {
    let port = (any::<bool>(), 1..4u16).prop_map(|(udp, port)| SlicePort {
        name: "http".into(),
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        port: port + 8000,
    });
    (
        prop::collection::vec(port, 0..3),
        prop::collection::vec(any_endpoint(), 0..6),
    )
        .prop_map(|(ports, endpoints)| SliceRow { ports, endpoints })
}

/// Services draw their addresses and ports from a small pool, so that they get into each other's way.
fn any_service() -> impl Strategy<Value = ServiceRow> {
    let port = (any::<bool>(), 80..82u16, prop::option::of(30000..30002u16)).prop_map(
        |(udp, number, node_port)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            port("http", protocol, number, node_port)
        },
    );
    (
        prop::collection::vec((1..4u8).prop_map(|n| Ipv4Addr::new(10, 96, 1, n)), 0..2),
        prop::collection::vec((1..3u8).prop_map(|n| Ipv4Addr::new(198, 51, 100, n)), 0..3),
        prop::collection::vec((2..4u8).prop_map(|n| Ipv4Addr::new(198, 51, 100, n)), 0..2),
        any::<bool>(),
        prop::collection::vec(port, 0..3),
        prop::option::of((1..3u64).prop_map(Duration::from_secs)),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(cluster, external, balancer, closed, ports, affinity, internal, local)| ServiceRow {
                cluster_ips: cluster,
                external_ips: external,
                load_balancer_ips: balancer,
                load_balancer_sources: match closed {
                    true => vec!["203.0.113.0/24".parse().unwrap()],
                    false => vec![],
                },
                ports,
                affinity,
                internal_local: internal,
                external_local: local,
            },
        )
}

proptest! {
    /// However services come, change, clash and go: the kernel takes every transaction, and the
    /// table is the one that a fresh start would make.
    #[test]
    fn deltas_lead_where_a_fresh_start_leads(
        steps in prop::collection::vec(
            (0..4u8, prop::option::of((any_service(), prop::collection::vec(any_slice(), 0..3)))),
            1..25,
        ),
    ) {
        let mut assembly = Assembly::new(base(&node()));
        let mut table = Model::default();
        table.apply(&assembly.whole()).unwrap();
        for (number, change) in steps {
            let id = ServiceId::new("default", &format!("s{number}"));
            let fragment = change.map(|(service, slices)| {
                let slices: Vec<&SliceRow> = slices.iter().collect();
                plan_service(&id, &service, &slices, &node()).fragment
            });
            let delta = assembly.replace(&id, fragment);
            prop_assert_eq!(table.apply(&delta), Ok(()));
            let mut fresh = Model::default();
            prop_assert_eq!(fresh.apply(&assembly.whole()), Ok(()));
            prop_assert_eq!(&table, &fresh);
        }
    }

    /// A change that changes nothing costs nothing.
    #[test]
    fn planning_the_same_again_is_no_change(
        service in any_service(), slices in prop::collection::vec(any_slice(), 0..3),
    ) {
        let id = ServiceId::new("default", "web");
        let slices: Vec<&SliceRow> = slices.iter().collect();
        let mut assembly = Assembly::new(base(&node()));
        let plan = || plan_service(&id, &service, &slices, &node()).fragment;
        assembly.replace(&id, Some(plan()));
        prop_assert!(assembly.replace(&id, Some(plan())).is_empty());
    }
}

/// What it takes to follow one service does not depend on how many others there are.
#[test]
fn a_change_among_thousands_is_the_change_of_one() {
    let follow = |others: u16| {
        let mut assembly = Assembly::new(base(&node()));
        for number in 0..others {
            let id = ServiceId::new("default", &format!("s{number}"));
            let [high, low] = number.to_be_bytes();
            let other = ServiceRow {
                cluster_ips: vec![Ipv4Addr::new(10, 96, 32 + high, low)],
                ports: vec![port(
                    "http",
                    Protocol::Tcp,
                    80,
                    Some(30_000 + number % 2000),
                )],
                ..ServiceRow::default()
            };
            let slice = web(vec![
                endpoint(2, true, "ready"),
                endpoint(3, false, "ready"),
            ]);
            let fragment = plan_service(&id, &other, &[&slice], &node()).fragment;
            assembly.replace(&id, Some(fragment));
        }
        let mut changes = Vec::new();
        for state in ["ready", "down", "ready"] {
            let slice = web(vec![endpoint(7, true, state), endpoint(9, false, "ready")]);
            let fragment = plan(&service(), &[&slice]).fragment;
            let id = ServiceId::new("default", "web");
            changes.push(assembly.replace(&id, Some(fragment)));
        }
        changes
    };
    let (alone, among) = (follow(0), follow(5000));
    // The node port is taken by others, first by name: only elements of that set may differ.
    let own = |transaction: &Transaction| -> Vec<Op> {
        let ops = transaction.ops.iter();
        let of_nodes = |op: &&Op| match op {
            Op::AddElements(set, ..) | Op::DeleteElements(set, ..) => &**set != NODE_PORTS,
            _ => true,
        };
        ops.filter(of_nodes).cloned().collect()
    };
    for (alone, among) in alone.iter().zip(&among) {
        assert_eq!(own(alone), own(among));
    }
    assert!(among[1].ops.len() <= 8, "{:?}", among[1]);
}
