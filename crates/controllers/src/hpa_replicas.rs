//! How many replicas a metric asks for. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use skiff_api::validation::quantity::Amount;

use crate::pods;
use crate::seen_pod::Pod;

/// A pod that was started less than this ago may need more CPU than it will.
const WARM_UP: SignedDuration = SignedDuration::from_mins(5);
/// A pod that was unready since at most this long after its start has never been ready.
const FIRST_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What was measured of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// In thousandths.
    pub value: i64,
    pub at: Timestamp,
    /// Over which time.
    pub window: SignedDuration,
}

/// What was measured, by the names of pods.
pub(crate) type Readings = BTreeMap<String, Reading>;

/// How far off the target is near enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    fn allow(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub replicas: i32,
    /// The average (or all, where the target is for all), in thousandths.
    pub usage: i64,
    /// Percent of what was requested.
    pub utilization: Option<i32>,
}

/// What a target is for.
pub(crate) struct Question<'a> {
    pub pods: &'a [Arc<Pod>],
    pub current: i32,
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

fn up(number: f64) -> i32 {
    number.ceil() as i32
}

fn float(number: i64) -> f64 {
    number as f64
}

fn average(readings: &Readings) -> i64 {
    let total: i64 = readings.values().map(|reading| reading.value).sum();
    total
        .checked_div(i64::try_from(readings.len()).unwrap_or(i64::MAX))
        .unwrap_or(0)
}

/// Pods sorted by what their readings are worth.
#[derive(Default)]
struct Groups {
    ready: i32,
    /// Not started, or not warm.
    unready: Vec<String>,
    /// They should have readings and have none.
    missing: Vec<String>,
    /// Failed, or on their way out.
    ignored: Vec<String>,
}

fn is_cold(pod: &Pod, reading: &Reading, now: Timestamp) -> bool {
    let start = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(start)) = (pods::condition(pod, "Ready"), start) else {
        return true;
    };
    let unready = ready.status == "False";
    let since = ready.last_transition_time.as_ref().map(|time| time.0);
    let since = since.unwrap_or_default();
    let age = now.duration_since(start.0);
    if age < WARM_UP {
        unready || reading.at.duration_since(since) < reading.window
    } else {
        unready && since.duration_since(start.0) < FIRST_READINESS
    }
}

fn group(question: &Question, readings: &Readings, resource: &str) -> Groups {
    let mut groups = Groups::default();
    for pod in question.pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pods::is_deleting(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.push(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.push(name);
        } else if let Some(reading) = readings.get(&name) {
            if resource == "cpu" && is_cold(pod, reading, question.now) {
                groups.unready.push(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.push(name);
        }
    }
    groups
}

/// How the readings relate to a target, and what to show of them.
struct Relation {
    ratio: f64,
    usage: i64,
    utilization: Option<i32>,
}

/// The rules that all metrics of pods share. `relate` relates readings to the target; `full` is what a pod
/// is taken to use whose reading is missing when there is less than wanted.
fn propose(
    question: &Question,
    mut readings: Readings,
    resource: &str,
    relate: &dyn Fn(&Readings) -> Result<Relation, String>,
    full: &dyn Fn(&str) -> i64,
) -> Result<Proposal, String> {
    if question.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(question, &readings, resource);
    for name in groups.ignored.iter().chain(&groups.unready) {
        readings.remove(name);
    }
    if readings.is_empty() {
        let why = "did not receive metrics for targeted pods (pods might be unready)";
        return Err(why.to_owned());
    }
    let Relation {
        ratio,
        usage,
        utilization,
    } = relate(&readings)?;
    let answer = |replicas| {
        Ok(Proposal {
            replicas,
            usage,
            utilization,
        })
    };
    let count_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !count_unready && groups.missing.is_empty() {
        return answer(if question.tolerances.allow(ratio) {
            question.current
        } else {
            up(ratio * f64::from(groups.ready))
        });
    }
    let mut assume = |names: &[String], value: &dyn Fn(&str) -> i64| {
        for name in names {
            let reading = Reading {
                value: value(name),
                at: question.now,
                window: SignedDuration::ZERO,
            };
            readings.insert(name.clone(), reading);
        }
    };
    // What is not known speaks against a change.
    if ratio < 1.0 {
        assume(&groups.missing, full);
    } else if ratio > 1.0 {
        assume(&groups.missing, &|_| 0);
    }
    if count_unready {
        assume(&groups.unready, &|_| 0);
    }
    let new = relate(&readings)?.ratio;
    let turned = (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0);
    if question.tolerances.allow(new) || turned {
        return answer(question.current);
    }
    let count = i32::try_from(readings.len()).unwrap_or(i32::MAX);
    let replicas = up(new * f64::from(count));
    let backwards =
        (new < 1.0 && replicas > question.current) || (new > 1.0 && replicas < question.current);
    answer(if backwards {
        question.current
    } else {
        replicas
    })
}

/// By how many percent of what was requested is used.
pub(crate) fn by_utilization(
    question: &Question,
    readings: Readings,
    resource: &str,
    container: Option<&str>,
    target: i32,
) -> Result<Proposal, String> {
    if question.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let requests = requests(question.pods, resource, container);
    let known = |requests: &Result<BTreeMap<String, i64>, String>| requests.clone();
    let relate = |readings: &Readings| {
        let requests = known(&requests)?;
        let (mut used, mut requested, mut count) = (0_i64, 0_i64, 0_i64);
        for (name, reading) in readings {
            if let Some(request) = requests.get(name) {
                used = used.saturating_add(reading.value);
                requested = requested.saturating_add(*request);
                count += 1;
            }
        }
        let percent = used.saturating_mul(100).checked_div(requested);
        let percent = percent.ok_or("no metrics returned matched known pods")?;
        let percent = i32::try_from(percent).unwrap_or(i32::MAX);
        Ok(Relation {
            ratio: f64::from(percent) / f64::from(target),
            usage: used.checked_div(count).unwrap_or(0),
            utilization: Some(percent),
        })
    };
    let full = |name: &str| {
        let request = requests.as_ref().ok().and_then(|all| all.get(name));
        request
            .copied()
            .unwrap_or(0)
            .saturating_mul(i64::from(target.max(100)))
            / 100
    };
    propose(question, readings, resource, &relate, &full)
}

/// By the average over the pods.
pub(crate) fn by_average(
    question: &Question,
    readings: Readings,
    resource: &str,
    target: i64,
) -> Result<Proposal, String> {
    let relate = |readings: &Readings| {
        let usage = average(readings);
        Ok(Relation {
            ratio: float(usage) / float(target),
            usage,
            utilization: None,
        })
    };
    propose(question, readings, resource, &relate, &|_| target)
}

/// By one value for all.
pub(crate) fn by_value(question: &Question, usage: i64, target: i64) -> Result<Proposal, String> {
    let ratio = float(usage) / float(target);
    let replicas = if question.current == 0 {
        up(ratio)
    } else if question.tolerances.allow(ratio) {
        question.current
    } else {
        if question.pods.is_empty() {
            let why = "no pods returned by selector while calculating replica count";
            return Err(format!("unable to calculate ready pods: {why}"));
        }
        let running = |pod: &&Arc<Pod>| pods::phase(pod) == "Running" && pods::is_ready(pod);
        let ready = question.pods.iter().filter(running).count();
        up(ratio * f64::from(i32::try_from(ready).unwrap_or(i32::MAX)))
    };
    Ok(Proposal {
        replicas,
        usage,
        utilization: None,
    })
}

/// By one value for all, of which each replica takes a part; `replicas` is how many there are.
pub(crate) fn by_share(tolerances: Tolerances, replicas: i32, usage: i64, target: i64) -> Proposal {
    let ratio = float(usage) / (float(target) * f64::from(replicas));
    let wanted = if tolerances.allow(ratio) {
        replicas
    } else {
        up(float(usage) / float(target))
    };
    let share = match i64::from(replicas) {
        0 => i64::MAX,
        count => usage / count + i64::from(usage % count > 0),
    };
    Proposal {
        replicas: wanted,
        usage: share,
        utilization: None,
    }
}

/// What each pod requests, in thousandths.
fn requests(
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        requests.insert(name, request(pod, resource, container)?);
    }
    Ok(requests)
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return Ok(0) };
    let whole = spec
        .resources
        .as_ref()
        .and_then(|own| own.requests.as_ref());
    let of_pod = whole.filter(|_| container.is_none());
    if let Some(amount) = of_pod.and_then(|whole| whole.get(resource)) {
        return Ok(Amount::of(amount).milli_value());
    }
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let mut total = 0_i64;
    for found in spec.containers.iter().chain(sidecars) {
        if container.is_some_and(|wanted| wanted != found.name) {
            continue;
        }
        let requests = found
            .resources
            .as_ref()
            .and_then(|own| own.requests.as_ref());
        let Some(amount) = requests.and_then(|requests| requests.get(resource)) else {
            let container = &found.name;
            return Err(format!(
                "missing request for {resource} in container {container} of Pod {name}"
            ));
        };
        total = total.saturating_add(Amount::of(amount).milli_value());
        if container.is_some() {
            return Ok(total);
        }
    }
    match container {
        Some(container) => Err(format!("container {container} not found in Pod {name}")),
        None => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A pod that requests one CPU: `name`, or with flags `name pending`, `name unready`, `name failed`,
    /// `name young`.
    fn pod(text: &str) -> Arc<Pod> {
        let (name, flag) = text.split_once(' ').unwrap_or((text, ""));
        let phase = match flag {
            "pending" => "Pending",
            "failed" => "Failed",
            _ => "Running",
        };
        let (start, since) = match flag {
            "young" => (NOW - 60, NOW - 10),
            "unready" => (NOW - 3000, NOW - 2990),
            _ => (NOW - 3000, NOW - 2000),
        };
        let ready = if flag == "unready" { "False" } else { "True" };
        let time = |second| at(second).to_string();
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": time(start), "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": time(since)}]}}))
        .unwrap())
    }

    fn readings(values: &[(&str, i64)]) -> Readings {
        let reading = |value| Reading {
            value,
            at: at(NOW),
            window: SignedDuration::from_secs(30),
        };
        values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), reading(*value)))
            .collect()
    }

    const TENTH: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn asked(pods: &[&str], values: &[(&str, i64)], target: i32) -> Result<(i32, i32), String> {
        let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
        let question = Question {
            pods: &pods,
            current: i32::try_from(pods.len()).unwrap(),
            tolerances: TENTH,
            now: at(NOW),
        };
        by_utilization(&question, readings(values), "cpu", None, target)
            .map(|answer| (answer.replicas, answer.utilization.unwrap()))
    }

    #[test]
    fn utilization() {
        for (pods, values, expected) in [
            (&["a", "b"][..], &[("a", 500), ("b", 500)][..], (2, 50)),
            (&["a", "b"], &[("a", 540), ("b", 540)], (2, 54)),
            (&["a", "b"], &[("a", 800), ("b", 800)], (4, 80)),
            (
                &["a", "b", "c"],
                &[("a", 100), ("b", 100), ("c", 100)],
                (1, 10),
            ),
            // One that is not ready counts as idle before more are made.
            (&["a", "b pending"], &[("a", 1000)], (2, 100)),
            (&["a", "b unready"], &[("a", 1000), ("b", 900)], (2, 100)),
            (&["a", "b young"], &[("a", 2000), ("b", 900)], (4, 200)),
            // And is left out otherwise.
            (&["a", "b", "c pending"], &[("a", 100), ("b", 100)], (1, 10)),
            // One without a reading counts as busy before some are taken away.
            (&["a", "b", "c"], &[("a", 100), ("b", 100)], (3, 10)),
            (
                &["a", "b", "c", "d"],
                &[("a", 10), ("b", 10), ("c", 10)],
                (2, 1),
            ),
            // And as idle before more are made.
            (&["a", "b"], &[("a", 800)], (2, 80)),
            (&["a", "b failed"], &[("a", 1000), ("b", 9000)], (2, 100)),
        ] {
            assert_eq!(asked(pods, values, 50), Ok(expected), "{pods:?} {values:?}");
        }
        assert!(
            asked(&[], &[], 50)
                .unwrap_err()
                .starts_with("no pods returned")
        );
        assert!(
            asked(&["a"], &[], 50)
                .unwrap_err()
                .starts_with("did not receive metrics")
        );
        let bare: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}),
        )
        .unwrap();
        assert_eq!(
            request(&bare, "cpu", None).unwrap_err(),
            "missing request for cpu in container c of Pod p"
        );
        assert_eq!(
            request(&bare, "cpu", Some("x")).unwrap_err(),
            "container x not found in Pod p"
        );
    }

    #[test]
    fn values_and_shares() {
        let pods = [pod("a"), pod("b"), pod("c pending")];
        let question = |current| Question {
            pods: &pods,
            current,
            tolerances: TENTH,
            now: at(NOW),
        };
        let value = |current, usage| by_value(&question(current), usage, 1000).unwrap().replicas;
        assert_eq!((value(3, 1050), value(3, 3000), value(0, 2500)), (3, 6, 3));
        let share = |replicas, usage| {
            let proposal = by_share(TENTH, replicas, usage, 1000);
            (proposal.replicas, proposal.usage)
        };
        assert_eq!(share(2, 2100), (2, 1050));
        assert_eq!(share(2, 5001), (6, 2501));
        assert_eq!(share(3, 0), (0, 0));
        let asked = by_average(&question(3), readings(&[("a", 300), ("b", 500)]), "", 200);
        // 400 on average of two, and an idle third: 267.
        assert_eq!(asked.unwrap().replicas, 4);
    }

    proptest! {
        /// What is unknown never turns a change around, nor makes it larger than what is known would.
        #[test]
        fn the_unknown_is_careful(known in proptest::collection::vec(0_i64..3000, 1..6), unknown in 0_usize..4, target in 1..200) {
            let names: Vec<String> = (0..known.len() + unknown).map(|n| format!("p{n}")).collect();
            let values: Vec<_> = names.iter().map(String::as_str).zip(known.iter().copied()).collect();
            let all: Vec<_> = names.iter().map(String::as_str).collect();
            let current = i32::try_from(all.len()).unwrap();
            let (replicas, percent) = asked(&all, &values, target).unwrap();
            if f64::from(percent) > f64::from(target) {
                prop_assert!(replicas >= current);
            } else {
                prop_assert!(replicas <= current);
            }
        }
    }
}
