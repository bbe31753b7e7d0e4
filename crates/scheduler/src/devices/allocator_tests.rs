use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::devices::pools::Slices;
use crate::devices::result;
use crate::nodes::NodeFacts;

/// Slices, a class that takes all, and who has what.
#[derive(Default)]
struct Offer {
    slices: Slices,
    allocated: Allocated,
    selectors: Selectors,
    /// After so many steps the search is given up; 0 for no limit.
    steps: u32,
}

fn slice(name: &str, spec: Value) -> Arc<ResourceSlice> {
    let mut object = json!({"metadata": {"name": name}, "spec": {
        "driver": "d", "allNodes": true,
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn claim(name: &str, devices: Value) -> ResourceClaim {
    serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"devices": devices}}),
    )
    .unwrap()
}

fn exactly(name: &str, extra: Value) -> Value {
    let mut request = json!({"deviceClassName": "any", "allocationMode": "ExactCount", "count": 1});
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    json!({"name": name, "exactly": request})
}

fn model(name: &str) -> Value {
    json!([{"cel": {"expression": format!("device.attributes['d'].model == '{name}'")}}])
}

#[test]
fn a_search_that_takes_too_long_is_given_up() {
    let device = |name: &str| json!({"name": name});
    let devices: Vec<Value> = (0..8).map(|n| device(&format!("d{n}"))).collect();
    let mut offer = Offer::of([slice("s", json!({"devices": devices}))]);
    let claims = [claim(
        "c",
        json!({"requests": [exactly("r", json!({"count": 4}))]}),
    )];
    offer.steps = 3;
    assert_eq!(offer.gives(&claims).unwrap_err(), "TooLong");
    offer.steps = steps_within(Duration::from_secs(1));
    assert_eq!(offer.gives(&claims).unwrap()[0].len(), 4);
}

impl Offer {
    fn of(slices: impl IntoIterator<Item = Arc<ResourceSlice>>) -> Self {
        let mut offer = Self::default();
        slices.into_iter().for_each(|slice| offer.slices.set(slice));
        offer
    }

    /// What claims get on node `n`: `request device` for each, or why nothing.
    fn gives(&self, claims: &[ResourceClaim]) -> Result<Vec<Vec<String>>, String> {
        let results = self.results(claims)?;
        let text = |results: AllocationResult| {
            let devices = results.devices.unwrap().results.unwrap();
            let texts = devices
                .into_iter()
                .map(|one| format!("{} {}", one.request, one.device));
            texts.collect()
        };
        Ok(results.into_iter().map(text).collect())
    }

    fn results(&self, claims: &[ResourceClaim]) -> Result<Vec<AllocationResult>, String> {
        let class = json!({"metadata": {"name": "any"}, "spec": {"config": [
            {"opaque": {"driver": "d", "parameters": {"by": "class"}}}]}});
        let class: Arc<DeviceClass> = Arc::new(serde_json::from_value(class).unwrap());
        let find = |name: &str| (name == "any").then_some(&class);
        let wanted = claims.iter().map(|claim| Wanted::of(claim, find));
        let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
        let facts = NodeFacts::default();
        let site = Site {
            name: "n",
            facts: &facts,
        };
        let pools = self.slices.pools(site);
        let known = Known {
            pools: &pools,
            allocated: &self.allocated,
            selectors: &self.selectors,
            steps: if self.steps == 0 {
                u32::MAX
            } else {
                self.steps
            },
        };
        match allocate(known, site, &wanted) {
            Ok(None) => Err("not enough".to_owned()),
            Err(fault) => Err(format!("{fault:?}")),
            Ok(Some(found)) => wanted
                .iter()
                .zip(&found)
                .map(|(wanted, found)| result::allocation(wanted, found, "n"))
                .collect(),
        }
    }

    fn give_away(&mut self, result: Value) {
        let mut result = result;
        result["driver"] = "d".into();
        result["pool"] = "p".into();
        result["request"] = "r".into();
        let allocation = serde_json::from_value(json!({"devices": {"results": [result]}})).unwrap();
        self.allocated.add(&allocation);
    }
}

fn three() -> Offer {
    Offer::of([slice(
        "s",
        json!({"devices": [
            {"name": "x", "attributes": {"model": {"string": "a"}}},
            {"name": "y", "attributes": {"model": {"string": "b"}}},
            {"name": "z", "attributes": {"model": {"string": "b"}}},
        ]}),
    )])
}

fn texts(all: &[&[&str]]) -> Vec<Vec<String>> {
    all.iter()
        .map(|one| one.iter().map(|text| (*text).to_owned()).collect())
        .collect()
}

#[test]
fn the_first_way_that_works_is_taken() {
    let offer = three();
    for (requests, expected) in [
        (json!([exactly("r", json!({}))]), Ok(texts(&[&["r x"]]))),
        (json!([exactly("r", json!({"count": 2}))]), Ok(texts(&[&["r x", "r y"]]))),
        (json!([exactly("r", json!({"count": 4}))]), Err("not enough".to_owned())),
        (json!([exactly("r", json!({"selectors": model("b")}))]), Ok(texts(&[&["r y"]]))),
        (
            json!([exactly("r", json!({"allocationMode": "All", "count": null, "selectors": model("b")}))]),
            Ok(texts(&[&["r y", "r z"]])),
        ),
        // The first request has to leave the only device that does for the second.
        (
            json!([exactly("r", json!({})), exactly("q", json!({"selectors": model("a")}))]),
            Ok(texts(&[&["r y", "q x"]])),
        ),
        (
            json!([{"name": "r", "firstAvailable": [
                {"name": "best", "deviceClassName": "any", "selectors": model("c")},
                {"name": "good", "deviceClassName": "any", "selectors": model("b"), "count": 2}]}]),
            Ok(texts(&[&["r/good y", "r/good z"]])),
        ),
        (json!([exactly("r", json!({"deviceClassName": "none"}))]),
            Err("claim a/c, request r: could not retrieve device class none: deviceclass.resource.k8s.io \"none\" not found".to_owned())),
        (json!([exactly("r", json!({"count": 33}))]),
            Err("Broken(\"claim a/c: number of requested devices 33 exceeds the claim limit of 32\")".to_owned())),
        (json!([exactly("r", json!({"selectors": [{"cel": {"expression": "device.attributes['d'].nothing"}}]}))]),
            Err("Broken(\"claim a/c: selector #0: CEL runtime error: no such key: nothing\")".to_owned())),
    ] {
        let claims = [claim("c", json!({"requests": requests.clone()}))];
        assert_eq!(offer.gives(&claims), expected, "{requests}");
    }
}

#[test]
fn what_others_have_is_not_given_but_may_be_looked_at() {
    let mut offer = three();
    offer.give_away(json!({"device": "x"}));
    offer.give_away(json!({"device": "y", "adminAccess": true}));
    let one = |extra: Value| [claim("c", json!({"requests": [exactly("r", extra)]}))];
    assert_eq!(offer.gives(&one(json!({}))), Ok(texts(&[&["r y"]])));
    assert_eq!(
        offer.gives(&one(json!({"adminAccess": true}))),
        Ok(texts(&[&["r x"]]))
    );
    let all = json!({"adminAccess": true, "allocationMode": "All", "count": null});
    assert_eq!(offer.gives(&one(all)), Ok(texts(&[&["r x", "r y", "r z"]])));
    let all = json!({"allocationMode": "All", "count": null});
    assert_eq!(offer.gives(&one(all)), Err("not enough".to_owned()));
}

#[test]
fn constraints_hold_between_the_devices_of_a_claim() {
    let offer = three();
    for (constraint, count, expected) in [
        ("matchAttribute", 2, Ok(texts(&[&["r y", "r z"]]))),
        ("distinctAttribute", 2, Ok(texts(&[&["r x", "r y"]]))),
        ("distinctAttribute", 3, Err("not enough".to_owned())),
        ("matchAttribute", 3, Err("not enough".to_owned())),
    ] {
        let devices = json!({"requests": [exactly("r", json!({"count": count}))],
            "constraints": [{constraint: "d/model"}]});
        assert_eq!(
            offer.gives(&[claim("c", devices)]),
            expected,
            "{constraint} {count}"
        );
    }
    let devices = json!({"requests": [exactly("r", json!({"allocationMode": "All", "count": null}))],
        "constraints": [{"matchAttribute": "d/model"}]});
    let why = "Broken(\"claim a/c, request r: cannot add device d/p/y because a claim constraint would not be satisfied\")";
    assert_eq!(offer.gives(&[claim("c", devices)]), Err(why.to_owned()));
}

#[test]
fn pools_have_to_be_whole_and_of_one_generation() {
    let part = |name: &str, generation: i64, count: i64, device: &str| {
        slice(
            name,
            json!({"pool": {"name": "p", "generation": generation, "resourceSliceCount": count},
            "devices": [{"name": device}]}),
        )
    };
    let one = [claim("c", json!({"requests": [exactly("r", json!({}))]}))];
    let all = [claim(
        "c",
        json!({"requests": [exactly("r", json!({"allocationMode": "All", "count": null}))]}),
    )];
    let missing = Offer::of([part("a", 1, 2, "x")]);
    assert_eq!(missing.gives(&one), Err("not enough".to_owned()));
    let why = "Broken(\"claim a/c, request r: asks for all devices, but resource pool d/p is currently being updated\")";
    assert_eq!(missing.gives(&all), Err(why.to_owned()));
    let renewed = Offer::of([part("a", 1, 1, "x"), part("b", 2, 1, "y")]);
    assert_eq!(renewed.gives(&one), Ok(texts(&[&["r y"]])));
    let twice = Offer::of([part("a", 1, 2, "x"), part("b", 1, 2, "x")]);
    let why = "Here(\"invalid resource pools were encountered\")";
    assert_eq!(twice.gives(&one), Err(why.to_owned()));
}

#[test]
fn nodes_reach_what_is_theirs() {
    let elsewhere = Offer::of([slice(
        "a",
        json!({"allNodes": null, "nodeName": "m", "devices": [{"name": "x"}]}),
    )]);
    let one = [claim("c", json!({"requests": [exactly("r", json!({}))]}))];
    assert_eq!(elsewhere.gives(&one), Err("not enough".to_owned()));
    let each = Offer::of([slice(
        "a",
        json!({"allNodes": null, "perDeviceNodeSelection": true, "devices": [
        {"name": "x", "nodeName": "m"}, {"name": "y", "nodeName": "n"}, {"name": "z", "allNodes": true}]}),
    )]);
    assert_eq!(each.gives(&one), Ok(texts(&[&["r y"]])));
    let bound = each.results(&one).unwrap().remove(0);
    let fields = bound
        .node_selector
        .unwrap()
        .node_selector_terms
        .remove(0)
        .match_fields
        .unwrap();
    assert_eq!(
        (fields[0].key.as_str(), fields[0].values.clone()),
        ("metadata.name", Some(vec!["n".to_owned()]))
    );
    assert_eq!(three().results(&one).unwrap().remove(0).node_selector, None);
}

#[test]
fn shared_counters_are_not_exceeded() {
    let uses =
        |amount: &str| json!([{"counterSet": "set", "counters": {"memory": {"value": amount}}}]);
    let mut offer = Offer::of([
        slice(
            "a",
            json!({"pool": {"name": "p", "generation": 1, "resourceSliceCount": 2}, "sharedCounters": [
            {"name": "set", "counters": {"memory": {"value": "80Gi"}}}]}),
        ),
        slice(
            "b",
            json!({"pool": {"name": "p", "generation": 1, "resourceSliceCount": 2}, "devices": [
            {"name": "whole", "consumesCounters": uses("80Gi")},
            {"name": "half-0", "consumesCounters": uses("40Gi")},
            {"name": "half-1", "consumesCounters": uses("40Gi")}]}),
        ),
    ]);
    let want = |count: i64| {
        [claim(
            "c",
            json!({"requests": [exactly("r", json!({"count": count}))]}),
        )]
    };
    assert_eq!(offer.gives(&want(1)), Ok(texts(&[&["r whole"]])));
    assert_eq!(
        offer.gives(&want(2)),
        Ok(texts(&[&["r half-0", "r half-1"]]))
    );
    assert_eq!(offer.gives(&want(3)), Err("not enough".to_owned()));
    offer.give_away(json!({"device": "half-1"}));
    assert_eq!(offer.gives(&want(1)), Ok(texts(&[&["r half-0"]])));
}

#[test]
fn devices_for_many_give_their_capacity_away() {
    let mut offer = Offer::of([slice(
        "a",
        json!({"devices": [{"name": "x", "allowMultipleAllocations": true,
        "capacity": {"memory": {"value": "10Gi", "requestPolicy": {"default": "1Gi"}}}}]}),
    )]);
    let want = |amount: &str| {
        [claim(
            "c",
            json!({"requests": [
            exactly("r", json!({"capacity": {"requests": {"memory": amount}}})), exactly("q", json!({}))]}),
        )]
    };
    let found = offer
        .results(&want("9Gi"))
        .unwrap()
        .remove(0)
        .devices
        .unwrap()
        .results
        .unwrap();
    let shares: Vec<_> = found
        .iter()
        .map(|one| {
            (
                one.consumed_capacity.as_ref().unwrap()["memory"].0.as_str(),
                one.share_id.is_some(),
            )
        })
        .collect();
    assert_eq!(shares, [("9Gi", true), ("1Gi", true)]);
    assert_eq!(offer.gives(&want("10Gi")), Err("not enough".to_owned()));
    offer.give_away(json!({"device": "x", "shareID": "s", "consumedCapacity": {"memory": "2Gi"}}));
    assert_eq!(offer.gives(&want("8Gi")), Err("not enough".to_owned()));
    assert_eq!(offer.gives(&want("7Gi")), Ok(texts(&[&["r x", "q x"]])));
}

#[test]
fn tainted_devices_are_for_those_who_bear_it() {
    let offer = Offer::of([slice(
        "a",
        json!({"devices": [
        {"name": "x", "taints": [{"key": "k", "effect": "NoExecute"}]},
        {"name": "y", "taints": [{"key": "k", "effect": "None"}]}]}),
    )]);
    let want = |extra: Value| [claim("c", json!({"requests": [exactly("r", extra)]}))];
    assert_eq!(offer.gives(&want(json!({}))), Ok(texts(&[&["r y"]])));
    let bearing = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    assert_eq!(offer.gives(&want(bearing)), Ok(texts(&[&["r x"]])));
}

#[test]
fn settings_go_along() {
    let opaque = |by: &str| json!({"driver": "d", "parameters": {"by": by}});
    let devices = json!({"requests": [exactly("r", json!({})), exactly("q", json!({}))], "config": [
        {"requests": ["q"], "opaque": opaque("one")}, {"opaque": opaque("all")}]});
    let found = three().results(&[claim("c", devices)]).unwrap().remove(0);
    let config = found.devices.unwrap().config.unwrap();
    let seen: Vec<_> = config
        .iter()
        .map(|one| {
            (
                one.source.as_str(),
                one.requests.clone().unwrap_or_default().join(" "),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("FromClass", "r q".to_owned()),
            ("FromClaim", "q".to_owned()),
            ("FromClaim", String::new())
        ]
    );
}

/// A small case: devices (model, counters taken, tainted, given), requests (model or any, how many or all, bears taints) by
/// claim, and whether each claim's devices are to be of one model.
type SmallDevice = (u8, i64, bool, bool);
type SmallRequest = (Option<u8>, Option<usize>, bool);

#[derive(Clone, Debug)]
struct Small {
    counters: i64,
    devices: Vec<SmallDevice>,
    claims: Vec<(Vec<SmallRequest>, bool)>,
}

fn small() -> impl Strategy<Value = Small> {
    let device = (
        0..2_u8,
        0..3_i64,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    let request = (
        prop::option::of(0..2_u8),
        prop::option::weighted(0.85, 1..3_usize),
        any::<bool>(),
    );
    let claim = (prop::collection::vec(request, 1..3), any::<bool>());
    (
        0..6_i64,
        prop::collection::vec(device, 0..5),
        prop::collection::vec(claim, 1..3),
    )
        .prop_map(|(counters, devices, claims)| Small {
            counters,
            devices,
            claims,
        })
}

impl Small {
    fn offer(&self) -> Offer {
        let devices: Vec<Value> = self
            .devices
            .iter()
            .enumerate()
            .map(|(number, (model, takes, tainted, _))| {
                let mut device = json!({"name": format!("x{number}"),
                    "attributes": {"model": {"string": model.to_string()}},
                    "consumesCounters": [{"counterSet": "s", "counters": {"c": {"value": takes.to_string()}}}]});
                if *tainted {
                    device["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
                }
                device
            })
            .collect();
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
        let counters =
            json!([{"name": "s", "counters": {"c": {"value": self.counters.to_string()}}}]);
        let mut offer = Offer::of([
            slice("a", json!({"pool": pool, "sharedCounters": counters})),
            slice("b", json!({"pool": pool, "devices": devices})),
        ]);
        for (number, (_, _, _, given)) in self.devices.iter().enumerate() {
            if *given {
                offer.give_away(json!({"device": format!("x{number}")}));
            }
        }
        offer
    }

    fn claims(&self) -> Vec<ResourceClaim> {
        let claims = self.claims.iter().map(|(requests, alike)| {
            let requests: Vec<Value> = requests
                .iter()
                .enumerate()
                .map(|(number, (wanted, count, bears))| {
                    let mut extra = json!({});
                    if let Some(wanted) = wanted {
                        extra["selectors"] = model(&wanted.to_string());
                    }
                    if *bears {
                        extra["tolerations"] = json!([{"operator": "Exists"}]);
                    }
                    match count {
                        Some(count) => extra["count"] = (*count).into(),
                        None => {
                            extra["allocationMode"] = "All".into();
                            extra["count"] = Value::Null;
                        }
                    }
                    exactly(&format!("r{number}"), extra)
                })
                .collect();
            let mut devices = json!({"requests": requests});
            if *alike {
                devices["constraints"] = json!([{"matchAttribute": "d/model"}]);
            }
            claim("c", devices)
        });
        claims.collect()
    }

    fn flat(&self) -> Vec<(usize, SmallRequest)> {
        let claims = self.claims.iter().enumerate();
        claims
            .flat_map(|(claim, (requests, _))| requests.iter().map(move |one| (claim, *one)))
            .collect()
    }

    /// Whether it is right that each device goes to the request whose number it has here.
    fn is_right(&self, given: &[Option<usize>]) -> bool {
        let flat = self.flat();
        let mut counters: i64 = self.counters;
        let mut models: Vec<BTreeSet<u8>> = vec![BTreeSet::new(); self.claims.len()];
        for (device, to) in self.devices.iter().zip(given) {
            if device.3 || to.is_some() {
                counters -= device.1;
            }
            let Some(to) = to else { continue };
            let (claim, (wanted, _, bears)) = flat[*to];
            if device.3 || wanted.is_some_and(|wanted| wanted != device.0) || (device.2 && !bears) {
                return false;
            }
            models[claim].insert(device.0);
        }
        let counts = flat
            .iter()
            .enumerate()
            .all(|(number, (_, (wanted, count, _)))| {
                let got = given.iter().filter(|to| **to == Some(number)).count();
                let all = self
                    .devices
                    .iter()
                    .filter(|device| wanted.is_none_or(|wanted| wanted == device.0))
                    .count();
                got == count.unwrap_or(all) && got > 0
            });
        // Counters matter only to what is given anew.
        let drawn = self
            .devices
            .iter()
            .zip(given)
            .any(|(device, to)| to.is_some() && device.1 > 0);
        let alike = self
            .claims
            .iter()
            .zip(&models)
            .all(|((_, alike), models)| !alike || models.len() <= 1);
        counts && alike && (counters >= 0 || !drawn)
    }

    fn any_way(&self) -> bool {
        let choices = self.flat().len() + 1;
        let all = choices.pow(u32::try_from(self.devices.len()).unwrap());
        (0..all).any(|mut code| {
            let given: Vec<Option<usize>> = self
                .devices
                .iter()
                .map(|_| {
                    let choice = code % choices;
                    code /= choices;
                    choice.checked_sub(1)
                })
                .collect();
            self.is_right(&given)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn finds_a_way_when_there_is_one_and_only_right_ones(small in small()) {
        let claims = small.claims();
        match small.offer().gives(&claims) {
            Err(_) => prop_assert!(!small.any_way(), "a way was missed"),
            Ok(found) => {
                let mut given = vec![None; small.devices.len()];
                let mut before = 0;
                for (got, (requests, _)) in found.iter().zip(&small.claims) {
                    for text in got {
                        let (request, device) = text.split_once(' ').unwrap();
                        let device: usize = device[1..].parse().unwrap();
                        prop_assert!(given[device].is_none(), "x{} was given twice", device);
                        given[device] = Some(before + request[1..].parse::<usize>().unwrap());
                    }
                    before += requests.len();
                }
                prop_assert!(small.is_right(&given), "{found:?}");
            }
        }
    }
}
