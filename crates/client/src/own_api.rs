//! An API that is served behind the aggregation layer without a socket: what those that are answered within the process have
//! in common.

use http::StatusCode;
use serde_json::{Map, Value, json};

/// Code and JSON body.
pub type Answer = (u16, Value);

/// One version of such an API.
#[derive(Clone, Copy, Debug)]
pub struct OwnApi {
    /// Its group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The service in `kube-system` that is stood in for.
    pub service: &'static str,
    /// What it is called in its OpenAPI document.
    pub title: &'static str,
    /// What the names of its schemas begin with, the dot included.
    pub schemas: &'static str,
}

/// An answer that is an error.
#[must_use]
pub fn failure(code: StatusCode, reason: &str, message: &str, details: Value) -> Answer {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16()});
    if !details.is_null() {
        status["details"] = details;
    }
    (code.as_u16(), status)
}

/// There is nothing at that path.
#[must_use]
pub fn no_such_path() -> Answer {
    let text = "the server could not find the requested resource";
    failure(StatusCode::NOT_FOUND, "NotFound", text, Value::Null)
}

impl OwnApi {
    /// `group/version`
    #[must_use]
    pub fn group_version(&self) -> String {
        format!("{}/{}", self.group, self.version)
    }

    /// Where it is served.
    #[must_use]
    pub fn root(&self) -> String {
        format!("/apis/{}", self.group_version())
    }

    /// What is answered whatever the API is about: to requests that want to change something, and about its OpenAPI document,
    /// which `document` makes.
    pub fn common(
        &self,
        method: &str,
        path: &str,
        document: impl FnOnce() -> Value,
    ) -> Option<Answer> {
        if method != "GET" {
            let text = "the server does not allow this method on the requested resource";
            let code = StatusCode::METHOD_NOT_ALLOWED;
            return Some(failure(code, "MethodNotAllowed", text, Value::Null));
        }
        let rest = path.strip_prefix("/openapi/v3")?;
        if rest.is_empty() {
            let root = self.root();
            let place = json!({"serverRelativeURL": format!("/openapi/v3{root}?hash=1")});
            return Some((200, json!({"paths": {root.trim_start_matches('/'): place}})));
        }
        (rest == self.root()).then(|| (200, document()))
    }

    /// There is no such object.
    #[must_use]
    pub fn not_found(&self, resource: &str, name: &str) -> Answer {
        let text = format!("{resource}.{} {name:?} not found", self.group);
        let details = json!({"name": name, "group": self.group, "kind": resource});
        failure(StatusCode::NOT_FOUND, "NotFound", &text, details)
    }

    /// The list of its resources.
    #[must_use]
    pub fn resources(&self, resources: Value) -> Answer {
        let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": self.group_version(),
            "resources": resources});
        (200, list)
    }

    /// The object by which it is found.
    #[must_use]
    pub fn api_service(&self) -> Value {
        let name = format!("{}.{}", self.version, self.group);
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
            "spec": {"service": {"name": self.service, "namespace": "kube-system", "port": 443},
                "group": self.group, "version": self.version,
                "insecureSkipTLSVerify": true, "groupPriorityMinimum": 100, "versionPriority": 100}})
    }

    /// A kind, as the OpenAPI document names it.
    #[must_use]
    pub fn kind(&self, kind: &str) -> Value {
        json!({"group": self.group, "version": self.version, "kind": kind})
    }

    /// A reference to a schema of the OpenAPI document.
    #[must_use]
    pub fn reference(&self, name: &str) -> Value {
        json!({"$ref": format!("#/components/schemas/{}{name}", self.schemas)})
    }

    /// How a path is read: `action` is `get` or `list`, `kind` that of one object, `answer` the schema.
    #[must_use]
    pub fn reading(&self, id: &str, action: &str, kind: &str, answer: &str) -> Value {
        let content = json!({"application/json": {"schema": self.reference(answer)}});
        json!({"get": {
            "operationId": id, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": self.kind(kind),
            "responses": {"200": {"description": "OK", "content": content}},
        }})
    }

    /// The OpenAPI document.
    #[must_use]
    pub fn document<'a>(
        &self,
        paths: Value,
        schemas: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Value {
        let schemas = schemas.into_iter();
        let schemas = schemas.map(|(name, schema)| (format!("{}{name}", self.schemas), schema));
        json!({
            "openapi": "3.0.0", "info": {"title": self.title, "version": self.version}, "paths": paths,
            "components": {"schemas": Map::from_iter(schemas)},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const API: OwnApi = OwnApi {
        group: "g.local",
        version: "v1",
        service: "s",
        title: "T",
        schemas: "local.g.v1.",
    };

    #[test]
    fn its_document_is_where_the_index_says() {
        let ask = |method, path: &str| API.common(method, path, || API.document(json!({}), []));
        let index = ask("GET", "/openapi/v3").unwrap().1;
        let place = index["paths"]["apis/g.local/v1"]["serverRelativeURL"].as_str();
        let (path, _) = place.unwrap().split_once('?').unwrap();
        assert_eq!(ask("GET", path).unwrap().1["info"]["title"], "T");
        assert_eq!(ask("GET", "/openapi/v3/apis/other/v1"), None);
        assert_eq!(ask("GET", &API.root()), None);
        assert_eq!(ask("POST", &API.root()).unwrap().0, 405);
    }

    #[test]
    fn what_is_not_there_is_told_as_upstream_tells_it() {
        let (code, status) = API.not_found("things", "t");
        assert_eq!(code, 404);
        assert_eq!(status["message"], "things.g.local \"t\" not found");
        assert_eq!(
            status["details"],
            json!({"name": "t", "group": "g.local", "kind": "things"})
        );
        assert_eq!(no_such_path().1.get("details"), None);
    }
}
