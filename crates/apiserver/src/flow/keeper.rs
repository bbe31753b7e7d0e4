//! Flow schemas and priority levels as objects: those in force are followed, those that every cluster has are kept.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skiff_api::ApiResult;
use tower::ServiceExt as _;

use crate::cache::{ResourceCache, Subscription, Trigger};
use crate::request::UserInfo;
use crate::server::ApiServer;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const MANAGER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// After a failure the next try comes so late.
const RETRY: Duration = Duration::from_secs(1);
/// The caches of schemas and levels.
type Caches = [Arc<ResourceCache>; 2];

async fn caches(server: &ApiServer) -> Option<Caches> {
    let registry = server.registry.load_full();
    let schemas = registry.stored(GROUP, SCHEMAS)?.clone();
    let levels = registry.stored(GROUP, LEVELS)?.clone();
    Some([
        server.hub_cache(&schemas).await.ok()?,
        server.hub_cache(&levels).await.ok()?,
    ])
}

fn objects(cache: &ResourceCache) -> Vec<Value> {
    let (entries, _) = cache.list(cache.prefix(), None, 0);
    entries.iter().filter_map(|entry| entry.decode()).collect()
}

fn typed<T: serde::de::DeserializeOwned>(cache: &ResourceCache) -> Vec<T> {
    let (entries, _) = cache.list(cache.prefix(), None, 0);
    entries.iter().filter_map(|entry| entry.decode()).collect()
}

/// The two kinds' caches while they are followed.
struct Following {
    caches: Caches,
    changes: [Subscription; 2],
}

impl Following {
    /// Waits for the caches; `None`: the server stops.
    async fn begin(server: &ApiServer) -> Option<Self> {
        loop {
            if let Some(caches) = caches(server).await {
                let changes = caches.each_ref().map(|cache| cache.subscribe(Trigger::Any));
                return Some(Self { caches, changes });
            }
            tokio::select! {
                () = server.clock.sleep(RETRY) => {}
                () = server.shutdown.triggered() => return None,
            }
        }
    }

    /// Waits for a change, or a while when something failed; `None`: the server stops.
    async fn next(self, server: &ApiServer, fine: bool) -> Option<Self> {
        if self.caches.iter().any(|cache| cache.is_closed()) {
            return Self::begin(server).await;
        }
        tokio::select! {
            () = self.changes[0].changed() => {}
            () = self.changes[1].changed() => {}
            () = server.clock.sleep(RETRY), if !fine => {}
            () = server.shutdown.triggered() => return None,
        }
        Some(self)
    }
}

/// Puts the objects in force, until shutdown. Before the first of them are there (a server that has just been set up), those
/// that every cluster has are in force.
pub(crate) async fn follow(server: Arc<ApiServer>) {
    let mut following = Following::begin(&server).await;
    while let Some(now) = following {
        let (schemas, levels) = (typed(&now.caches[0]), typed(&now.caches[1]));
        if !schemas.is_empty() && !levels.is_empty() {
            server.flow.configure(&schemas, &levels);
        }
        following = now.next(&server, true).await;
    }
}

/// A write that brings an object to where it should be.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(&'static str, Value),
    Update(&'static str, Value),
    Delete(&'static str, String),
    /// The condition `Dangling` of a schema.
    Condition(String, Value),
}

fn plural(object: &Value) -> &'static str {
    if object["kind"] == "FlowSchema" {
        SCHEMAS
    } else {
        LEVELS
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Objects that nobody may change.
fn is_mandatory(object: &Value) -> bool {
    matches!(name(object), "exempt" | "catch-all")
}

fn auto_update(object: &Value) -> Option<bool> {
    match object["metadata"]["annotations"][AUTO_UPDATE].as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether everything that `wanted` says is so in `have` (defaults may have been added).
fn holds(have: &Value, wanted: &Value) -> bool {
    match (have, wanted) {
        (Value::Object(have), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| holds(have.get(key).unwrap_or(&Value::Null), value)),
        (Value::Array(have), Value::Array(wanted)) => {
            have.len() == wanted.len() && have.iter().zip(wanted).all(|(a, b)| holds(a, b))
        }
        _ => have == wanted,
    }
}

/// What is to be done so that the objects that every cluster has are there and up to date, and those that it no longer has
/// are gone. Of suggested objects the annotation says whether their specification is kept up to date.
fn upkeep(wanted: &[Value], have: &[Value]) -> Vec<Step> {
    let mut steps = Vec::new();
    let same = |a: &Value, b: &Value| plural(a) == plural(b) && name(a) == name(b);
    for object in wanted {
        let Some(current) = have.iter().find(|have| same(have, object)) else {
            steps.push(Step::Create(plural(object), object.clone()));
            continue;
        };
        // The seats of the exempt level are the administrator's to choose.
        let mut spec = object["spec"].clone();
        if name(object) == "exempt"
            && plural(object) == LEVELS
            && let Some(exempt) = current["spec"].get("exempt")
        {
            spec["exempt"] = exempt.clone();
        }
        let wants = auto_update(current);
        let automatic =
            is_mandatory(object) || wants.unwrap_or(current["metadata"]["generation"] == 1);
        let changed = automatic && !holds(&current["spec"], &spec);
        if changed || wants != Some(automatic) {
            let mut new = current.clone();
            if changed {
                new["spec"] = spec;
            }
            if !new["metadata"]["annotations"].is_object() {
                new["metadata"]["annotations"] = json!({});
            }
            new["metadata"]["annotations"][AUTO_UPDATE] = automatic.to_string().into();
            steps.push(Step::Update(plural(object), new));
        }
    }
    let unwanted = have
        .iter()
        .filter(|have| !wanted.iter().any(|object| same(have, object)))
        .filter(|have| auto_update(have) == Some(true));
    steps.extend(unwanted.map(|object| Step::Delete(plural(object), name(object).to_owned())));
    steps
}

/// The conditions that are to be written: whether the level that a schema leads to exists.
fn conditions(schemas: &[Value], levels: &[Value], now: &str) -> Vec<Step> {
    let stale = schemas.iter().filter_map(|schema| {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"]
            .as_str()
            .unwrap_or_default();
        let found = levels.iter().any(|object| name(object) == level);
        let (status, reason, end) = if found {
            ("False", "Found", "it exists")
        } else {
            ("True", "NotFound", "there is no such object")
        };
        let join = if found { "and" } else { "but" };
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {join} {end}"
        );
        let conditions = schema["status"]["conditions"].as_array();
        let current = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Dangling");
        let same = current.is_some_and(|condition| {
            condition["status"] == status
                && condition["reason"] == reason
                && condition["message"] == message.as_str()
        });
        if same {
            return None;
        }
        let since = current
            .filter(|condition| condition["status"] == status)
            .and_then(|condition| condition["lastTransitionTime"].as_str())
            .unwrap_or(now);
        let condition = json!({
            "type": "Dangling", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since,
        });
        Some(Step::Condition(name(schema).to_owned(), condition))
    });
    stale.collect()
}

/// Keeps the objects that every cluster has, and the schemas' conditions, until shutdown.
pub(crate) async fn keep(server: Arc<ApiServer>) {
    let wanted: Vec<Value> = crate::bootstrap::objects()
        .into_iter()
        .filter(|object| {
            matches!(
                object["kind"].as_str(),
                Some("FlowSchema" | "PriorityLevelConfiguration")
            )
        })
        .collect();
    let mut following = Following::begin(&server).await;
    while let Some(now) = following {
        let (schemas, levels) = (objects(&now.caches[0]), objects(&now.caches[1]));
        let have: Vec<Value> = schemas.iter().chain(&levels).cloned().collect();
        let mut steps = upkeep(&wanted, &have);
        let time = server.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        steps.extend(conditions(&schemas, &levels, &time));
        let mut fine = true;
        for step in steps {
            fine &= write(&server, step).await.is_ok();
        }
        following = now.next(&server, fine).await;
    }
}

async fn write(server: &Arc<ApiServer>, step: Step) -> ApiResult<()> {
    let root = format!("/apis/{GROUP}/v1");
    let (method, path, media, body) = match step {
        Step::Create(plural, object) => (
            Method::POST,
            format!("{root}/{plural}?fieldManager={MANAGER}"),
            "application/json",
            object,
        ),
        Step::Update(plural, object) => (
            Method::PUT,
            format!("{root}/{plural}/{}?fieldManager={MANAGER}", name(&object)),
            "application/json",
            object,
        ),
        Step::Delete(plural, name) => (
            Method::DELETE,
            format!("{root}/{plural}/{name}"),
            "application/json",
            Value::Null,
        ),
        Step::Condition(name, condition) => (
            Method::PATCH,
            format!("{root}/{SCHEMAS}/{name}/status?fieldManager={CONSUMER}&force=true"),
            "application/apply-patch+yaml",
            json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": name},
                "status": {"conditions": [condition]},
            }),
        ),
    };
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let user = UserInfo::new(
        "system:apiserver",
        &["system:masters", "system:authenticated"],
    );
    let request = Request::builder()
        .method(method)
        .uri(&path)
        .header("content-type", media)
        .body(body)
        .map_err(skiff_api::ApiError::internal)?;
    let response = match server.in_process(user).oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let code = response.status().as_u16();
    // Somebody else was there first: the change that follows brings us back.
    if code < 300 || matches!(code, 404 | 409) {
        return Ok(());
    }
    let text = response
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes());
    let text = text.unwrap_or_default();
    tracing::warn!(path, code, answer = %String::from_utf8_lossy(&text), "an object of priority and fairness could not be written");
    Err(skiff_api::ApiError::internal(
        "the object could not be written",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Vec<Value> {
        crate::bootstrap::objects()
            .into_iter()
            .filter(|object| object["apiVersion"] == "flowcontrol.apiserver.k8s.io/v1")
            .collect()
    }

    fn change(name_: &str, kind: &str, f: impl Fn(&mut Value)) -> Vec<Value> {
        let mut have = wanted();
        for object in &mut have {
            object["metadata"]["generation"] = 2.into();
            if name(object) == name_ && object["kind"] == kind {
                f(object);
            }
        }
        have
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_right_is_left_alone() {
        let all = wanted();
        assert_eq!(upkeep(&all, &[]).len(), all.len());
        assert!(upkeep(&all, &all).is_empty());
    }

    #[test]
    fn the_annotation_says_whether_a_suggested_object_is_kept_up_to_date() {
        let shares =
            |object: &mut Value| object["spec"]["limited"]["nominalConcurrencyShares"] = 7.into();
        let level = "PriorityLevelConfiguration";
        let have = change("workload-low", level, shares);
        let steps = upkeep(&wanted(), &have);
        assert!(
            matches!(steps.as_slice(), [Step::Update(LEVELS, new)] if new["spec"]["limited"]["nominalConcurrencyShares"] == 100)
        );
        // Its owner has said no.
        let have = change("workload-low", level, |object| {
            shares(object);
            object["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        });
        assert!(upkeep(&wanted(), &have).is_empty());
        // Nothing said, and changed before: taken as a no, which is written down.
        let have = change("workload-low", level, |object| {
            shares(object);
            object["metadata"]["annotations"] = Value::Null;
        });
        let steps = upkeep(&wanted(), &have);
        assert!(matches!(steps.as_slice(), [Step::Update(LEVELS, new)]
            if new["metadata"]["annotations"][AUTO_UPDATE] == "false" && new["spec"]["limited"]["nominalConcurrencyShares"] == 7));
        // A mandatory one is put right whatever it says.
        let have = change("catch-all", level, |object| {
            shares(object);
            object["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        });
        assert_eq!(upkeep(&wanted(), &have).len(), 1);
        // But the exempt level's shares are the administrator's.
        let have = change("exempt", level, |object| {
            object["spec"]["exempt"]["nominalConcurrencyShares"] = 5.into();
        });
        assert!(upkeep(&wanted(), &have).is_empty());
    }

    #[test]
    fn objects_of_an_older_version_go_and_those_of_users_stay() {
        let mut have = wanted();
        let mut own = have[0].clone();
        own["metadata"]["name"] = "mine".into();
        own["metadata"]["annotations"] = Value::Null;
        let mut old = have[0].clone();
        old["metadata"]["name"] = "old".into();
        have.extend([own, old]);
        assert_eq!(
            upkeep(&wanted(), &have),
            [Step::Delete(LEVELS, "old".to_owned())]
        );
    }

    #[test]
    fn a_schema_says_whether_its_level_exists() {
        let all = wanted();
        let (schemas, levels): (Vec<Value>, Vec<Value>) = all
            .into_iter()
            .partition(|object| object["kind"] == "FlowSchema");
        let steps = conditions(&schemas, &levels[1..], "2026-01-01T00:00:00Z");
        assert_eq!(steps.len(), schemas.len());
        let Some(Step::Condition(_, condition)) = steps
            .iter()
            .find(|step| matches!(step, Step::Condition(name, _) if name == "exempt"))
        else {
            panic!("{steps:?}")
        };
        assert_eq!(
            condition["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"exempt\" but there is no such object"
        );
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("True"), &json!("NotFound"))
        );
        let mut told = schemas[0].clone();
        told["status"] = json!({"conditions": [condition]});
        assert!(conditions(&[told.clone()], &levels[1..], "later").is_empty());
        let steps = conditions(&[told], &levels, "later");
        assert!(
            matches!(steps.as_slice(), [Step::Condition(_, condition)] if condition["lastTransitionTime"] == "later")
        );
    }
}
