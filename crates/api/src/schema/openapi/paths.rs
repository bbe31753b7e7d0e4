//! The paths in OpenAPI documents: what requests a kind takes.

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::kind::{Kind, Scope, Verb};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const MEDIA_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// A query parameter: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "Whether the answer is indented.");
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "All: everything but the change itself is done.",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "The name under which the changed fields are owned.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What is done about unknown and duplicate fields: Ignore, Warn or Strict.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Apply takes over fields that others own.",
);
const CHANGE: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: &[Parameter] = &[
    PRETTY,
    DRY_RUN,
    (
        "gracePeriodSeconds",
        "integer",
        "How long the object has to end.",
    ),
    (
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy.",
    ),
    (
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
];
const LIST: &[Parameter] = &[
    PRETTY,
    (
        "allowWatchBookmarks",
        "boolean",
        "A watch may send bookmarks.",
    ),
    (
        "continue",
        "string",
        "Where the last part of the list ended.",
    ),
    ("fieldSelector", "string", "Only objects with these fields."),
    ("labelSelector", "string", "Only objects with these labels."),
    ("limit", "integer", "How many objects are listed at most."),
    ("resourceVersion", "string", "From which version on."),
    (
        "resourceVersionMatch",
        "string",
        "How the resource version is meant.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "A watch begins with the objects there are.",
    ),
    ("timeoutSeconds", "integer", "When the request ends."),
    ("watch", "boolean", "Changes are streamed."),
];

/// What a request brings and an answer holds.
#[derive(Clone, Copy)]
enum Body<'a> {
    None,
    Schema(&'a str),
    Patch,
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

/// The paths of a kind and its subresources.
pub(super) fn of_kind(kind: &Kind, dialect: Dialect) -> Vec<(String, Value)> {
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
            let item = path_item(&path, gvk, &operations, dialect);
            paths.push((path, item));
        }
    };
    let gvk = (kind.group, kind.version, kind.kind);
    if namespaced && kind.verbs.contains(&Verb::List) {
        let mut list = collection(kind);
        list.retain(|operation| operation.action == "list");
        for operation in &mut list {
            operation.id = format!("{}ForAllNamespaces", operation_id(kind, "list", ""));
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
        add(path, subresource.kind, of_subresource(kind, subresource));
    }
    paths
}

fn operation_id(kind: &Kind, verb: &str, suffix: &str) -> String {
    let capital = |text: &str| {
        let mut chars = text.chars();
        chars.next().map_or_else(String::new, |first| {
            first.to_uppercase().chain(chars).collect()
        })
    };
    let group = if kind.group.is_empty() {
        "core"
    } else {
        kind.group.split('.').next().unwrap_or_default()
    };
    // A list may go over all namespaces.
    let scope = if kind.scope == Scope::Namespaced && verb != "list" {
        "Namespaced"
    } else {
        ""
    };
    format!(
        "{verb}{}{}{scope}{}{}",
        capital(group),
        capital(kind.version),
        kind.kind,
        capital(suffix)
    )
}

fn collection(kind: &Kind) -> Vec<Operation<'_>> {
    let mut operations = Vec::new();
    let list = Some(format!("{}List", kind.schema));
    for verb in kind.verbs {
        match verb {
            Verb::List => operations.push(Operation {
                method: "get",
                action: "list",
                id: format!("{}Collection", operation_id(kind, "list", "")),
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
                parameters: LIST,
                body: Body::DeleteOptions,
                answer: Some(format!("{META}Status")),
                codes: &["200"],
            }),
            _ => {}
        }
    }
    operations
}

fn single(kind: &Kind) -> Vec<Operation<'_>> {
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
    kind: &'a Kind,
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
                body: Body::Patch,
                answer: answer(),
                codes: &["200", "201"],
            },
            _ => continue,
        });
    }
    operations
}

fn of_subresource<'a>(
    kind: &'a Kind,
    subresource: &'static crate::Subresource,
) -> Vec<Operation<'a>> {
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
fn connects<'a>(kind: &'a Kind, subresource: &'static crate::Subresource) -> Vec<Operation<'a>> {
    let methods = subresource.verbs.iter().filter_map(|verb| match verb {
        Verb::Get => Some("get"),
        Verb::Create => Some("post"),
        Verb::Update => Some("put"),
        Verb::Patch => Some("patch"),
        Verb::Delete => Some("delete"),
        _ => None,
    });
    methods
        .map(|method| Operation {
            method,
            action: if subresource.name == "log" {
                "get"
            } else {
                "connect"
            },
            id: operation_id(
                kind,
                &format!("connect{}", method.to_uppercase()),
                subresource.name,
            ),
            description: format!(
                "connect {} requests to {} of {}",
                method.to_uppercase(),
                subresource.name,
                kind.kind
            ),
            parameters: &[],
            body: Body::None,
            answer: None,
            codes: &["200"],
        })
        .collect()
}

fn path_item(
    path: &str,
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
        value["x-kubernetes-action"] = operation.action.into();
        value["x-kubernetes-group-version-kind"] =
            json!({"group": gvk.0, "version": gvk.1, "kind": gvk.2});
        item.insert(operation.method.to_owned(), value);
    }
    let in_path = [
        ("{namespace}", "namespace", "The namespace."),
        ("{name}", "name", "The name of the object."),
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
        Body::Patch => format!("{META}Patch"),
        Body::DeleteOptions => format!("{META}DeleteOptions"),
    };
    Some(json!({"$ref": dialect.reference(&name)}))
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
    let consumes: &[&str] = if matches!(operation.body, Body::Patch) {
        &PATCH_TYPES
    } else {
        &["*/*"]
    };
    json!({
        "operationId": operation.id, "description": operation.description, "schemes": ["https"],
        "consumes": consumes, "produces": MEDIA_TYPES, "parameters": parameters, "responses": responses,
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
            response["content"] =
                content(&MEDIA_TYPES, &json!({"$ref": Dialect::V3.reference(name)})).into();
        }
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    let mut value = json!({
        "operationId": operation.id, "description": operation.description,
        "parameters": query(operation, Dialect::V3), "responses": responses,
    });
    if let Some(schema) = body_schema(operation.body, Dialect::V3) {
        let types: &[&str] = if matches!(operation.body, Body::Patch) {
            &PATCH_TYPES
        } else {
            &["*/*"]
        };
        value["requestBody"] = json!({"content": content(types, &schema)});
    }
    value
}
