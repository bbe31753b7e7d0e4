//! Another service that says what users may do: it is asked by SubjectAccessReview, and its answers kept for a while.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use skiff_base::SharedClock;

use super::condition::Condition;
use super::configuration::{AuthorizerConfig, WebhookConfig};
use crate::authn::webhook::post;
use crate::request::{Attributes, UserInfo};
use crate::seam::{Authorizer, Decision, Rules};
use crate::selector::parse_fields;
use crate::webhook::Client;

/// How many answers are kept.
const KEPT: usize = 8192;
/// Answers on longer requests are not kept: their makers could fill the memory.
const LONGEST_KEPT: usize = 10_000;

/// Asks a webhook what users may do.
pub struct WebhookAuthorizer {
    name: String,
    client: Client,
    config: WebhookConfig,
    conditions: Vec<Condition>,
    clock: SharedClock,
    /// Until when, and the answer, by the review's text.
    answers: Mutex<HashMap<String, (Duration, Decision)>>,
}

impl WebhookAuthorizer {
    /// For a configuration that was validated.
    pub fn new(config: &AuthorizerConfig, clock: SharedClock) -> Result<Self, String> {
        let webhook = config.webhook.clone().unwrap_or_default();
        let Some(file) = webhook.connection_info.kube_config_file.as_deref() else {
            return Err(format!(
                "authorizer {}: a webhook in the cluster is not served; name a kubeconfig",
                config.name
            ));
        };
        let client = Client::from_kubeconfig(file, None, clock.clone());
        let conditions = webhook.match_conditions.iter();
        let conditions = conditions.map(|condition| Condition::compile(&condition.expression));
        Ok(Self {
            name: config.name.clone(),
            client: client.map_err(|error| error.to_string())?,
            conditions: conditions.collect::<Result<_, _>>()?,
            config: webhook,
            clock,
            answers: Mutex::default(),
        })
    }

    fn failed(&self, why: impl std::fmt::Display) -> Decision {
        tracing::warn!(webhook = self.name, %why, "asking an authorization webhook failed");
        match self.config.failure_policy.as_str() {
            "Deny" => Decision::Deny(String::new()),
            _ => Decision::NoOpinion(String::new()),
        }
    }

    /// Whether the webhook is asked about the request: none of the conditions is false.
    fn concerns(&self, spec: &Value) -> Result<bool, String> {
        let mut failure = None;
        for condition in &self.conditions {
            match condition.holds(spec) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        failure.map_or(Ok(true), Err)
    }

    async fn ask(&self, spec: &Value) -> Decision {
        let version = &self.config.subject_access_review_version;
        let mut sent = spec.clone();
        if version == "v1beta1"
            && let Some(fields) = sent.as_object_mut()
            && let Some(groups) = fields.remove("groups")
        {
            fields.insert("group".to_owned(), groups);
        }
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{version}"), "kind": "SubjectAccessReview",
            "metadata": {}, "spec": sent});
        match post(&self.client, &self.clock, &review, self.config.patience()).await {
            Ok(answer) => decision(&answer["status"]).unwrap_or_else(|why| self.failed(why)),
            Err(error) => self.failed(error),
        }
    }
}

fn decision(status: &Value) -> Result<Decision, String> {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => {
            Err("webhook subject access review returned both allow and deny response".to_owned())
        }
        (true, false) => Ok(Decision::Allow(reason)),
        (false, true) => Ok(Decision::Deny(reason)),
        (false, false) => Ok(Decision::NoOpinion(reason)),
    }
}

/// The specification of the review of a request; empty fields are left out.
fn review(attributes: &Attributes) -> Value {
    let user = &attributes.user;
    let object = |fields: &[(&str, Value)]| -> Value {
        let given = fields.iter().filter(|(_, value)| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        });
        let map: Map<String, Value> = given
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        map.into()
    };
    let text = |text: &str| Value::from(text);
    let asked = if attributes.is_resource {
        let resource = object(&[
            ("namespace", text(&attributes.namespace)),
            ("verb", text(&attributes.verb)),
            ("group", text(&attributes.group)),
            ("version", text(&attributes.version)),
            ("resource", text(&attributes.resource)),
            ("subresource", text(&attributes.subresource)),
            ("name", text(&attributes.name)),
            ("fieldSelector", fields(&attributes.field_selector)),
            ("labelSelector", labels(&attributes.label_selector)),
        ]);
        ("resourceAttributes", resource)
    } else {
        let path = object(&[
            ("path", text(&attributes.path)),
            ("verb", text(&attributes.verb)),
        ]);
        ("nonResourceAttributes", path)
    };
    object(&[
        asked,
        ("user", text(&user.name)),
        ("groups", json!(user.groups)),
        ("extra", json!(user.extra)),
        ("uid", text(&user.uid)),
    ])
}

fn fields(selector: &str) -> Value {
    let terms = parse_fields(selector).unwrap_or_default();
    let terms: Vec<Value> = terms
        .iter()
        .map(|term| {
            let operator = if term.negated { "NotIn" } else { "In" };
            json!({"key": term.field, "operator": operator, "values": [term.value]})
        })
        .collect();
    match terms.is_empty() {
        true => Value::Null,
        false => json!({"requirements": terms}),
    }
}

fn labels(selector: &str) -> Value {
    match selector {
        "" => Value::Null,
        selector => crate::selector::LabelSelector::parse(selector).map_or(
            Value::Null,
            |selector| json!({"requirements": selector.requirements()}),
        ),
    }
}

#[async_trait]
impl Authorizer for WebhookAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let spec = review(attributes);
        match self.concerns(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => return self.failed(why),
        }
        let key = spec.to_string();
        let now = self.clock.monotonic();
        if let Some((until, decision)) = self.answers.lock().get(&key)
            && now < *until
        {
            return decision.clone();
        }
        let decision = self.ask(&spec).await;
        let kept = match &decision {
            Decision::Allow(_) => self.config.allowed_for(),
            Decision::Deny(_) | Decision::NoOpinion(_) => self.config.refused_for(),
        };
        if !kept.is_zero() && key.len() < LONGEST_KEPT {
            let mut answers = self.answers.lock();
            if answers.len() >= KEPT {
                answers.retain(|_, (until, _)| now < *until);
            }
            if answers.len() >= KEPT {
                answers.clear();
            }
            answers.insert(key, (now + kept, decision.clone()));
        }
        decision
    }

    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules {
            incomplete: true,
            error: "webhook authorizer does not support user rule resolution".to_owned(),
            ..Rules::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_request_is_told_as_a_review() {
        let attributes = Attributes {
            user: Arc::new(UserInfo::new("jane", &["dev"])),
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "a".into(),
            is_resource: true,
            field_selector: "spec.nodeName=n1".into(),
            label_selector: "a in (b,c),!d".into(),
            ..Attributes::default()
        };
        assert_eq!(
            review(&attributes),
            json!({"user": "jane", "groups": ["dev"], "resourceAttributes": {
                "namespace": "a", "verb": "list", "version": "v1", "resource": "pods",
                "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]},
                "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "DoesNotExist"}]}}})
        );
        let path = Attributes {
            path: "/metrics".into(),
            verb: "get".into(),
            ..Attributes::default()
        };
        assert_eq!(
            review(&path),
            json!({"nonResourceAttributes": {"path": "/metrics", "verb": "get"}})
        );
    }

    #[test]
    fn answers_are_allow_deny_or_none() {
        let of = |status: Value| decision(&status);
        assert_eq!(
            of(json!({"allowed": true, "reason": "r"})),
            Ok(Decision::Allow("r".into()))
        );
        assert_eq!(
            of(json!({"allowed": false, "denied": true})),
            Ok(Decision::Deny(String::new()))
        );
        assert_eq!(of(json!({})), Ok(Decision::NoOpinion(String::new())));
        assert!(of(json!({"allowed": true, "denied": true})).is_err());
    }
}
