//! RuntimeClasses.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::api::node::v1::RuntimeClass;

use super::absent::items;
use super::core::pod::PodRules;
use super::core::pod::scheduling::tolerations;
use super::core::resources::{Level, ResourceRules, requirements};
use super::values::{all_invalid, immutable, json};
use super::{meta, names};
use crate::field::{ErrorList, FieldError, Path};

/// What is wrong with a new RuntimeClass, its metadata aside.
#[must_use]
pub fn validate_runtime_class(class: &RuntimeClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("handler");
    if class.handler.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        let wrong = names::dns_label(&class.handler);
        all_invalid(&mut errors, &path, &class.handler, wrong);
    }
    if let Some(overhead) = &class.overhead {
        let resources = ResourceRequirements {
            limits: overhead.pod_fixed.clone(),
            ..ResourceRequirements::default()
        };
        let rules = ResourceRules {
            level: Level::Container,
            allow_partial_pages: false,
            pod_claims: &BTreeSet::new(),
        };
        requirements(&mut errors, &resources, rules, &Path::new("overhead"));
    }
    if let Some(scheduling) = &class.scheduling {
        let path = Path::new("scheduling");
        let selector_path = path.child("nodeSelector");
        meta::labels(&mut errors, &scheduling.node_selector, &selector_path);
        let path = path.child("tolerations");
        let list = items(&scheduling.tolerations);
        tolerations(&mut errors, list, &PodRules::default(), &path);
        for (index, toleration) in list.iter().enumerate() {
            let mut same = list.iter().take(index);
            let key = |of: &k8s_openapi::api::core::v1::Toleration| {
                let mut key = of.clone();
                key.toleration_seconds = None;
                key
            };
            if same.any(|other| key(other) == key(toleration)) {
                errors.push(FieldError::duplicate(&path.index(index), json(toleration)));
            }
        }
    }
    errors
}

/// What is wrong with a changed RuntimeClass, its metadata aside: the handler stays.
#[must_use]
pub fn validate_runtime_class_update(new: &RuntimeClass, old: &RuntimeClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let (new, old) = (&new.handler, &old.handler);
    immutable(&mut errors, &Path::new("handler"), new, old, new);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let class =
            |value: serde_json::Value| -> RuntimeClass { serde_json::from_value(value).unwrap() };
        let texts = |errors: &ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        let good = class(
            json!({"handler": "vm", "overhead": {"podFixed": {"cpu": "1"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]}}),
        );
        assert_eq!(texts(&validate_runtime_class(&good)), [""; 0]);
        let bad = class(
            json!({"handler": "", "overhead": {"podFixed": {"cpu": "-1"}},
            "scheduling": {"tolerations": [{"operator": "Exists"}, {"operator": "Exists"}]}}),
        );
        assert_eq!(
            texts(&validate_runtime_class(&bad)),
            [
                "handler: Required value",
                "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "scheduling.tolerations[1]: Duplicate value: {\"operator\":\"Exists\"}",
            ]
        );
        assert_eq!(
            texts(&validate_runtime_class_update(&bad, &good)),
            ["handler: Invalid value: \"\": field is immutable"]
        );
    }
}
