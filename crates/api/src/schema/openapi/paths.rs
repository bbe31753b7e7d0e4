//! The paths in OpenAPI documents: what requests a kind takes.

mod parameters;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::kind::{Kind, Scope, Verb};
use parameters::*;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const CUSTOM_PATCH_TYPES: [&str; 3] = [PATCH_TYPES[0], PATCH_TYPES[1], PATCH_TYPES[3]];
const MEDIA_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
/// What a request brings and an answer holds.
#[derive(Clone, Copy)]
enum Body<'a> {
    None,
    Schema(&'a str),
    /// A patch of one of these types.
    Patch(&'static [&'static str]),
    DeleteOptions,
}

struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    id: String,
    description: String,
    parameters: &'static [Parameter],
    body: Body<'a>,
    answer: Option<String>,
    codes: &'static [&'static str],
}

/// What paths are made of.
pub(super) struct Described<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub plural: &'a str,
    pub schema: &'a str,
    pub list_schema: String,
    pub scope: Scope,
    pub verbs: &'a [Verb],
    /// Whether strategic merge patches are taken: those of custom resources are not, and `kubectl apply` looks here.
    pub strategic: bool,
    pub subresources: &'static [crate::Subresource],
}

impl Described<'_> {
    fn patches(&self) -> &'static [&'static str] {
        match self.strategic {
            true => &PATCH_TYPES,
            false => &CUSTOM_PATCH_TYPES,
        }
    }
}

impl<'a> From<&'a Kind> for Described<'a> {
    fn from(kind: &'a Kind) -> Self {
        Self {
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            plural: kind.plural,
            schema: kind.schema,
            list_schema: format!("{}List", kind.schema),
            scope: kind.scope,
            verbs: kind.verbs,
            strategic: true,
            subresources: kind.subresources,
        }
    }
}

/// The paths of a kind and its subresources.
pub(super) fn of_kind(kind: &Kind, dialect: Dialect) -> Vec<(String, Value)> {
    of(&Described::from(kind), dialect)
}

/// The same, of a kind that need not be built in.
pub(super) fn of(kind: &Described<'_>, dialect: Dialect) -> Vec<(String, Value)> {
    let base = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let namespaced = kind.scope == Scope::Namespaced;
    let scope = if namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let mut paths = Vec::new();
    let mut add = |path: String, gvk: (&str, &str, &str), operations: Vec<Operation<'_>>| {
        if !operations.is_empty() {
            let tag = format!("{}_{}", group_name(kind.group), kind.version);
            let item = path_item(&path, &tag, gvk, &operations, dialect);
            paths.push((path, item));
        }
    };
    let gvk = (kind.group, kind.version, kind.kind);
    if namespaced && kind.verbs.contains(&Verb::List) {
        let mut list = collection(kind);
        list.retain(|operation| operation.action == "list");
        for operation in &mut list {
            operation.id = id_for_all(kind, "list", "");
        }
        add(format!("{base}/{}", kind.plural), gvk, list);
    }
    add(
        format!("{base}{scope}/{}", kind.plural),
        gvk,
        collection(kind),
    );
    add(
        format!("{base}{scope}/{}/{{name}}", kind.plural),
        gvk,
        single(kind),
    );
    for subresource in kind.subresources {
        let path = format!(
            "{base}{scope}/{}/{{name}}/{}",
            kind.plural, subresource.name
        );
        if subresource.name == "proxy" {
            let mut deeper = connects(kind, subresource);
            for operation in &mut deeper {
                operation.id.push_str("WithPath");
            }
            add(format!("{path}/{{path}}"), subresource.kind, deeper);
        }
        let of_own = subresource.kind.2.is_empty();
        let shown = if of_own { gvk } else { subresource.kind };
        add(path, shown, of_subresource(kind, subresource));
    }
    if kind.verbs.contains(&Verb::Watch) {
        let all = format!("{base}/watch/{}", kind.plural);
        let own = format!("{base}/watch{scope}/{}", kind.plural);
        let mut list = watch(kind, "watchlist");
        if namespaced {
            list.id = id_for_all(kind, "watch", "List");
            add(all, gvk, vec![list]);
        }
        add(own.clone(), gvk, vec![watch(kind, "watchlist")]);
        add(format!("{own}/{{name}}"), gvk, vec![watch(kind, "watch")]);
    }
    paths
}

/// The paths of discovery and what is served beside it, in the order of the alphabet; version 2 lists them, too.
pub(super) fn of_discovery(kinds: &'static [Kind]) -> BTreeMap<String, Value> {
    let mut paths = BTreeMap::new();
    let mut add = |path: String,
                   tag: String,
                   id: String,
                   what: &str,
                   answer: &str,
                   media: &[&str]| {
        let schema = match answer {
            "" => json!({"type": "string"}),
            name => json!({"$ref": Dialect::V2.reference(name)}),
        };
        let responses = json!({"200": {"description": "OK", "schema": schema}, "401": {"description": "Unauthorized"}});
        let mut get = json!({"description": what, "produces": media, "schemes": ["https"], "tags": [tag],
            "operationId": id, "responses": responses});
        if !answer.is_empty() {
            get["consumes"] = json!(media);
        }
        paths.insert(path, json!({"get": get}));
    };
    let meta = |name: &str| format!("{META}{name}");
    let (versions, groups) = (meta("APIVersions"), meta("APIGroupList"));
    let (group, resources) = (meta("APIGroup"), meta("APIResourceList"));
    const JSON: &[&str] = &["application/json"];
    add(
        "/api/".into(),
        "core".into(),
        "getCoreAPIVersions".into(),
        "the versions of the core group",
        &versions,
        &MEDIA_TYPES,
    );
    add(
        "/apis/".into(),
        "apis".into(),
        "getAPIVersions".into(),
        "the groups",
        &groups,
        &MEDIA_TYPES,
    );
    let info = "io.k8s.apimachinery.pkg.version.Info";
    add(
        "/version/".into(),
        "version".into(),
        "getCodeVersion".into(),
        "the version of the server",
        info,
        JSON,
    );
    for (path, tag, id, media) in [
        (
            "/.well-known/openid-configuration/",
            "WellKnown",
            "Configuration",
            JSON,
        ),
        (
            "/openid/v1/jwks/",
            "openid",
            "Keyset",
            &["application/jwk-set+json"],
        ),
    ] {
        let id = format!("getServiceAccountIssuerOpenID{id}");
        add(
            path.into(),
            tag.into(),
            id,
            "who issues tokens of service accounts",
            "",
            media,
        );
    }
    for kind in kinds {
        let (tag, version) = (group_name(kind.group), kind.version);
        let id = format!("get{}", capital(&tag));
        let base = match kind.group {
            "" => "/api/".to_owned(),
            name => format!("/apis/{name}/"),
        };
        if !kind.group.is_empty() {
            add(
                base.clone(),
                tag.clone(),
                format!("{id}APIGroup"),
                "a group",
                &group,
                &MEDIA_TYPES,
            );
        }
        let id = format!("{id}{}APIResources", capital(version));
        let tag = format!("{tag}_{version}");
        add(
            format!("{base}{version}/"),
            tag,
            id,
            "the resources of a version",
            &resources,
            &MEDIA_TYPES,
        );
    }
    paths
}

/// The old form of a watch, with the word in the path.
fn watch<'a>(kind: &Described<'_>, action: &'static str) -> Operation<'a> {
    let (suffix, what) = match action {
        "watch" => ("", "an object"),
        _ => ("List", "a list"),
    };
    Operation {
        method: "get",
        action,
        id: format!("{}{suffix}", operation_id(kind, "watch", "")),
        description: format!(
            "watch changes to {what} of kind {}; deprecated: use the parameter watch of a list",
            kind.kind
        ),
        parameters: LIST,
        body: Body::None,
        answer: Some(format!("{META}WatchEvent")),
        codes: &["200"],
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// `core`, `apps`, `rbacAuthorization`: a group as names in programs have it.
fn group_name(group: &str) -> String {
    let short = match group {
        "" => "core",
        group => group.strip_suffix(".k8s.io").unwrap_or(group),
    };
    let mut parts = short.split('.');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &capital(part))
}

fn operation_id(kind: &Described<'_>, verb: &str, suffix: &str) -> String {
    let scope = match kind.scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "",
    };
    let group = capital(&group_name(kind.group));
    let version = capital(kind.version);
    // A collection is named before the scope.
    let (verb, collection) = match verb {
        "deleteCollection" => ("delete", "Collection"),
        verb => (verb, ""),
    };
    format!(
        "{verb}{group}{version}{collection}{scope}{}{}",
        kind.kind,
        capital(suffix)
    )
}

/// The same for all namespaces.
fn id_for_all(kind: &Described<'_>, verb: &str, suffix: &str) -> String {
    let group = capital(&group_name(kind.group));
    let version = capital(kind.version);
    format!(
        "{verb}{group}{version}{}{suffix}ForAllNamespaces",
        kind.kind
    )
}

fn collection<'a>(kind: &'a Described<'a>) -> Vec<Operation<'a>> {
    let mut operations = Vec::new();
    let list = Some(kind.list_schema.clone());
    for verb in kind.verbs {
        match verb {
            Verb::List => operations.push(Operation {
                method: "get",
                action: "list",
                id: operation_id(kind, "list", ""),
                description: format!("list or watch objects of kind {}", kind.kind),
                parameters: LIST,
                body: Body::None,
                answer: list.clone(),
                codes: &["200"],
            }),
            Verb::Create => operations.push(Operation {
                method: "post",
                action: "post",
                id: operation_id(kind, "create", ""),
                description: format!("create a {}", kind.kind),
                parameters: CHANGE,
                body: Body::Schema(kind.schema),
                answer: Some(kind.schema.to_owned()),
                codes: &["200", "201", "202"],
            }),
            Verb::DeleteCollection => operations.push(Operation {
                method: "delete",
                action: "deletecollection",
                id: operation_id(kind, "deleteCollection", ""),
                description: format!("delete collection of {}", kind.kind),
                parameters: DELETE_COLLECTION,
                body: Body::DeleteOptions,
                answer: Some(format!("{META}Status")),
                codes: &["200"],
            }),
            _ => {}
        }
    }
    operations
}

fn single<'a>(kind: &'a Described<'a>) -> Vec<Operation<'a>> {
    let has = |verb: &Verb| kind.verbs.contains(verb);
    let mut operations = changes(kind, "", kind.schema, kind.verbs);
    if has(&Verb::Delete) {
        operations.push(Operation {
            method: "delete",
            action: "delete",
            id: operation_id(kind, "delete", ""),
            description: format!("delete a {}", kind.kind),
            parameters: DELETE,
            body: Body::DeleteOptions,
            answer: Some(format!("{META}Status")),
            codes: &["200", "202"],
        });
    }
    operations
}

/// Reading, replacing and patching an object or its subresource.
fn changes<'a>(
    kind: &'a Described<'a>,
    suffix: &str,
    schema: &'a str,
    verbs: &[Verb],
) -> Vec<Operation<'a>> {
    let what = if suffix.is_empty() {
        String::new()
    } else {
        format!("{suffix} of ")
    };
    let answer = || Some(schema.to_owned());
    let mut operations = Vec::new();
    for verb in verbs {
        operations.push(match verb {
            Verb::Get => Operation {
                method: "get",
                action: "get",
                id: operation_id(kind, "read", suffix),
                description: format!("read {what}the specified {}", kind.kind),
                parameters: &[PRETTY],
                body: Body::None,
                answer: answer(),
                codes: &["200"],
            },
            Verb::Update => Operation {
                method: "put",
                action: "put",
                id: operation_id(kind, "replace", suffix),
                description: format!("replace {what}the specified {}", kind.kind),
                parameters: CHANGE,
                body: Body::Schema(schema),
                answer: answer(),
                codes: &["200", "201"],
            },
            Verb::Patch => Operation {
                method: "patch",
                action: "patch",
                id: operation_id(kind, "patch", suffix),
                description: format!("partially update {what}the specified {}", kind.kind),
                parameters: PATCH,
                body: Body::Patch(kind.patches()),
                answer: answer(),
                codes: &["200", "201"],
            },
            _ => continue,
        });
    }
    operations
}

fn of_subresource<'a>(
    kind: &'a Described<'a>,
    subresource: &'static crate::Subresource,
) -> Vec<Operation<'a>> {
    if subresource.kind.2.is_empty() {
        return changes(kind, subresource.name, kind.schema, subresource.verbs);
    }
    let find = || {
        let mut kinds = crate::table::known_kinds();
        kinds.find(|other| (other.group, other.version, other.kind) == subresource.kind)
    };
    let Some(other) = find().filter(|_| subresource.name != "log") else {
        return connects(kind, subresource);
    };
    let mut operations = changes(kind, subresource.name, other.schema, subresource.verbs);
    if subresource.verbs.contains(&Verb::Create) {
        operations.push(Operation {
            method: "post",
            action: "post",
            id: operation_id(kind, "create", subresource.name),
            description: format!("create {} of a {}", subresource.name, kind.kind),
            parameters: CHANGE,
            body: Body::Schema(other.schema),
            answer: Some(other.schema.to_owned()),
            codes: &["200", "201", "202"],
        });
    }
    operations
}

/// Subresources that stream.
fn connects<'a>(
    kind: &'a Described<'a>,
    subresource: &'static crate::Subresource,
) -> Vec<Operation<'a>> {
    let methods = subresource.verbs.iter().filter_map(|verb| match verb {
        Verb::Get => Some("get"),
        Verb::Create => Some("post"),
        Verb::Update => Some("put"),
        Verb::Patch => Some("patch"),
        Verb::Delete => Some("delete"),
        _ => None,
    });
    // What a proxy is asked goes through whatever the method is; these have no verb.
    let others: &[&str] = match subresource.name {
        "proxy" => &["head", "options"],
        _ => &[],
    };
    methods
        .chain(others.iter().copied())
        .map(|method| Operation {
            method,
            action: if subresource.name == "log" {
                "get"
            } else {
                "connect"
            },
            id: connect_id(kind, method, subresource.name),
            description: format!(
                "connect {} requests to {} of {}",
                method.to_uppercase(),
                subresource.name,
                kind.kind
            ),
            parameters: connect_parameters(subresource.name),
            body: Body::None,
            answer: None,
            codes: &["200"],
        })
        .collect()
}

fn connect_id(kind: &Described<'_>, method: &str, name: &str) -> String {
    if name == "log" {
        return operation_id(kind, "read", name);
    }
    let id = operation_id(kind, "connect", name);
    // The method comes after the version.
    let head = format!(
        "connect{}{}",
        capital(&group_name(kind.group)),
        capital(kind.version)
    );
    let rest = id.strip_prefix(&head).unwrap_or_default();
    format!("{head}{}{rest}", capital(method))
}

fn path_item(
    path: &str,
    tag: &str,
    gvk: (&str, &str, &str),
    operations: &[Operation<'_>],
    dialect: Dialect,
) -> Value {
    let mut item = Map::new();
    for operation in operations {
        let mut value = match dialect {
            Dialect::V2 => v2(operation),
            Dialect::V3 => v3(operation),
        };
        value["tags"] = json!([tag]);
        value["x-kubernetes-action"] = operation.action.into();
        value["x-kubernetes-group-version-kind"] =
            json!({"group": gvk.0, "version": gvk.1, "kind": gvk.2});
        item.insert(operation.method.to_owned(), value);
    }
    let in_path = [
        ("{namespace}", "namespace", "The namespace."),
        ("{name}", "name", "The name of the object."),
        ("{path}", "path", "The path at the other end."),
    ];
    let parameters: Vec<Value> = in_path
        .iter()
        .filter(|(pattern, ..)| path.contains(pattern))
        .map(|(_, name, description)| {
            let mut parameter =
                json!({"name": name, "in": "path", "required": true, "description": description});
            typed(&mut parameter, "string", dialect);
            parameter
        })
        .collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    item.into()
}

fn typed(parameter: &mut Value, ty: &str, dialect: Dialect) {
    match dialect {
        Dialect::V2 => {
            parameter["type"] = ty.into();
            parameter["uniqueItems"] = true.into();
        }
        Dialect::V3 => parameter["schema"] = json!({"type": ty, "uniqueItems": true}),
    }
}

fn query(operation: &Operation<'_>, dialect: Dialect) -> Vec<Value> {
    let parameters = operation.parameters.iter().map(|(name, ty, description)| {
        let mut parameter = json!({"name": name, "in": "query", "description": description});
        typed(&mut parameter, ty, dialect);
        parameter
    });
    parameters.collect()
}

fn body_schema(body: Body<'_>, dialect: Dialect) -> Option<Value> {
    let name = match body {
        Body::None => return None,
        Body::Schema(name) => name.to_owned(),
        Body::Patch(_) => format!("{META}Patch"),
        Body::DeleteOptions => format!("{META}DeleteOptions"),
    };
    Some(json!({"$ref": dialect.reference(&name)}))
}

/// The media types of the answers.
fn consumes(body: Body<'_>) -> &'static [&'static str] {
    match body {
        Body::Patch(types) => types,
        _ => &["*/*"],
    }
}

fn produces(operation: &Operation<'_>) -> Vec<&'static str> {
    match operation.action {
        "connect" => vec!["*/*"],
        "list" | "watch" | "watchlist" => MEDIA_TYPES
            .iter()
            .copied()
            .chain([
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ])
            .collect(),
        _ if operation.parameters.contains(&LOG_STREAM) => {
            MEDIA_TYPES.iter().copied().chain(["text/plain"]).collect()
        }
        _ => MEDIA_TYPES.to_vec(),
    }
}

fn v2(operation: &Operation<'_>) -> Value {
    let mut parameters = Vec::new();
    if let Some(schema) = body_schema(operation.body, Dialect::V2) {
        let required = !matches!(operation.body, Body::DeleteOptions);
        parameters
            .push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
    }
    parameters.extend(query(operation, Dialect::V2));
    let mut responses = Map::new();
    for code in operation.codes {
        let mut response = json!({"description": "OK"});
        if let Some(name) = &operation.answer {
            response["schema"] = json!({"$ref": Dialect::V2.reference(name)});
        }
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    let consumes = consumes(operation.body);
    json!({
        "operationId": operation.id, "description": operation.description, "schemes": ["https"],
        "consumes": consumes, "produces": produces(operation), "parameters": parameters, "responses": responses,
    })
}

fn v3(operation: &Operation<'_>) -> Value {
    let content = |types: &[&str], schema: &Value| -> Map<String, Value> {
        types
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": schema})))
            .collect()
    };
    let mut responses = Map::new();
    for code in operation.codes {
        let mut response = json!({"description": "OK"});
        if let Some(name) = &operation.answer {
            response["content"] = content(
                &produces(operation),
                &json!({"$ref": Dialect::V3.reference(name)}),
            )
            .into();
        }
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    let mut value = json!({
        "operationId": operation.id, "description": operation.description,
        "parameters": query(operation, Dialect::V3), "responses": responses,
    });
    if let Some(schema) = body_schema(operation.body, Dialect::V3) {
        value["requestBody"] = json!({"content": content(consumes(operation.body), &schema)});
    }
    value
}
