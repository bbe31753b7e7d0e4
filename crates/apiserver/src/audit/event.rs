//! An audit event and its forms.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::policy::{Level, Stage};
use crate::request::UserInfo;

/// What is recorded of one request at one stage.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub level: Level,
    pub stage: Stage,
    pub audit_id: Arc<str>,
    pub request_uri: String,
    pub verb: String,
    pub user: Arc<UserInfo>,
    pub impersonated: Option<Arc<UserInfo>>,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub object: Option<ObjectReference>,
    pub status: Option<ResponseStatus>,
    pub request_object: Option<Arc<RawValue>>,
    pub response_object: Option<Arc<RawValue>>,
    pub received: jiff::Timestamp,
    pub staged: jiff::Timestamp,
    pub annotations: BTreeMap<String, String>,
}

/// Which object a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

impl ObjectReference {
    /// Fills in from an object's metadata what the path does not say.
    pub fn complete(&mut self, object: &Value) {
        let fields = [
            (&mut self.namespace, "namespace"),
            (&mut self.name, "name"),
            (&mut self.uid, "uid"),
            (&mut self.resource_version, "resourceVersion"),
        ];
        for (field, name) in fields {
            let value = object.get("metadata").and_then(|meta| meta.get(name));
            if let (true, Some(value)) = (field.is_empty(), value.and_then(Value::as_str)) {
                value.clone_into(field);
            }
        }
    }
}

/// How a request was answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ResponseStatus {
    pub code: u16,
    pub status: String,
    pub message: String,
    pub reason: String,
    pub details: Option<Value>,
}

impl ResponseStatus {
    pub fn of_code(code: u16) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// What a `Status` object says.
    pub fn of_object(code: u16, status: &Value) -> Self {
        let text = |name: &str| {
            let value = status.get(name).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        Self {
            code,
            status: text("status"),
            message: text("message"),
            reason: text("reason"),
            details: status.get("details").cloned(),
        }
    }
}

impl Serialize for ResponseStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Form<'a> {
            metadata: Empty,
            #[serde(skip_serializing_if = "str::is_empty")]
            status: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            message: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            reason: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a Value>,
            #[serde(skip_serializing_if = "is_zero")]
            code: u16,
        }
        Form {
            metadata: Empty {},
            status: &self.status,
            message: &self.message,
            reason: &self.reason,
            details: self.details.as_ref(),
            code: self.code,
        }
        .serialize(serializer)
    }
}

#[derive(Serialize)]
struct Empty {}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(code: &u16) -> bool {
    *code == 0
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

impl<'a> User<'a> {
    fn of(user: &'a UserInfo) -> Self {
        Self {
            username: &user.name,
            uid: &user.uid,
            groups: &user.groups,
            extra: &user.extra,
        }
    }
}

/// A time with microseconds, as Kubernetes writes it.
fn micro(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

impl Event {
    /// The event as JSON, one line without its end.
    pub fn json(&self) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Form<'a> {
            kind: &'static str,
            api_version: &'static str,
            level: &'static str,
            #[serde(rename = "auditID")]
            audit_id: &'a str,
            stage: &'static str,
            #[serde(rename = "requestURI")]
            request_uri: &'a str,
            verb: &'a str,
            user: User<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            impersonated_user: Option<User<'a>>,
            #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
            source_ips: &'a [String],
            #[serde(skip_serializing_if = "str::is_empty")]
            user_agent: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            object_ref: Option<&'a ObjectReference>,
            #[serde(skip_serializing_if = "Option::is_none")]
            response_status: Option<&'a ResponseStatus>,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_object: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            response_object: Option<&'a RawValue>,
            request_received_timestamp: String,
            stage_timestamp: String,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            annotations: &'a BTreeMap<String, String>,
        }
        let form = Form {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.level.text(),
            audit_id: &self.audit_id,
            stage: self.stage.text(),
            request_uri: &self.request_uri,
            verb: &self.verb,
            user: User::of(&self.user),
            impersonated_user: self.impersonated.as_deref().map(User::of),
            source_ips: &self.source_ips,
            user_agent: &self.user_agent,
            object_ref: self.object.as_ref(),
            response_status: self.status.as_ref(),
            request_object: self.request_object.as_deref(),
            response_object: self.response_object.as_deref(),
            request_received_timestamp: micro(self.received),
            stage_timestamp: micro(self.staged),
            annotations: &self.annotations,
        };
        serde_json::to_vec(&form).unwrap_or_default().into()
    }

    /// The event as the one line of the format `legacy`.
    pub fn legacy(&self) -> String {
        let quoted = |list: &[String]| {
            let quoted: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
            quoted.join(",")
        };
        let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_owned();
        let groups = match self.user.groups.as_slice() {
            _ if self.user.name.is_empty() => "<none>".to_owned(),
            [] => "<none>".to_owned(),
            groups => quoted(groups),
        };
        let (as_user, as_groups) = match &self.impersonated {
            None => ("<self>".to_owned(), "<lookup>".to_owned()),
            Some(user) if user.groups.is_empty() => (user.name.clone(), "<lookup>".to_owned()),
            Some(user) => (user.name.clone(), quoted(&user.groups)),
        };
        let namespace = self.object.as_ref().map_or("", |object| &object.namespace);
        let response = self
            .status
            .as_ref()
            .map_or("<deferred>".to_owned(), |status| status.code.to_string());
        format!(
            "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={:?} as={:?} asgroups={:?} user-agent={:?} namespace={:?} uri={:?} response=\"{response}\"",
            self.received,
            self.audit_id,
            self.stage.text(),
            self.source_ips.first().map_or("<unknown>", |ip| ip),
            self.verb,
            or(&self.user.name, "<none>"),
            groups,
            as_user,
            as_groups,
            self.user_agent,
            or(namespace, "<none>"),
            self.request_uri,
        )
    }

    /// The event without what is large.
    pub fn truncated(&self) -> Self {
        let mut event = self.clone();
        event.request_object = None;
        event.response_object = None;
        event
            .annotations
            .insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> Event {
        Event {
            level: Level::RequestResponse,
            stage: Stage::ResponseComplete,
            audit_id: "1-2".into(),
            request_uri: "/api/v1/namespaces/default/pods?x=1".into(),
            verb: "create".into(),
            user: Arc::new(UserInfo::new("bob", &["dev", "ops"])),
            impersonated: Some(Arc::new(UserInfo::new("eve", &[]))),
            source_ips: vec!["10.0.0.1".into()],
            user_agent: "kubectl".into(),
            object: Some(ObjectReference {
                resource: "pods".into(),
                namespace: "default".into(),
                api_version: "v1".into(),
                ..ObjectReference::default()
            }),
            status: Some(ResponseStatus::of_code(201)),
            request_object: Some(Arc::from(
                RawValue::from_string("{\"a\":1}".into()).unwrap(),
            )),
            response_object: None,
            received: "2026-01-02T03:04:05.123456789Z".parse().unwrap(),
            staged: "2026-01-02T03:04:06Z".parse().unwrap(),
            annotations: [(
                "authorization.k8s.io/decision".to_owned(),
                "allow".to_owned(),
            )]
            .into(),
        }
    }

    #[test]
    fn the_json_form_is_upstreams() {
        let value: Value = serde_json::from_slice(&event().json()).unwrap();
        let wanted = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "1-2",
            "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/default/pods?x=1", "verb": "create",
            "user": {"username": "bob", "groups": ["dev", "ops"]}, "impersonatedUser": {"username": "eve"},
            "sourceIPs": ["10.0.0.1"], "userAgent": "kubectl",
            "objectRef": {"resource": "pods", "namespace": "default", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 201}, "requestObject": {"a": 1},
            "requestReceivedTimestamp": "2026-01-02T03:04:05.123456Z", "stageTimestamp": "2026-01-02T03:04:06.000000Z",
            "annotations": {"authorization.k8s.io/decision": "allow"},
        });
        assert_eq!(value, wanted);
    }

    #[test]
    fn the_legacy_form_is_upstreams() {
        assert_eq!(
            event().legacy(),
            r#"2026-01-02T03:04:05.123456789Z AUDIT: id="1-2" stage="ResponseComplete" ip="10.0.0.1" method="create" user="bob" groups="\"dev\",\"ops\"" as="eve" asgroups="<lookup>" user-agent="kubectl" namespace="default" uri="/api/v1/namespaces/default/pods?x=1" response="201""#
        );
    }

    #[test]
    fn a_truncated_event_says_so() {
        let event = event().truncated();
        assert!(event.request_object.is_none());
        assert_eq!(event.annotations["audit.k8s.io/truncated"], "true");
    }
}
