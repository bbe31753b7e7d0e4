//! Takes legacy tokens out of use that were made for service accounts by themselves and that nobody used for a year: marks
//! their secrets invalid first, and deletes them a year later.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use skiff_client::{is_conflict, is_not_found};

use crate::Context;

/// The name of this controller.
pub const NAME: &str = "legacy-serviceaccount-token-cleaner-controller";
/// Whose rights it has.
const IDENTITY: &str = "legacy-service-account-token-cleaner";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// After a failure (the server may not note uses yet) it is tried again after this time.
const RETRY: Duration = Duration::from_secs(60);
/// A token that was not used for so long is marked, and one that was marked for so long is deleted.
const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Looks at all tokens once a day. Nothing is kept in between: secrets are many and this is seldom.
pub async fn run(context: Context) {
    loop {
        let pause = match clean(&context).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::debug!(%error, "unused tokens of service accounts were not looked for");
                RETRY
            }
        };
        tokio::select! {
            () = context.clock.sleep(pause) => {}
            () = context.shutdown.triggered() => return,
        }
    }
}

/// What is to become of a secret.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    Mark,
    Delete,
}

/// A day in the form of the labels.
fn day(text: &str) -> Option<Date> {
    (text.len() == 10).then(|| text.parse().ok())?
}

/// Whether the account lists the secret among its own, as those were that were made by themselves.
fn lists(account: &ServiceAccount, secret: &Secret) -> bool {
    let annotation = |name: &str| {
        let annotations = secret.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    };
    let uid = annotation(ACCOUNT_UID).filter(|uid| !uid.is_empty());
    uid.is_none_or(|uid| account.metadata.uid.as_deref() == Some(uid))
        && annotation(ACCOUNT) == account.metadata.name.as_deref()
        && account
            .secrets
            .iter()
            .flatten()
            .any(|listed| listed.name == secret.metadata.name)
}

/// Judges a secret by what it says itself; that its account lists it and that no pod has it is another matter.
fn judge(secret: &Secret, now: Timestamp) -> Verdict {
    let Ok(limit) = now.checked_sub(YEAR) else {
        return Verdict::Keep;
    };
    let limit_day = limit.to_zoned(TimeZone::UTC).date();
    let young = secret
        .metadata
        .creation_timestamp
        .as_ref()
        .is_none_or(|made| made.0 >= limit);
    if young || secret.metadata.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    let label = |name: &str| {
        secret
            .metadata
            .labels
            .as_ref()?
            .get(name)
            .map(String::as_str)
    };
    // Without the label it was not used since uses are noted.
    let unused = label(LAST_USED).is_none_or(|used| day(used).is_some_and(|used| used < limit_day));
    if !unused {
        return Verdict::Keep;
    }
    match label(INVALID_SINCE).and_then(day) {
        None => Verdict::Mark,
        Some(since) if since < limit_day => Verdict::Delete,
        Some(_) => Verdict::Keep,
    }
}

/// All texts of a pod's specification: whatever names a secret there keeps it.
fn texts(value: &Value, found: &mut HashSet<String>) {
    match value {
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

/// From when on it is certain that every use was noted; `None`: the ConfigMap does not say.
fn noted_since(tracking: &ConfigMap) -> Option<Timestamp> {
    let since = day(tracking.data.as_ref()?.get("since")?)?;
    let next = since.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(next.timestamp())
}

async fn clean(context: &Context) -> Result<(), kube::Error> {
    let client = context.client(IDENTITY);
    let now = Timestamp::try_from(context.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let since = noted_since(&maps.get(TRACKING).await?);
    let long_enough = since.and_then(|since| since.checked_add(YEAR).ok());
    if long_enough.is_none_or(|since| now < since) {
        return Ok(());
    }
    let secrets: Api<Secret> = Api::all(context.manager.clone());
    let tokens = ListParams::default().fields("type=kubernetes.io/service-account-token");
    let secrets = secrets.list(&tokens).await?;
    let mut mounted: HashMap<String, HashSet<String>> = HashMap::new();
    for secret in secrets.items {
        let verdict = judge(&secret, now);
        let (Some(namespace), Some(name)) = (&secret.metadata.namespace, &secret.metadata.name)
        else {
            continue;
        };
        if verdict == Verdict::Keep {
            continue;
        }
        let account = secret
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(ACCOUNT));
        let Some(account) = account.filter(|account| !account.is_empty()) else {
            continue;
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(context.manager.clone(), namespace);
        let account = accounts.get_opt(account).await?;
        if !account.is_some_and(|account| lists(&account, &secret)) {
            continue;
        }
        if !mounted.contains_key(namespace) {
            let pods: Api<Pod> = Api::namespaced(context.manager.clone(), namespace);
            let mut named = HashSet::new();
            for pod in pods.list(&ListParams::default()).await?.items {
                let spec = serde_json::to_value(&pod.spec).unwrap_or_default();
                texts(&spec, &mut named);
            }
            mounted.insert(namespace.clone(), named);
        }
        if mounted
            .get(namespace)
            .is_some_and(|named| named.contains(name))
        {
            continue;
        }
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let done = match verdict {
            Verdict::Delete => {
                tracing::info!(
                    namespace,
                    name,
                    "a token of a service account that nobody used is deleted"
                );
                delete(&api, &secret, name).await
            }
            _ => {
                tracing::info!(
                    namespace,
                    name,
                    "a token of a service account that nobody used is marked invalid"
                );
                mark(&api, &secret, name, now).await
            }
        };
        match done {
            Err(error) if !is_conflict(&error) && !is_not_found(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn mark(
    api: &Api<Secret>,
    secret: &Secret,
    name: &str,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let today = now.to_zoned(TimeZone::UTC).date().to_string();
    let patch = json!({"metadata": {"uid": secret.metadata.uid, "labels": {INVALID_SINCE: today}}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map(drop)
}

async fn delete(api: &Api<Secret>, secret: &Secret, name: &str) -> Result<(), kube::Error> {
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: None,
            resource_version: secret.metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    api.delete(name, &parameters).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(made: &str, labels: Value) -> Secret {
        serde_json::from_value(json!({"metadata": {
            "name": "robot-token-x", "namespace": "a", "creationTimestamp": made, "labels": labels,
            "annotations": {(ACCOUNT): "robot", (ACCOUNT_UID): "1"}}}))
        .unwrap()
    }

    #[test]
    fn what_was_not_used_for_a_year_is_marked_and_deleted_a_year_later() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let old = "2020-01-01T00:00:00Z";
        let judge = |made: &str, labels: Value| judge(&secret(made, labels), now);
        assert_eq!(judge(old, json!({})), Verdict::Mark);
        assert_eq!(judge("2026-01-01T00:00:00Z", json!({})), Verdict::Keep);
        assert_eq!(
            judge(old, json!({(LAST_USED): "2026-02-01"})),
            Verdict::Keep
        );
        assert_eq!(
            judge(old, json!({(LAST_USED): "2025-11-21"})),
            Verdict::Keep
        );
        assert_eq!(
            judge(old, json!({(LAST_USED): "2025-11-20"})),
            Verdict::Mark
        );
        assert_eq!(judge(old, json!({(LAST_USED): "some day"})), Verdict::Keep);
        assert_eq!(
            judge(old, json!({(INVALID_SINCE): "2026-01-01"})),
            Verdict::Keep
        );
        assert_eq!(
            judge(old, json!({(INVALID_SINCE): "some day"})),
            Verdict::Mark
        );
        assert_eq!(
            judge(old, json!({(INVALID_SINCE): "2025-11-20"})),
            Verdict::Delete
        );
    }

    #[test]
    fn only_secrets_that_their_account_lists_are_looked_at() {
        let account = |uid: &str, listed: &str| -> ServiceAccount {
            serde_json::from_value(
                json!({"metadata": {"name": "robot", "uid": uid}, "secrets": [{"name": listed}]}),
            )
            .unwrap()
        };
        let secret = secret("2020-01-01T00:00:00Z", json!({}));
        assert!(lists(&account("1", "robot-token-x"), &secret));
        assert!(!lists(&account("2", "robot-token-x"), &secret));
        assert!(!lists(&account("1", "other"), &secret));
    }

    #[test]
    fn uses_are_noted_from_the_day_after_the_first() {
        let tracking =
            |data: Value| -> ConfigMap { serde_json::from_value(json!({"data": data})).unwrap() };
        let since = noted_since(&tracking(json!({"since": "2026-11-21"})));
        assert_eq!(since, Some("2026-11-22T00:00:00Z".parse().unwrap()));
        assert_eq!(noted_since(&tracking(json!({}))), None);
    }

    #[test]
    fn what_a_pod_names_is_found_wherever_it_is() {
        let mut found = HashSet::new();
        texts(
            &json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "s"}}]}}]}),
            &mut found,
        );
        assert!(found.contains("s"));
    }
}
