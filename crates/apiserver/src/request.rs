//! What a request asks for, and on whose behalf: the path and verb resolved as upstream's RequestInfo does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// For example `system:node:worker-1`.
    pub name: String,
    /// Distinguishes users of one name over time; may be empty.
    pub uid: String,
    /// For example `system:masters`, `system:authenticated`.
    pub groups: Vec<String>,
    /// What the authenticator adds, for example `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with groups; `system:authenticated` is not added.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Whether the user is in `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }
}

/// What an authorizer decides on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, any other word of a
    /// review; for paths that are no resource the HTTP method in lower case.
    pub verb: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// The API group, empty for the core.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The plural, for example `pods`.
    pub resource: String,
    /// For example `status`; empty for the object itself.
    pub subresource: String,
    /// Empty for collections.
    pub name: String,
    /// The path, for requests that are no resource requests.
    pub path: String,
    /// Whether the request is for a resource.
    pub is_resource: bool,
    /// The label selector of a list, watch or deletecollection, as sent; empty for none.
    pub label_selector: String,
    /// The field selector, as sent; empty for none.
    pub field_selector: String,
}

/// What a path and a method mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// As [`Attributes::verb`].
    pub verb: String,
    /// The API group, empty for the core.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace in the path; for `namespaces` themselves their name.
    pub namespace: String,
    /// The plural.
    pub resource: String,
    /// The subresource, empty for none.
    pub subresource: String,
    /// The object's name, empty for collections.
    pub name: String,
    /// What follows the subresource in the path, as sent: for proxies.
    pub rest: String,
    /// The path, as sent.
    pub path: String,
    /// Whether a collection is meant by the path (the name may come from a field selector).
    pub collection: bool,
}

/// So many segments of a path say something: `apis`, group, version, `watch`, `namespaces`, a namespace, resource, name,
/// subresource, and whether there is more.
const MOST_SEGMENTS: usize = 10;

impl RequestInfo {
    /// Resolves a method, path and query.
    #[must_use]
    pub fn resolve(method: &http::Method, path: &str, query: Option<&str>) -> Self {
        let mut info = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        let mut segments: [Cow<'_, str>; MOST_SEGMENTS] = Default::default();
        let sent = path.split('/').filter(|s| !s.is_empty()).map(decoded);
        let mut count = 0;
        for (segment, sent) in segments.iter_mut().zip(sent) {
            *segment = sent;
            count += 1;
        }
        let mut parts: &[Cow<'_, str>] = &segments[..count];
        // How many raw segments were used up, to find `rest` in the path as sent.
        let mut used;
        match parts {
            [api, version, tail @ ..] if api == "api" && !tail.is_empty() => {
                info.version.push_str(version);
                parts = tail;
                used = 2;
            }
            [apis, group, version, tail @ ..] if apis == "apis" && !tail.is_empty() => {
                info.group.push_str(group);
                info.version.push_str(version);
                parts = tail;
                used = 3;
            }
            _ => {
                info.verb = method.as_str().to_ascii_lowercase();
                return info;
            }
        }
        info.is_resource = true;
        info.verb = match *method {
            http::Method::POST => "create",
            http::Method::GET | http::Method::HEAD => "get",
            http::Method::PUT => "update",
            http::Method::PATCH => "patch",
            http::Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        let mut legacy_watch = false;
        if parts.len() > 1 && parts[0] == "watch" {
            legacy_watch = true;
            parts = &parts[1..];
            used += 1;
        }
        if parts[0] == "namespaces"
            && let Some(namespace) = parts.get(1)
        {
            info.namespace.push_str(namespace);
            let own = parts
                .get(2)
                .is_none_or(|sub| sub == "status" || sub == "finalize");
            if !own {
                parts = &parts[2..];
                used += 2;
            }
        }
        info.resource.push_str(&parts[0]);
        if let Some(name) = parts.get(1) {
            info.name.push_str(name);
        }
        if let Some(subresource) = parts.get(2) {
            info.subresource.push_str(subresource);
        }
        if parts.len() > 3 || (parts.len() == 3 && path.ends_with('/')) {
            info.rest = after_segments(path, used + 3).to_owned();
        }
        info.collection = info.name.is_empty();
        if legacy_watch {
            "watch".clone_into(&mut info.verb);
        } else if info.collection && info.verb == "get" {
            let watch = query_value(query, "watch").is_some_and(|value| is_true(&value));
            info.verb = if watch { "watch" } else { "list" }.to_owned();
        } else if info.collection && info.verb == "delete" {
            "deletecollection".clone_into(&mut info.verb);
        }
        if info.collection
            && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
            && let Some(name) = query_value(query, "fieldSelector")
                .as_deref()
                .and_then(selected_name)
        {
            name.clone_into(&mut info.name);
        }
        info
    }

    /// What the authorizer decides on.
    #[must_use]
    pub fn attributes(&self, user: Arc<UserInfo>, query: Option<&str>) -> Attributes {
        let selecting = matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        let selector = |name| {
            if selecting {
                query_value(query, name).unwrap_or_default()
            } else {
                String::new()
            }
        };
        Attributes {
            user,
            verb: self.verb.clone(),
            namespace: self.namespace.clone(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            name: self.name.clone(),
            path: if self.is_resource {
                String::new()
            } else {
                self.path.clone()
            },
            is_resource: self.is_resource,
            label_selector: selector("labelSelector"),
            field_selector: selector("fieldSelector"),
        }
    }
}

/// The name that a field selector asks for by itself.
fn selected_name(selector: &str) -> Option<&str> {
    let wanted = selector.split(',').find_map(|term| {
        let value = term
            .trim()
            .strip_prefix("metadata.name")?
            .strip_prefix('=')?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })?;
    (!wanted.is_empty() && !wanted.contains('\\')).then_some(wanted)
}

/// Whether a boolean query parameter is on, as Go's `strconv.ParseBool` reads it; what it cannot read is off
/// but for upstream's rule that a bare parameter (`?watch`) counts as on.
#[must_use]
pub fn is_true(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "false" | "0" | "f")
}

/// The first value of a query parameter.
#[must_use]
pub fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    query_pairs(query)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// The query's parameters, decoded.
pub fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> + '_ {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                decode(&key.replace('+', " ")),
                decode(&value.replace('+', " ")),
            )
        })
}

/// Percent-decodes; what is not valid stays as it is.
#[must_use]
pub fn decode(text: &str) -> String {
    decoded(text).into_owned()
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |i: usize| bytes.get(i).and_then(|c| (*c as char).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// What follows the first `count` segments of a path, with its leading slash.
fn after_segments(path: &str, count: usize) -> &str {
    let mut seen = 0;
    let mut in_segment = false;
    for (at, byte) in path.bytes().enumerate() {
        if byte == b'/' {
            if in_segment && seen == count {
                return &path[at..];
            }
            in_segment = false;
        } else if !in_segment {
            in_segment = true;
            seen += 1;
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(method: &str, target: &str) -> RequestInfo {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(p, q)| (p, Some(q)));
        RequestInfo::resolve(&method.parse().unwrap(), path, query)
    }

    #[test]
    fn resolves_paths_and_verbs() {
        // method, target, verb, group/version, namespace, resource/subresource, name
        let table = [
            ("GET", "/api/v1/pods", "list", "/v1", "", "pods/", ""),
            (
                "GET",
                "/api/v1/pods?watch=true",
                "watch",
                "/v1",
                "",
                "pods/",
                "",
            ),
            (
                "GET",
                "/api/v1/pods?watch=0",
                "list",
                "/v1",
                "",
                "pods/",
                "",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/a/pods",
                "watch",
                "/v1",
                "a",
                "pods/",
                "",
            ),
            (
                "GET",
                "/api/v1/namespaces",
                "list",
                "/v1",
                "",
                "namespaces/",
                "",
            ),
            (
                "GET",
                "/api/v1/namespaces/a",
                "get",
                "/v1",
                "a",
                "namespaces/",
                "a",
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update",
                "/v1",
                "a",
                "namespaces/finalize",
                "a",
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/status",
                "update",
                "/v1",
                "a",
                "namespaces/status",
                "a",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods",
                "create",
                "/v1",
                "a",
                "pods/",
                "",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods",
                "deletecollection",
                "/v1",
                "a",
                "pods/",
                "",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods/b",
                "delete",
                "/v1",
                "a",
                "pods/",
                "b",
            ),
            (
                "GET",
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                "get",
                "apps/v1",
                "a",
                "deployments/scale",
                "b",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/b",
                "patch",
                "apps/v1",
                "a",
                "deployments/",
                "b",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db",
                "list",
                "/v1",
                "a",
                "pods/",
                "b",
            ),
            ("GET", "/api/v1/nodes/n1", "get", "/v1", "", "nodes/", "n1"),
        ];
        for (method, target, verb, gv, namespace, resource, name) in table {
            let info = resolve(method, target);
            assert!(info.is_resource, "{target}");
            assert_eq!(info.verb, verb, "{target}");
            assert_eq!(format!("{}/{}", info.group, info.version), gv, "{target}");
            assert_eq!(info.namespace, namespace, "{target}");
            assert_eq!(
                format!("{}/{}", info.resource, info.subresource),
                resource,
                "{target}"
            );
            assert_eq!(info.name, name, "{target}");
        }
    }

    #[test]
    fn other_paths_are_no_resources() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3/apis/apps/v1",
        ] {
            let info = resolve("GET", path);
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn keeps_the_rest_of_a_proxy_path_as_sent() {
        let info = resolve(
            "GET",
            "/api/v1/namespaces/a/services/http:web:80/proxy/x%20y//z/",
        );
        assert_eq!(info.name, "http:web:80");
        assert_eq!(info.rest, "/x%20y//z/");
        assert_eq!(resolve("GET", "/api/v1/nodes/n/proxy/").rest, "/");
        assert_eq!(resolve("GET", "/api/v1/nodes/n/proxy").rest, "");
    }
}
