//! Amounts of resources as integers: what pods ask for and nodes have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a container that does not say what it needs is taken to use, when nodes are compared.
const UNSTATED_CPU: i64 = 100;
const UNSTATED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource. CPU is in thousandths, everything else in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// Everything else, sorted by name.
    pub others: Vec<(Box<str>, i64)>,
}

/// The most usual quantities: a whole number, in units, thousandths, `Ki`, `Mi` or `Gi`.
fn plain(text: &str) -> Option<i64> {
    let end = text
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at_checked(end)?;
    let number: i64 = digits.parse().ok()?;
    let factor = match suffix {
        "" => 1000,
        "m" => 1,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// The quantity in thousandths, rounded up; what cannot be read counts as 0.
#[must_use]
pub fn thousandths(quantity: &Quantity) -> i64 {
    let text = quantity.0.as_str();
    if let Some(amount) = plain(text) {
        return amount;
    }
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (base, exponent): (i128, i32) = match suffix {
        "" => (10, 0),
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        other => match other.strip_prefix(['e', 'E']).and_then(|e| e.parse().ok()) {
            Some(exponent) if (-18..=18).contains(&exponent) => (10, exponent),
            _ => return 0,
        },
    };
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.get(..fraction.len().min(9)).unwrap_or_default();
    let Ok(mantissa) = format!("0{whole}{fraction}").parse::<i128>() else {
        return 0;
    };
    let places = u32::try_from(fraction.len()).unwrap_or(0);
    let mut numerator = mantissa.saturating_mul(1000);
    let mut denominator = 10_i128.pow(places);
    let power = base.saturating_pow(exponent.unsigned_abs());
    if exponent < 0 {
        denominator = denominator.saturating_mul(power);
    } else {
        numerator = numerator.saturating_mul(power);
    }
    let amount = numerator.saturating_add(denominator - 1) / denominator;
    let amount = i64::try_from(amount).unwrap_or(i64::MAX);
    if negative { -amount } else { amount }
}

/// The quantity in units, rounded up.
#[must_use]
pub fn units(quantity: &Quantity) -> i64 {
    let amount = thousandths(quantity);
    amount / 1000 + i64::from(amount % 1000 > 0)
}

impl Resources {
    /// From a map as API objects have it. `pods` is left out: it is counted apart.
    #[must_use]
    pub fn from_map(map: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in map.into_iter().flatten() {
            match name.as_str() {
                "cpu" => resources.cpu = thousandths(quantity),
                "memory" => resources.memory = units(quantity),
                "ephemeral-storage" => resources.ephemeral = units(quantity),
                "pods" => {}
                _ => resources
                    .others
                    .push((name.as_str().into(), units(quantity))),
            }
        }
        resources
    }

    /// The amount of a resource that is neither CPU, memory nor storage.
    #[must_use]
    pub fn other(&self, name: &str) -> i64 {
        let found = self.others.iter().find(|(known, _)| &**known == name);
        found.map_or(0, |(_, amount)| *amount)
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.others {
            match self.others.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = with(*known, *amount),
                None => self.others.push((name.clone(), with(0, *amount))),
            }
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn at_least(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn set(&mut self, name: &str, amount: i64) {
        match self.others.iter_mut().find(|(known, _)| &**known == name) {
            Some((_, known)) => *known = amount,
            None => self.others.push((name.into(), amount)),
        }
    }

    /// The amount of a resource by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            other => self.other(other),
        }
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.cpu == 0 && self.memory == 0 && self.ephemeral == 0 && self.others.is_empty()
    }
}

/// What a pod needs: its containers and sidecars at the same time, or a step of its initialisation if
/// that takes more, and its overhead. Amounts stated for the whole pod come first. `status` is that of a
/// running pod: while it is resized the larger of what it asks for and what it has counts.
#[must_use]
pub fn requests(spec: &PodSpec, status: Option<&PodStatus>) -> Resources {
    total(spec, &|container| {
        let mut own = stated(container);
        if let Some(status) = status {
            own.at_least(&allocated(container, status));
        }
        own
    })
}

/// CPU and memory that a pod is taken to use when nodes are compared: something for each container, even if
/// nothing is stated.
#[must_use]
pub fn compared(spec: &PodSpec, status: Option<&PodStatus>) -> (i64, i64) {
    let all = total(spec, &|container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|all| all.requests.as_ref());
        let states = |name: &str| requests.is_some_and(|all| all.contains_key(name));
        let mut own = stated(container);
        if let Some(status) = status {
            own.at_least(&allocated(container, status));
        }
        if !states("cpu") {
            own.cpu = UNSTATED_CPU;
        }
        if !states("memory") {
            own.memory = UNSTATED_MEMORY;
        }
        own
    });
    (all.cpu, all.memory)
}

fn stated(container: &Container) -> Resources {
    let all = container.resources.as_ref();
    Resources::from_map(all.and_then(|all| all.requests.as_ref()))
}

fn allocated(container: &Container, status: &PodStatus) -> Resources {
    let all = status.container_statuses.iter().flatten();
    let all = all.chain(status.init_container_statuses.iter().flatten());
    let Some(own) = all.into_iter().find(|found| found.name == container.name) else {
        return Resources::default();
    };
    let mut amounts = Resources::from_map(own.allocated_resources.as_ref());
    let actual = own.resources.as_ref();
    amounts.at_least(&Resources::from_map(
        actual.and_then(|all| all.requests.as_ref()),
    ));
    amounts
}

fn total(spec: &PodSpec, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers
        .iter()
        .for_each(|container| running.add(&of(container)));
    if let Some(init) = spec.init_containers.as_ref().filter(|all| !all.is_empty()) {
        let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
        for container in init {
            let own = of(container);
            let mut step = sidecars.clone();
            step.add(&own);
            starting.at_least(&step);
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&own);
            }
        }
        running.add(&sidecars);
        running.at_least(&starting);
    }
    let whole = spec
        .resources
        .as_ref()
        .and_then(|all| all.requests.as_ref());
    if let Some(whole) = whole {
        let amounts = Resources::from_map(Some(whole));
        for name in whole.keys() {
            match name.as_str() {
                "cpu" => running.cpu = amounts.cpu,
                "memory" => running.memory = amounts.memory,
                other if other.starts_with("hugepages-") => {
                    running.set(other, amounts.other(other))
                }
                _ => {}
            }
        }
    }
    if spec.overhead.is_some() {
        running.add(&Resources::from_map(spec.overhead.as_ref()));
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("1", 1000),
            ("100m", 100),
            ("0.1", 100),
            ("1.5Gi", 1_610_612_736_000),
            ("1k", 1_000_000),
            ("2e3", 2_000_000),
            ("1n", 1),
            ("0", 0),
            ("-1", -1000),
            ("junk", 0),
            ("99999999999999E", i64::MAX),
        ] {
            assert_eq!(thousandths(&Quantity(text.into())), expected, "{text}");
        }
    }

    #[test]
    fn the_larger_of_starting_and_running_counts() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let spec = serde_json::from_value(json!({
            "containers": [container("200m"), container("300m")],
            "initContainers": [container("550m"), sidecar, container("520m")],
            "overhead": {"cpu": "5m"},
        }))
        .unwrap();
        // Running takes 200 + 300 + 100; the last step of the start 100 + 520.
        assert_eq!(requests(&spec, None).cpu, 625);
    }

    #[test]
    fn the_whole_pods_statement_comes_first() {
        let spec = serde_json::from_value(json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
            "resources": {"requests": {"cpu": "250m", "hugepages-2Mi": "4Mi"}},
            "overhead": {"memory": "1Mi"},
        }))
        .unwrap();
        let all = requests(&spec, None);
        assert_eq!((all.cpu, all.memory), (250, 1025 << 20));
        assert_eq!(all.get("hugepages-2Mi"), 4 << 20);
    }

    #[test]
    fn each_silent_container_is_taken_to_use_something() {
        let spec = serde_json::from_value(json!({"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "0"}}}]}))
        .unwrap();
        assert_eq!(requests(&spec, None), Resources::default());
        assert_eq!(compared(&spec, None), (100, 400 << 20));
    }

    #[test]
    fn a_pod_that_is_being_shrunk_still_has_what_it_had() {
        let spec = serde_json::from_value(
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
        )
        .unwrap();
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [
            {"name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
             "allocatedResources": {"cpu": "3"}, "resources": {"requests": {"cpu": "2"}}}]}))
        .unwrap();
        assert_eq!(requests(&spec, Some(&status)).cpu, 3000);
    }
}
