//! How a request, its object and its options are shown to webhooks and policies, and how a changed object comes back.

use serde_json::{Map, Value, json};
use skiff_api::{ApiError, ApiResult, Object};

use super::{AdmissionRequest, Operation};
use crate::registry::Resource;
use crate::subresource::{kind_of, scale};
use crate::write::{decode, decode_kind};

/// What a request brings that is no object.
#[derive(Clone, Debug, Default)]
pub(crate) enum Given {
    /// Nothing; the options are in the query.
    #[default]
    Query,
    /// The options of a deletion, without version and kind.
    DeleteOptions(Value),
    /// What a connection is made with, as an object: `PodExecOptions` and the like.
    Connect(Value),
}

/// A kind: group, version, kind.
pub(crate) type Gvk = (String, String, String);

impl AdmissionRequest<'_> {
    /// The kind of what is admitted, as a request for `resource` (the request's own or an equivalent one) shows it.
    pub fn shown_kind(&self, resource: &Resource) -> Gvk {
        let kind = &resource.kind;
        match resource.subresource(self.subresource) {
            Some(part) => {
                let (group, version, kind) = &part.kind;
                (group.to_string(), version.to_string(), kind.to_string())
            }
            None => (
                kind.group.to_string(),
                kind.version.to_string(),
                kind.kind.to_string(),
            ),
        }
    }

    /// Whether what is admitted is no object of the resource but one of the subresource's own kind.
    fn has_own_kind(&self, resource: &Resource) -> bool {
        resource
            .subresource(self.subresource)
            .is_some_and(|part| !part.kind.2.is_empty() && *part.kind.2 != *resource.kind.kind)
    }

    /// An object as a request for `resource` shows it.
    pub fn shown(&self, resource: &Resource, object: &dyn Object) -> ApiResult<Value> {
        if self.subresource == "scale" {
            return Ok(serde_json::to_value(scale::scale_of(resource, object)?).unwrap_or_default());
        }
        if self.has_own_kind(resource) {
            return Ok(object.to_value());
        }
        Ok(resource.served(object.to_value()))
    }

    /// The object behind what was shown, after it was changed, defaulted again. `object`: what it was.
    pub fn taken(
        &self,
        resource: &Resource,
        shown: Value,
        object: &dyn Object,
    ) -> ApiResult<Box<dyn Object>> {
        if self.subresource == "scale" {
            let replicas = shown
                .pointer("/spec/replicas")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            let mut object = object.clone_box();
            scale::set_replicas(
                resource,
                &mut *object,
                i32::try_from(replicas).unwrap_or(-1),
            );
            return Ok(object);
        }
        if self.has_own_kind(resource) {
            let (group, version, kind) = self.shown_kind(resource);
            let api_version = if group.is_empty() {
                version
            } else {
                format!("{group}/{version}")
            };
            return decode_kind(&kind_of(&api_version, &kind)?, shown);
        }
        decode(resource, shown)
    }

    /// The request's name as it was sent: deletions of a collection name nothing.
    pub fn shown_name(&self) -> &str {
        if self.call.info.verb == "deletecollection" {
            ""
        } else {
            self.name
        }
    }

    /// The namespace; a namespace is in itself.
    pub fn shown_namespace(&self) -> &str {
        let kind = &self.resource.kind;
        if kind.group.is_empty() && kind.plural == "namespaces" {
            self.shown_name()
        } else {
            self.namespace
        }
    }

    /// The options of the operation, null for connections.
    pub fn shown_options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = Map::new();
        options.insert("kind".to_owned(), kind.into());
        options.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
        if let Given::DeleteOptions(Value::Object(given)) = &self.given {
            options.extend(given.clone());
        } else if self.operation != Operation::Delete {
            let query = &self.call.query;
            let dry: Vec<&str> = query.all("dryRun").collect();
            if !dry.is_empty() {
                options.insert("dryRun".to_owned(), json!(dry));
            }
            for name in ["fieldManager", "fieldValidation"] {
                if !query.get(name).is_empty() {
                    options.insert(name.to_owned(), query.get(name).into());
                }
            }
        }
        Value::Object(options)
    }

    /// The request as an `AdmissionRequest`, as it is for `resource`. Objects are null where there are none.
    pub fn shown_request(
        &self,
        uid: &str,
        resource: &Resource,
        object: Value,
        old: Value,
    ) -> Value {
        let user = &self.call.user;
        let kind =
            |(group, version, kind): Gvk| json!({"group": group, "version": version, "kind": kind});
        let named = |resource: &Resource| {
            let kind = &resource.kind;
            json!({"group": kind.group, "version": kind.version, "resource": kind.plural})
        };
        let mut user_info = Map::new();
        let mut known = |name: &str, value: Value, present: bool| {
            if present {
                user_info.insert(name.to_owned(), value);
            }
        };
        known("username", json!(user.name), !user.name.is_empty());
        known("uid", json!(user.uid), !user.uid.is_empty());
        known("groups", json!(user.groups), !user.groups.is_empty());
        known("extra", json!(user.extra), !user.extra.is_empty());
        let mut request = json!({
            "uid": uid,
            "kind": kind(self.shown_kind(resource)),
            "resource": named(resource),
            "requestKind": kind(self.shown_kind(self.resource)),
            "requestResource": named(self.resource),
            "operation": self.operation.as_str(),
            "userInfo": user_info,
            "object": object,
            "oldObject": old,
            "dryRun": self.dry_run,
            "options": self.shown_options(),
        });
        for (name, value) in [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("name", self.shown_name()),
            ("namespace", self.shown_namespace()),
        ] {
            if !value.is_empty() {
                request[name] = value.into();
            }
        }
        request
    }

    /// The object and the one before as a request for `resource` shows them; a connection's options are its object.
    pub fn shown_objects(
        &self,
        resource: &Resource,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<(Value, Value)> {
        if let Given::Connect(options) = &self.given {
            return Ok((options.clone(), Value::Null));
        }
        let shown = |object: Option<&dyn Object>| match object {
            Some(object) => self.shown(resource, object),
            None => Ok(Value::Null),
        };
        let failed = |error: ApiError| ApiError::internal(error.message);
        Ok((shown(object).map_err(failed)?, shown(old).map_err(failed)?))
    }
}
