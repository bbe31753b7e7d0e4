//! Devices that have to be made ready before a pod is bound: conditions that their drivers set in the claim.

use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceRequestAllocationResult, ResourceClaim,
};

fn results(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let devices = allocation.devices.iter();
    let results = devices.flat_map(|devices| devices.results.iter().flatten());
    results.filter(|result| {
        result
            .binding_conditions
            .as_ref()
            .is_some_and(|all| !all.is_empty())
    })
}

/// Whether any device has to be made ready.
#[must_use]
pub fn has_conditions(allocation: &AllocationResult) -> bool {
    results(allocation).next().is_some()
}

fn status_of<'a>(
    claim: &'a ResourceClaim,
    result: &DeviceRequestAllocationResult,
) -> Option<&'a AllocatedDeviceStatus> {
    let mut all = claim.status.as_ref()?.devices.iter().flatten();
    all.find(|status| {
        status.driver == result.driver
            && status.pool == result.pool
            && status.device == result.device
    })
}

/// Whether all devices of a claim are ready. An error if one will never be.
pub fn is_ready(claim: &ResourceClaim) -> Result<bool, String> {
    let Some(allocation) = super::allocation(claim) else {
        return Ok(false);
    };
    for result in results(allocation) {
        let Some(status) = status_of(claim, result) else {
            return Ok(false);
        };
        let holds = |name: &String| {
            let mut all = status.conditions.iter().flatten();
            all.find(|condition| condition.type_ == *name && condition.status == "True")
        };
        let mut failures = result.binding_failure_conditions.iter().flatten();
        if let Some(failed) = failures.find_map(holds) {
            return Err(format!(
                "device binding failed: claim={}, reason={}, message={:?}",
                claim.metadata.name.as_deref().unwrap_or_default(),
                failed.reason,
                failed.message
            ));
        }
        let mut needed = result.binding_conditions.iter().flatten();
        if !needed.all(|name| holds(name).is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many seconds a claim's devices still have to become ready; `None`: as long as they like. Times are in seconds.
#[must_use]
pub fn time_left(claim: &ResourceClaim, now: i64, timeout: u64) -> Option<u64> {
    let allocation = super::allocation(claim).filter(|found| has_conditions(found))?;
    let since = allocation.allocation_timestamp.as_ref()?.0.as_second();
    let timeout = i64::try_from(timeout).unwrap_or(i64::MAX);
    // The last second counts in full.
    let until = since.saturating_add(timeout).saturating_add(1);
    Some(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
}

/// Whether a claim's devices should be ready by now. Times are in seconds.
#[must_use]
pub fn is_timed_out(claim: &ResourceClaim, now: i64, timeout: u64) -> bool {
    time_left(claim, now, timeout) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(conditions: Value) -> ResourceClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c"}, "spec": {},
            "status": {
                "allocation": {
                    "allocationTimestamp": "2026-01-01T00:00:00Z",
                    "devices": {"results": [{"driver": "d", "pool": "p", "device": "x", "request": "r",
                        "bindingConditions": ["Ready"], "bindingFailureConditions": ["Broken"]}]},
                },
                "devices": conditions,
            },
        }))
        .unwrap()
    }

    fn with(kind: &str, status: &str) -> Value {
        json!([{"driver": "d", "pool": "p", "device": "x", "conditions": [
            {"type": kind, "status": status, "reason": "Why", "message": "so",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}]}])
    }

    #[test]
    fn conditions_are_waited_for() {
        assert_eq!(is_ready(&claim(json!([]))), Ok(false));
        assert_eq!(is_ready(&claim(with("Ready", "False"))), Ok(false));
        assert_eq!(is_ready(&claim(with("Ready", "True"))), Ok(true));
        let why = "device binding failed: claim=c, reason=Why, message=\"so\"";
        assert_eq!(
            is_ready(&claim(with("Broken", "True"))),
            Err(why.to_owned())
        );
    }

    #[test]
    fn not_for_ever() {
        let since = 1_767_225_600;
        let claim = claim(json!([]));
        for (passed, left) in [(0, 601), (600, 1), (601, 0), (700, 0)] {
            assert_eq!(time_left(&claim, since + passed, 600), Some(left));
            assert_eq!(is_timed_out(&claim, since + passed, 600), left == 0);
        }
        assert_eq!(time_left(&ResourceClaim::default(), since, 600), None);
    }
}
