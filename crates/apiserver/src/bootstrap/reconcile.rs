//! Keeps the bootstrap RBAC policy: what is missing of a role or binding that exists is added, nothing is taken away.

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use crate::authz::rbac::uncovered;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What becomes of a bootstrap object that exists already.
#[derive(Clone, Debug, PartialEq)]
pub enum Reconciled {
    /// It has all that it needs, or its owner does not want it kept.
    Keep,
    /// It is replaced with this.
    Update(Value),
    /// It is a binding of another role: deleted, and made anew.
    Recreate,
}

/// Compares an object as it is with the one that the server starts with. Kinds other than RBAC's are kept as they are.
#[must_use]
pub fn reconcile(existing: &Value, wanted: &Value) -> Reconciled {
    let rbac = wanted["apiVersion"] == "rbac.authorization.k8s.io/v1";
    if !rbac || existing["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return Reconciled::Keep;
    }
    if !existing["roleRef"].is_null() && existing["roleRef"] != wanted["roleRef"] {
        return Reconciled::Recreate;
    }
    let mut updated = existing.clone();
    for part in ["labels", "annotations"] {
        let Some(entries) = wanted["metadata"][part].as_object() else {
            continue;
        };
        for (key, value) in entries {
            // What the owner has set stays.
            if updated["metadata"][part][key].is_null() {
                updated["metadata"][part][key] = value.clone();
            }
        }
    }
    match wanted["kind"].as_str() {
        Some("Role" | "ClusterRole") => add_rules(&mut updated, wanted),
        _ => add_subjects(&mut updated, wanted),
    }
    match updated == *existing {
        true => Reconciled::Keep,
        false => Reconciled::Update(updated),
    }
}

fn add_rules(updated: &mut Value, wanted: &Value) {
    if !wanted["aggregationRule"].is_null() {
        // The controller fills in the rules; what is selected is what can be missing.
        let missing = list(&wanted["aggregationRule"]["clusterRoleSelectors"]);
        let selectors = &mut updated["aggregationRule"]["clusterRoleSelectors"];
        for selector in missing {
            add(selectors, selector);
        }
        return;
    }
    let rules = |object: &Value| -> Vec<PolicyRule> {
        serde_json::from_value(object["rules"].clone()).unwrap_or_default()
    };
    for rule in uncovered(&rules(updated), &rules(wanted)) {
        add(&mut updated["rules"], json!(rule));
    }
}

fn add_subjects(updated: &mut Value, wanted: &Value) {
    let same = |a: &Value, b: &Value| {
        ["kind", "name", "namespace"]
            .iter()
            .all(|field| a[field] == b[field])
    };
    for subject in list(&wanted["subjects"]) {
        let known = list(&updated["subjects"]);
        if !known.iter().any(|known| same(known, &subject)) {
            add(&mut updated["subjects"], subject);
        }
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn add(to: &mut Value, value: Value) {
    match to.as_array_mut() {
        Some(list) if list.contains(&value) => {}
        Some(list) => list.push(value),
        None => *to = json!([value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Value) -> Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "r", "annotations": {AUTOUPDATE: "true"}}, "rules": rules})
    }

    fn rule(verb: &str, resources: &[&str]) -> Value {
        json!({"verbs": [verb], "apiGroups": [""], "resources": resources})
    }

    #[test]
    fn missing_rules_come_back_and_others_stay() {
        let wanted = role(json!([rule("get", &["pods", "nodes"])]));
        assert_eq!(reconcile(&wanted, &wanted), Reconciled::Keep);
        let wider = role(json!([rule("*", &["*"]), rule("get", &["x"])]));
        assert_eq!(reconcile(&wider, &wanted), Reconciled::Keep);
        let less = role(json!([rule("list", &["secrets"]), rule("get", &["pods"])]));
        let Reconciled::Update(updated) = reconcile(&less, &wanted) else {
            panic!("not updated")
        };
        assert_eq!(
            updated["rules"],
            json!([
                rule("list", &["secrets"]),
                rule("get", &["pods"]),
                rule("get", &["nodes"])
            ])
        );
        let mut own = less;
        own["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(reconcile(&own, &wanted), Reconciled::Keep);
    }

    #[test]
    fn bindings_get_their_subjects_and_their_role_back() {
        let binding = |role: &str, subjects: &[&str]| -> Value {
            let subjects: Vec<Value> = subjects
                .iter()
                .map(|name| json!({"kind": "Group", "name": name}))
                .collect();
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
                "roleRef": {"name": role}, "subjects": subjects})
        };
        let wanted = binding("r", &["a"]);
        assert_eq!(
            reconcile(&binding("r", &["b", "a"]), &wanted),
            Reconciled::Keep
        );
        assert_eq!(
            reconcile(&binding("other", &["a"]), &wanted),
            Reconciled::Recreate
        );
        let Reconciled::Update(updated) = reconcile(&binding("r", &["b"]), &wanted) else {
            panic!("not updated")
        };
        assert_eq!(list(&updated["subjects"]).len(), 2);
    }
}
