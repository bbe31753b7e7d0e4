//! Amounts that devices have and share: what a request takes of a device that several may use.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicyRange, CapacityRequirements, Device, DeviceCapacity,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::resources::thousandths;

/// An amount of each capacity, in thousandths.
pub type Amounts = BTreeMap<Box<str>, i128>;

/// What a request takes of each capacity of a device.
pub type Taken = BTreeMap<String, Quantity>;

/// The amount in thousandths.
#[must_use]
pub fn exact(quantity: &Quantity) -> i128 {
    thousandths(quantity).into()
}

fn whole(quantity: &Quantity) -> i128 {
    let amount = exact(quantity);
    amount / 1000 + i128::from(amount % 1000 > 0)
}

/// Text of a whole number, with the largest binary suffix that keeps it whole.
fn binary(number: i128) -> Quantity {
    let suffixes = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut rest, mut suffix) = (number, "");
    for next in suffixes {
        if rest == 0 || rest % 1024 != 0 {
            break;
        }
        rest /= 1024;
        suffix = next;
    }
    Quantity(format!("{rest}{suffix}"))
}

/// The next larger amount that a range allows.
fn rounded_up(requested: &Quantity, range: &CapacityRequestPolicyRange) -> Quantity {
    if exact(requested) < exact(&range.min) {
        return range.min.clone();
    }
    let Some(step) = range.step.as_ref().map(whole).filter(|step| *step > 0) else {
        return requested.clone();
    };
    let least = whole(&range.min);
    let over = whole(requested) - least;
    let steps = over / step + i128::from(over % step != 0);
    binary(least + step * steps)
}

/// What is taken of a capacity for which so much was asked, or nothing said.
fn taken_of(requested: Option<&Quantity>, capacity: &DeviceCapacity) -> Quantity {
    let policy = capacity.request_policy.as_ref();
    let Some(requested) = requested else {
        let default = policy.and_then(|policy| policy.default.as_ref());
        return default.unwrap_or(&capacity.value).clone();
    };
    let Some(policy) = policy else {
        return requested.clone();
    };
    if let Some(range) = &policy.valid_range {
        return rounded_up(requested, range);
    }
    let mut values = policy.valid_values.iter().flatten();
    let larger = values.find(|value| exact(requested) <= exact(value));
    larger.unwrap_or(requested).clone()
}

/// Whether a device never gives that much.
fn violates(taken: &Quantity, capacity: &DeviceCapacity) -> bool {
    let Some(policy) = &capacity.request_policy else {
        return false;
    };
    if policy.default.as_ref() == Some(taken) {
        return false;
    }
    if let Some(range) = &policy.valid_range {
        if range
            .max
            .as_ref()
            .is_some_and(|max| exact(taken) > exact(max))
        {
            return true;
        }
        let step = range.step.as_ref().map(whole).filter(|step| *step > 0);
        return step.is_some_and(|step| (whole(taken) - whole(&range.min)) % step != 0);
    }
    let mut values = policy.valid_values.iter().flatten().peekable();
    values.peek().is_some() && !values.any(|value| exact(value) == exact(taken))
}

/// What a request takes of a device.
#[must_use]
pub fn taken(requests: Option<&CapacityRequirements>, device: &Device) -> Taken {
    let requests = requests.and_then(|all| all.requests.as_ref());
    let all = device.capacity.iter().flatten();
    all.map(|(name, capacity)| {
        let requested = requests.and_then(|all| all.get(name));
        (name.clone(), taken_of(requested, capacity))
    })
    .collect()
}

/// Whether a device has as much as is asked for, beside what was given of it already.
#[must_use]
pub fn suffices(
    requests: Option<&CapacityRequirements>,
    device: &Device,
    given: &[Option<&Amounts>],
) -> bool {
    let mut asked = requests
        .and_then(|all| all.requests.as_ref())
        .into_iter()
        .flatten();
    let has = |name: &String| {
        device
            .capacity
            .as_ref()
            .is_some_and(|all| all.contains_key(name))
    };
    if !asked.all(|(name, _)| has(name)) {
        return false;
    }
    let taken = taken(requests, device);
    device.capacity.iter().flatten().all(|(name, capacity)| {
        let Some(own) = taken.get(name) else {
            return true;
        };
        let given = given
            .iter()
            .flatten()
            .filter_map(|all| all.get(name.as_str()));
        !violates(own, capacity) && exact(own) + given.sum::<i128>() <= exact(&capacity.value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn capacity(policy: Value) -> DeviceCapacity {
        serde_json::from_value(json!({"value": "80Gi", "requestPolicy": policy})).unwrap()
    }

    #[test]
    fn requests_are_rounded_to_what_is_given() {
        let range =
            json!({"default": "1Gi", "validRange": {"min": "2Gi", "step": "2Gi", "max": "10Gi"}});
        let values = json!({"default": "1Gi", "validValues": ["1Gi", "5Gi", "10Gi"]});
        for (policy, requested, expected, wrong) in [
            (&Value::Null, None, "80Gi", false),
            (&Value::Null, Some("3Gi"), "3Gi", false),
            (&range, None, "1Gi", false),
            (&range, Some("1Gi"), "2Gi", false),
            (&range, Some("3Gi"), "4Gi", false),
            (&range, Some("11Gi"), "12Gi", true),
            (&values, Some("2Gi"), "5Gi", false),
            (&values, Some("11Gi"), "11Gi", true),
        ] {
            let capacity = capacity(policy.clone());
            let requested = requested.map(|text| Quantity(text.to_owned()));
            let taken = taken_of(requested.as_ref(), &capacity);
            assert_eq!(
                (taken.0.as_str(), violates(&taken, &capacity)),
                (expected, wrong),
                "{policy} {requested:?}"
            );
        }
    }

    #[test]
    fn what_was_given_counts() {
        let device: Device =
            serde_json::from_value(json!({"name": "d", "capacity": {"memory": {"value": "10"}}}))
                .unwrap();
        let asks = |amounts: Value| -> CapacityRequirements {
            serde_json::from_value(json!({"requests": amounts})).unwrap()
        };
        let given = Amounts::from([("memory".into(), 6000)]);
        assert!(suffices(
            Some(&asks(json!({"memory": "4"}))),
            &device,
            &[Some(&given)]
        ));
        assert!(!suffices(
            Some(&asks(json!({"memory": "5"}))),
            &device,
            &[Some(&given)]
        ));
        assert!(!suffices(Some(&asks(json!({"cores": "1"}))), &device, &[]));
        assert!(!suffices(None, &device, &[Some(&given)]));
        assert!(suffices(None, &device, &[None]));
    }

    #[test]
    fn whole_numbers_get_binary_suffixes() {
        for (number, expected) in [(0, "0"), (3, "3"), (2048, "2Ki"), (5 << 30, "5Gi")] {
            assert_eq!(binary(number).0, expected);
        }
    }
}
