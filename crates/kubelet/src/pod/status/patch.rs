//! What to send to the API when a pod's status changed: a strategic merge patch of the difference.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use crate::pod::status::conditions::OWNED;

/// Lists that a strategic merge patch would merge by key although they are to be replaced.
const REPLACED: [&str; 2] = ["podIPs", "hostIPs"];

/// The patch that turns `old` into `new`, guarded by the pod's uid; `None` when they say the same.
#[must_use]
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut changes = Map::new();
    for (field, value) in &new {
        if old.get(field) == Some(value) {
            continue;
        }
        if field == "conditions" {
            let list = conditions(old.get(field), value);
            if !list.is_empty() {
                changes.insert(field.clone(), Value::Array(list));
            }
        } else if REPLACED.contains(&field.as_str()) {
            let mut list = vec![json!({"$patch": "replace"})];
            list.extend(value.as_array().into_iter().flatten().cloned());
            changes.insert(field.clone(), Value::Array(list));
        } else {
            changes.insert(field.clone(), value.clone());
        }
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        changes.insert(field.clone(), Value::Null);
    }
    if changes.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": uid}, "status": changes}))
}

/// The conditions that are new or differ, and those of ours that are gone.
fn conditions(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let old: &[Value] = old.and_then(Value::as_array).map_or(&[], Vec::as_slice);
    let new: &[Value] = new.as_array().map_or(&[], Vec::as_slice);
    let mut list: Vec<Value> = Vec::new();
    for condition in new {
        let before = old.iter().find(|o| o["type"] == condition["type"]);
        if before == Some(condition) {
            continue;
        }
        let mut condition = condition.clone();
        // A key that is not named stays as it was, so what is gone must be said.
        if let (Some(Value::Object(before)), Value::Object(now)) = (before, &mut condition) {
            for key in before.keys() {
                now.entry(key.clone()).or_insert(Value::Null);
            }
        }
        list.push(condition);
    }
    for before in old {
        let ours = before["type"].as_str().is_some_and(|t| OWNED.contains(&t));
        if ours && !new.iter().any(|n| n["type"] == before["type"]) {
            list.push(json!({"$patch": "delete", "type": before["type"]}));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodIP};

    fn status(ready: &str, reason: Option<&str>, ip: &str) -> PodStatus {
        PodStatus {
            phase: Some("Running".into()),
            pod_ips: Some(vec![PodIP { ip: ip.into() }]),
            conditions: Some(vec![
                PodCondition {
                    type_: "Ready".into(),
                    status: ready.into(),
                    reason: reason.map(Into::into),
                    ..Default::default()
                },
                PodCondition {
                    type_: "PodScheduled".into(),
                    status: "True".into(),
                    ..Default::default()
                },
            ]),
            ..Default::default()
        }
    }

    #[test]
    fn nothing_changed_sends_nothing() {
        let one = status("True", None, "a");
        assert_eq!(patch("u", &one, &one.clone()), None);
    }

    #[test]
    fn only_the_difference_is_sent() {
        let old = PodStatus {
            message: Some("m".into()),
            ..status("False", Some("x"), "a")
        };
        let sent = patch("u", &old, &status("True", None, "b")).unwrap();
        assert_eq!(
            sent,
            json!({"metadata": {"uid": "u"}, "status": {
                "message": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "b"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}],
            }})
        );
    }
}
