//! Conditions on the review of a request, under which a webhook is asked about it.

use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use skiff_cel::{Bindings, Environment, Program, Schema, Type, Value};

/// A condition that was compiled.
#[derive(Debug)]
pub(crate) struct Condition {
    text: String,
    program: Program,
}

fn schema() -> &'static Arc<Schema> {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let text = Schema::string;
        let strings = || Schema::list(text());
        let requirement = |name: &str| {
            Schema::object(
                name,
                [("key", text()), ("operator", text()), ("values", strings())],
            )
        };
        let selector = |name: &str, of: &str| {
            let requirements = Schema::list(requirement(of));
            Schema::object(
                name,
                [("rawSelector", text()), ("requirements", requirements)],
            )
        };
        let field = selector(
            "kubernetes.FieldSelectorAttributes",
            "kubernetes.SelectorRequirement",
        );
        let label = selector(
            "kubernetes.LabelSelectorAttributes",
            "kubernetes.SelectorRequirement",
        );
        let resource = Schema::object(
            "kubernetes.ResourceAttributes",
            [
                ("namespace", text()),
                ("verb", text()),
                ("group", text()),
                ("version", text()),
                ("resource", text()),
                ("subresource", text()),
                ("name", text()),
                ("fieldSelector", field),
                ("labelSelector", label),
            ],
        );
        let path = Schema::object(
            "kubernetes.NonResourceAttributes",
            [("path", text()), ("verb", text())],
        );
        Schema::object(
            "kubernetes.SubjectAccessReviewSpec",
            [
                ("resourceAttributes", resource),
                ("nonResourceAttributes", path),
                ("user", text()),
                ("groups", strings()),
                ("extra", Schema::map(strings())),
                ("uid", text()),
            ],
        )
    })
}

impl Condition {
    /// Compiles an expression; what is wrong with it otherwise.
    pub fn compile(text: &str) -> Result<Self, String> {
        let environment = Environment::new().variable_of("request", schema().clone());
        let program = environment
            .compile(text)
            .map_err(|error| format!("compilation failed: {error}"))?;
        if !matches!(program.output_type(), Type::Bool) {
            return Err("must evaluate to bool".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
            program,
        })
    }

    /// Whether the condition holds for the specification of a SubjectAccessReview. Fields that it leaves out are empty to
    /// the expression, but for the two kinds of attributes.
    pub fn holds(&self, request: &Json) -> Result<bool, String> {
        let request = complete(request);
        let value =
            Value::from_typed_json(&request, schema()).map_err(|error| error.to_string())?;
        let bindings = Bindings::new().with("request", value);
        let found = self
            .program
            .evaluate(&bindings, skiff_cel::PER_CALL_LIMIT)
            .result;
        let failed = |why: String| {
            format!(
                "cel evaluation error: expression '{}' resulted in error: {why}",
                self.text
            )
        };
        let found = found.map_err(|error| failed(error.to_string()))?;
        found
            .as_bool()
            .ok_or_else(|| failed("no truth value".to_owned()))
    }
}

fn complete(request: &Json) -> Json {
    let mut request = request.clone();
    let fill = |object: &mut Json, names: &[&str]| {
        for name in names {
            if object[name].is_null() {
                object[name] = "".into();
            }
        }
    };
    fill(&mut request, &["user", "uid"]);
    if request["groups"].is_null() {
        request["groups"] = Json::Array(Vec::new());
    }
    if request["extra"].is_null() {
        request["extra"] = Json::Object(serde_json::Map::new());
    }
    if request["resourceAttributes"].is_object() {
        let names = [
            "namespace",
            "verb",
            "group",
            "version",
            "resource",
            "subresource",
            "name",
        ];
        fill(&mut request["resourceAttributes"], &names);
    }
    if request["nonResourceAttributes"].is_object() {
        fill(&mut request["nonResourceAttributes"], &["path", "verb"]);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_see_the_request() {
        let request = json!({"user": "jane", "groups": ["dev"], "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "a"}});
        let holds = |text: &str| Condition::compile(text).unwrap().holds(&request);
        assert_eq!(
            holds("request.resourceAttributes.namespace == 'a'"),
            Ok(true)
        );
        assert_eq!(holds("has(request.nonResourceAttributes)"), Ok(false));
        assert_eq!(
            holds("!('system:serviceaccounts' in request.groups)"),
            Ok(true)
        );
        assert_eq!(holds("request.resourceAttributes.group == ''"), Ok(true));
        assert!(holds("request.nonResourceAttributes.path == '/x'").is_err());
        assert!(Condition::compile("request.user").is_err());
        assert!(Condition::compile("request.usr == 'a'").is_err());
    }
}
