//! Upstream's bootstrap RBAC policy, read from the table in `policy.txt`.

use serde_json::{Map, Value, json};

const TABLE: &str = include_str!("policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const CONTROLLER: &str = "system:controller:";

/// Every bootstrap Role, ClusterRole, RoleBinding and ClusterRoleBinding, roles first.
///
/// The roles that aggregate others (`admin`, `edit`, `view`) come with the aggregated rules filled in, as
/// upstream's aggregation controller would leave them.
#[must_use]
pub fn objects() -> Vec<Value> {
    let mut roles: Vec<Value> = Vec::new();
    let mut bindings: Vec<Value> = Vec::new();
    for line in TABLE
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        if let Some(rule) = line.strip_prefix("  ") {
            if let Some(rules) = roles
                .last_mut()
                .and_then(|role| role["rules"].as_array_mut())
            {
                rules.push(parse_rule(rule));
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["clusterrole", name, options @ ..] => {
                roles.push(cluster_role(name, options));
                if let Some(account) = name.strip_prefix(CONTROLLER) {
                    let subject = format!("sa:kube-system/{account}");
                    bindings.push(binding("ClusterRoleBinding", None, name, name, &[&subject]));
                }
            }
            ["role", namespace, name] => {
                roles.push(object("Role", Some(namespace), name, json!({"rules": []})))
            }
            ["clusterrolebinding", name, role, subjects @ ..] => {
                bindings.push(binding("ClusterRoleBinding", None, name, role, subjects));
            }
            ["rolebinding", namespace, name, role, subjects @ ..] => {
                bindings.push(binding(
                    "RoleBinding",
                    Some(namespace),
                    name,
                    role,
                    subjects,
                ));
            }
            _ => {}
        }
    }
    aggregate(&mut roles);
    roles.extend(bindings);
    roles
}

fn list(words: &str) -> Value {
    words
        .split(',')
        .map(|word| if word == "core" { "" } else { word })
        .collect()
}

fn parse_rule(line: &str) -> Value {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [verbs, "url", urls] => json!({"verbs": list(verbs), "nonResourceURLs": list(urls)}),
        [verbs, groups, resources, rest @ ..] => {
            let mut rule = json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)});
            if let Some(names) = rest.first().and_then(|word| word.strip_prefix("names=")) {
                rule["resourceNames"] = list(names);
            }
            rule
        }
        _ => Value::Null,
    }
}

fn object(kind: &str, namespace: Option<&str>, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
        object.extend(rest);
    }
    object
}

fn aggregation_label(to: &str) -> String {
    format!("{GROUP}/aggregate-to-{to}")
}

fn cluster_role(name: &str, options: &[&str]) -> Value {
    let mut role = object("ClusterRole", None, name, json!({"rules": []}));
    for option in options {
        if let Some(to) = option.strip_prefix("aggregate-to=") {
            role["metadata"]["labels"][aggregation_label(to)] = "true".into();
        } else if let Some(from) = option.strip_prefix("aggregates=") {
            let labels: Map<String, Value> =
                Map::from_iter([(aggregation_label(from), "true".into())]);
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        }
    }
    role
}

fn binding(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    role: &str,
    subjects: &[&str],
) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .filter_map(|subject| parse_subject(subject))
        .collect();
    let role_kind = if kind == "RoleBinding" {
        "Role"
    } else {
        "ClusterRole"
    };
    let mut rest = json!({"roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role}});
    if !subjects.is_empty() {
        rest["subjects"] = subjects.into();
    }
    object(kind, namespace, name, rest)
}

fn parse_subject(subject: &str) -> Option<Value> {
    let (kind, name) = subject.split_once(':')?;
    Some(match kind {
        "user" => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
        "group" => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
        "sa" => {
            let (namespace, name) = name.split_once('/')?;
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        _ => return None,
    })
}

/// Fills the rules of aggregating roles from the roles that carry the label, in name order. `view` goes into
/// `edit` and `edit` into `admin`, so it runs until nothing changes.
fn aggregate(roles: &mut [Value]) {
    loop {
        let mut changed = false;
        for at in 0..roles.len() {
            let Some(label) = aggregated_label(&roles[at]) else {
                continue;
            };
            let mut sources: Vec<&Value> = roles
                .iter()
                .filter(|role| role["metadata"]["labels"][&label] == "true")
                .collect();
            sources.sort_by_key(|role| role["metadata"]["name"].as_str().unwrap_or_default());
            let mut rules: Vec<Value> = Vec::new();
            for rule in sources
                .iter()
                .flat_map(|role| role["rules"].as_array().into_iter().flatten())
            {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            let rules = Value::Array(rules);
            changed |= roles[at]["rules"] != rules;
            roles[at]["rules"] = rules;
        }
        if !changed {
            return;
        }
    }
}

fn aggregated_label(role: &Value) -> Option<String> {
    let labels = role
        .pointer("/aggregationRule/clusterRoleSelectors/0/matchLabels")?
        .as_object()?;
    labels.keys().next().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
        objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap()
    }

    #[test]
    fn every_line_of_the_table_is_understood() {
        let objects = objects();
        let blocks = TABLE
            .lines()
            .filter(|line| !line.starts_with(['#', ' ']) && !line.is_empty())
            .count();
        let controllers = TABLE
            .lines()
            .filter(|line| line.starts_with("clusterrole system:controller:"))
            .count();
        assert_eq!(objects.len(), blocks + controllers);
        assert!(!objects.iter().any(|object| {
            object["rules"]
                .as_array()
                .is_some_and(|rules| rules.contains(&Value::Null))
        }));
    }

    #[test]
    fn cluster_admin_may_everything_and_is_bound_to_masters() {
        let objects = objects();
        let rules = &find(&objects, "ClusterRole", "cluster-admin")["rules"];
        assert_eq!(
            rules[0],
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        );
        assert_eq!(
            find(&objects, "ClusterRoleBinding", "cluster-admin")["subjects"][0]["name"],
            "system:masters"
        );
    }

    #[test]
    fn admin_holds_what_edit_and_view_hold() {
        let objects = objects();
        let rules = |name| {
            find(&objects, "ClusterRole", name)["rules"]
                .as_array()
                .unwrap()
                .clone()
        };
        let admin = rules("admin");
        assert!(
            rules("view")
                .iter()
                .chain(&rules("edit"))
                .all(|rule| admin.contains(rule))
        );
        assert_eq!(admin.len(), 29);
    }
}
