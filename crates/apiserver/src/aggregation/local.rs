//! APIServices for what this server serves itself: built-in groups and those of custom resources.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::GROUP;
use crate::cache::{Entry, Since, Trigger};
use crate::kubernetes_service::call;
use crate::request::UserInfo;
use crate::server::ApiServer;

const COLLECTION: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const RETRY: Duration = Duration::from_millis(500);
/// Definitions come many at a time.
const GATHER: Duration = Duration::from_millis(50);
/// So many are made at a time after the first start.
const AT_ONCE: usize = 8;

/// Group, version, and the priorities of the group and of the version in it, as upstream has them: the order of discovery.
#[rustfmt::skip]
const PRIORITIES: &[(&str, &str, i32, i32)] = &[
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15), ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15), ("batch", "v1beta1", 17400, 9), ("batch", "v2alpha1", 17400, 9),
    ("certificates.k8s.io", "v1", 17300, 15), ("certificates.k8s.io", "v1beta1", 17300, 9),
    ("networking.k8s.io", "v1", 17200, 15), ("networking.k8s.io", "v1beta1", 17200, 9),
    ("policy", "v1", 17100, 15), ("policy", "v1beta1", 17100, 9),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15), ("storage.k8s.io", "v1beta1", 16800, 9),
    ("admissionregistration.k8s.io", "v1", 16700, 15), ("admissionregistration.k8s.io", "v1beta1", 16700, 12),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
];
/// The priorities of custom resources.
const CUSTOM: (i32, i32) = (1000, 100);

/// The priority of a group: where it stands in discovery.
pub(super) fn group_priority(group: &str) -> i32 {
    PRIORITIES
        .iter()
        .find(|entry| entry.0 == group)
        .map_or(CUSTOM.0, |entry| entry.2)
}

fn api_service(group: &str, version: &str, priorities: (i32, i32), managed: &str) -> Value {
    let mut spec = json!({"version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: managed}},
        "spec": spec,
    })
}

/// What matters here of a definition; its schemas, most of it by far, are not even read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Definition {
    spec: DefinitionSpec,
    status: DefinitionStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefinitionSpec {
    group: String,
    versions: Vec<DefinedVersion>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefinedVersion {
    name: String,
    served: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefinitionStatus {
    conditions: Vec<DefinitionCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefinitionCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// The groups and versions that a definition serves.
fn served(definition: &Definition) -> Vec<(String, String)> {
    let established = |condition: &DefinitionCondition| {
        condition.kind == "Established" && condition.status == "True"
    };
    if !definition.status.conditions.iter().any(established) {
        return Vec::new();
    }
    let versions = definition.spec.versions.iter();
    let versions = versions.filter(|version| version.served);
    versions
        .map(|version| (definition.spec.group.clone(), version.name.clone()))
        .collect()
}

/// What definitions serve, by their key, with the revision for which that was found out.
type Known = HashMap<String, (u64, Vec<(String, String)>)>;

/// What all definitions serve; only those that changed are read again.
fn custom(entries: &[Arc<Entry>], known: &mut Known) -> BTreeSet<(String, String)> {
    let mut now = Known::with_capacity(entries.len());
    for entry in entries {
        let old = known
            .remove(&*entry.key)
            .filter(|(revision, _)| *revision == entry.revision);
        let new = old.unwrap_or_else(|| {
            let definition = entry.decode().unwrap_or_default();
            (entry.revision, served(&definition))
        });
        now.insert(entry.key.to_string(), new);
    }
    *known = now;
    let all = known.values().flat_map(|(_, served)| served);
    all.cloned().collect()
}

/// One write that is due.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Value),
    Delete(String),
}

/// What is to be made and removed. `first`: after a start, when what is built in is made if it is not there.
fn plan(
    built_in: &[(String, String)],
    custom: &BTreeSet<(String, String)>,
    have: &[Value],
    first: bool,
) -> Vec<Step> {
    let name = |object: &Value| {
        object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let exists = |wanted: &str| {
        have.iter()
            .any(|object| object["metadata"]["name"] == wanted)
    };
    let mut steps = Vec::new();
    if first {
        for (group, version, group_priority, version_priority) in PRIORITIES {
            let served = built_in.iter().any(|(g, v)| g == group && v == version);
            if served && !exists(&format!("{version}.{group}")) {
                let object = api_service(
                    group,
                    version,
                    (*group_priority, *version_priority),
                    "onstart",
                );
                steps.push(Step::Create(object));
            }
        }
    }
    for (group, version) in custom {
        if !exists(&format!("{version}.{group}")) {
            steps.push(Step::Create(api_service(group, version, CUSTOM, "true")));
        }
    }
    for object in have {
        let name = name(object);
        let wanted = custom
            .iter()
            .any(|(group, version)| name == format!("{version}.{group}"));
        if object["metadata"]["labels"][MANAGED] == "true" && !wanted {
            steps.push(Step::Delete(name));
        }
    }
    steps
}

/// Keeps them until the server stops.
pub(super) async fn run(server: &Arc<ApiServer>) {
    let mut first = true;
    loop {
        match follow(server, &mut first).await {
            Some(()) => {}
            None => server.clock.sleep(RETRY).await,
        }
    }
}

/// Brings them up to date now and with every change of definitions or of themselves. `None`: something failed.
async fn follow(server: &Arc<ApiServer>, first: &mut bool) -> Option<()> {
    let registry = server.registry.load_full();
    let resource = registry.stored(GROUP, "apiservices")?.clone();
    let definitions = registry
        .stored("apiextensions.k8s.io", "customresourcedefinitions")?
        .clone();
    let own = server.hub_cache(&resource).await.ok()?;
    let defining = server.hub_cache(&definitions).await.ok()?;
    let (changed, defined) = (
        own.subscribe(Trigger::Any),
        defining.subscribe(Trigger::Any),
    );
    let user = Arc::new(UserInfo::new("system:apiserver", &["system:masters"]));
    let mut known = Known::new();
    loop {
        let (have, cursor) = own.snapshot(&resource.prefix(""));
        let (crds, crd_cursor) = defining.snapshot(&definitions.prefix(""));
        let values = |entries: &[Arc<crate::cache::Entry>]| -> Vec<Value> {
            entries.iter().filter_map(|entry| entry.decode()).collect()
        };
        let built_in: Vec<(String, String)> = server
            .config
            .kinds
            .iter()
            .map(|kind| (kind.group.to_string(), kind.version.to_string()))
            .collect();
        let steps = plan(
            &built_in,
            &custom(&crds, &mut known),
            &values(&have),
            *first,
        );
        let outcomes: Vec<bool> = futures::stream::iter(
            steps
                .into_iter()
                .map(|step| apply(server.clone(), user.clone(), step)),
        )
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
        if outcomes.contains(&false) {
            return None;
        }
        *first = false;
        loop {
            let quiet = |since: Since| match since {
                Since::Lost => None,
                Since::Events(events, _) => Some(events.is_empty()),
            };
            let quiet = (
                quiet(own.since(cursor, 1)),
                quiet(defining.since(crd_cursor, 1)),
            );
            match quiet {
                (Some(true), Some(true)) => {}
                (Some(_), Some(_)) => {
                    server.clock.sleep(GATHER).await;
                    break;
                }
                // A cache is built anew.
                _ => return Some(()),
            }
            tokio::select! {
                () = changed.changed() => {}
                () = defined.changed() => {}
            }
        }
    }
}

async fn apply(server: Arc<ApiServer>, user: Arc<UserInfo>, step: Step) -> bool {
    let (code, answer) = match step {
        Step::Create(object) => call(&server, &user, Method::POST, COLLECTION, Some(&object)).await,
        Step::Delete(name) => {
            let path = format!("{COLLECTION}/{name}");
            call(&server, &user, Method::DELETE, &path, None).await
        }
    };
    let fine = code.is_success() || matches!(code, StatusCode::CONFLICT | StatusCode::NOT_FOUND);
    if !fine {
        tracing::debug!(error = %answer["message"], "an APIService could not be written");
    }
    fine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_version_has_its_priority() {
        for kind in skiff_api::kinds() {
            let known = PRIORITIES
                .iter()
                .any(|(group, version, ..)| kind.group == *group && kind.version == *version);
            let own = kind.group == GROUP || kind.group == "metrics.k8s.io";
            assert!(known || own, "{}/{}", kind.group, kind.version);
        }
    }

    #[test]
    fn what_definitions_serve_comes_and_goes() {
        let definition = |established: &str, served: bool| {
            json!({"spec": {"group": "g.example", "versions": [{"name": "v1", "served": served}, {"name": "v2", "served": true}]},
                "status": {"conditions": [{"type": "Established", "status": established}]}})
        };
        let of = |definition: Value| served(&serde_json::from_value(definition).unwrap());
        assert_eq!(of(definition("False", true)), []);
        assert_eq!(
            of(definition("True", false)),
            [("g.example".to_owned(), "v2".to_owned())]
        );
        let wanted = of(definition("True", false)).into_iter().collect();
        let steps = plan(&[], &wanted, &[], true);
        let made = api_service("g.example", "v2", (1000, 100), "true");
        assert_eq!(steps, [Step::Create(made.clone())]);
        assert_eq!(plan(&[], &wanted, std::slice::from_ref(&made), false), []);
        assert_eq!(
            plan(&[], &BTreeSet::new(), &[made], false),
            [Step::Delete("v2.g.example".to_owned())]
        );
        let foreign = json!({"metadata": {"name": "v1.metrics.k8s.io"}});
        assert_eq!(plan(&[], &BTreeSet::new(), &[foreign], true), []);
        let built_in = [("apps".to_owned(), "v1".to_owned())];
        assert_eq!(plan(&built_in, &BTreeSet::new(), &[], true).len(), 1);
        assert_eq!(plan(&built_in, &BTreeSet::new(), &[], false), []);
    }
}
