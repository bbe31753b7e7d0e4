//! A custom resource's object: typed metadata, the rest as the JSON that it is.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use super::structural::Node;
use crate::object::Object;
use crate::schema::body::Target;
use crate::schema::{Field, Schema, Type, TypeDef, TypeId, built_in};

/// An object of a custom resource.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomObject {
    /// For example `stable.example.com/v1`.
    pub api_version: Arc<str>,
    /// For example `CronTab`.
    pub kind: Arc<str>,
    /// The metadata.
    pub metadata: ObjectMeta,
    /// All other fields.
    pub rest: Map<String, Value>,
}

impl CustomObject {
    /// Takes JSON apart.
    ///
    /// # Errors
    /// The message of the decoder: the metadata is none, or the value no object.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(mut rest) = value else {
            return Err("the object provided is no JSON object".to_owned());
        };
        let mut text = |name: &str| match rest.remove(name) {
            Some(Value::String(text)) => Arc::from(text),
            _ => Arc::from(""),
        };
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let metadata = match rest.remove("metadata") {
            None | Some(Value::Null) => ObjectMeta::default(),
            Some(value) => serde_json::from_value(value).map_err(|error| error.to_string())?,
        };
        Ok(Self {
            api_version,
            kind,
            metadata,
            rest,
        })
    }
}

impl Object for CustomObject {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn to_value(&self) -> Value {
        let mut value = self.rest.clone();
        value.insert("apiVersion".to_owned(), Value::from(&*self.api_version));
        value.insert("kind".to_owned(), Value::from(&*self.kind));
        // Serialising the generated types cannot fail: their maps have string keys.
        let metadata = serde_json::to_value(&self.metadata).unwrap_or_default();
        value.insert("metadata".to_owned(), metadata);
        value.into()
    }
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.to_value()).unwrap_or_default()
    }
    fn clone_box(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// What bodies are checked against: the metadata has its type, what else is there is judged by the definition's schema
/// later.
#[must_use]
pub fn target<'a>(
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    pruned_by: Option<&'a Node>,
) -> Target<'a> {
    static OPEN: LazyLock<(Schema, TypeId)> = LazyLock::new(|| {
        let mut schema = Schema::over(built_in());
        let root = root_type(&schema, Vec::new(), true);
        let root = schema.add(root);
        (schema, root)
    });
    Target {
        schema: &OPEN.0,
        root: OPEN.1,
        group,
        version,
        kind,
        pruned_by,
    }
}

/// The type of an object as a whole: what all objects have, and `fields`.
pub(crate) fn root_type(schema: &Schema, mut fields: Vec<Field>, open: bool) -> TypeDef {
    let metadata = match schema.find("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
        Some(id) => Type::Object(id),
        None => Type::Any,
    };
    for (name, ty) in [
        ("apiVersion", Type::String),
        ("kind", Type::String),
        ("metadata", metadata),
    ] {
        fields.retain(|field| field.name != name);
        fields.push(Field {
            embedded: name == "metadata",
            ..Field::new(name, ty)
        });
    }
    TypeDef {
        name: "CustomResource".into(),
        fields,
        open,
        ..TypeDef::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_comes_out_as_it_went_in() {
        let value = json!({
            "apiVersion": "e.com/v1", "kind": "Foo", "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"n": null, "l": [1, 2.5, "x"]}, "other": true,
        });
        let object = CustomObject::from_value(value.clone()).unwrap();
        assert_eq!(object.to_value(), value);
        assert_eq!(
            serde_json::from_slice::<Value>(&object.to_bytes()).unwrap(),
            value
        );
        assert_eq!(object.metadata().name.as_deref(), Some("a"));
        assert!(CustomObject::from_value(json!([])).is_err());
        assert!(CustomObject::from_value(json!({"metadata": 1})).is_err());
    }
}
