//! What is known of a value before it is there: its type, how it is written in JSON, and how large it can get.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::escape::escape;
use crate::types::{Field, ObjectType, Type};

/// The most bytes a request may have: what bounds lists and strings without a limit of their own.
const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// A type with what its JSON form and the cost estimate need to know.
#[derive(Debug)]
pub struct Schema {
    pub(crate) shape: Shape,
    /// The most elements of a list or map, or characters of a string. `None` where nothing bounds it.
    pub(crate) max_elements: Option<u64>,
    /// The fewest bytes the value takes in JSON.
    pub(crate) min_size: u64,
    pub(crate) nullable: bool,
}

/// How a value is written in JSON.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Whatever stands there.
    Dyn,
    IntOrString,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    List(Arc<Schema>, ListKind),
    Map(Arc<Schema>),
    Object(Arc<ObjectType>),
    /// A value that never stands in JSON.
    Other(Type),
}

/// How a list's elements are told apart (`x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// By position.
    Atomic,
    /// By value; order does not matter.
    Set,
    /// By these properties; order does not matter.
    Map(Vec<String>),
}

/// The schema of a value that nothing is known of.
pub(crate) static DYN: Schema = Schema::new(Shape::Dyn, 1);

impl Schema {
    const fn new(shape: Shape, min_size: u64) -> Self {
        Self {
            shape,
            max_elements: None,
            min_size,
            nullable: false,
        }
    }

    /// A value of any type, taken from JSON as it is.
    pub fn any() -> Arc<Self> {
        Arc::new(Self::new(Shape::Dyn, 1))
    }

    /// Text.
    pub fn string() -> Arc<Self> {
        Arc::new(Self::new(Shape::String, 2))
    }

    /// A whole number.
    pub fn int() -> Arc<Self> {
        Arc::new(Self::new(Shape::Int, 1))
    }

    /// A truth value.
    pub fn bool() -> Arc<Self> {
        Arc::new(Self::new(Shape::Bool, 4))
    }

    /// A list without a bound.
    pub fn list(element: Arc<Self>) -> Arc<Self> {
        Arc::new(Self::new(Shape::List(element, ListKind::Atomic), 2))
    }

    /// A map from strings, without a bound.
    pub fn map(value: Arc<Self>) -> Arc<Self> {
        Arc::new(Self::new(Shape::Map(value), 2))
    }

    /// An object of the named type. Field names are JSON's; those that no identifier can stand for are left out.
    pub fn object<N: AsRef<str>>(
        name: &str,
        fields: impl IntoIterator<Item = (N, Arc<Self>)>,
    ) -> Arc<Self> {
        let fields = fields
            .into_iter()
            .filter_map(|(name, schema)| {
                escape(name.as_ref()).map(|name| (Arc::from(name), Field { schema }))
            })
            .collect();
        Arc::new(Self::new(
            Shape::Object(Arc::new(ObjectType {
                name: Arc::from(name),
                fields,
                open: false,
            })),
            2,
        ))
    }

    /// A variable of this type that is not read from JSON (or, where it is, as it stands there).
    pub fn of(ty: Type) -> Arc<Self> {
        let shape = match ty {
            Type::Dyn => Shape::Dyn,
            Type::Bool => Shape::Bool,
            Type::Int => Shape::Int,
            Type::Uint => Shape::Uint,
            Type::Double => Shape::Double,
            Type::String => Shape::String,
            Type::Bytes => Shape::Bytes,
            Type::Duration => Shape::Duration,
            Type::Timestamp => Shape::DateTime,
            Type::Object(object) => Shape::Object(object),
            Type::List(element) => Shape::List(Self::of(Type::clone(&element)), ListKind::Atomic),
            Type::Map(entry) if entry.0 == Type::String => Shape::Map(Self::of(entry.1.clone())),
            other => Shape::Other(other),
        };
        Arc::new(Self::new(shape, 1))
    }

    /// The same with null allowed.
    pub fn nullable(self: &Arc<Self>) -> Arc<Self> {
        let mut schema = self.shallow();
        schema.nullable = true;
        Arc::new(schema)
    }

    /// The same with so many elements (of a list or map) or characters (of a string) at most.
    pub fn at_most(self: &Arc<Self>, elements: u64) -> Arc<Self> {
        let mut schema = self.shallow();
        schema.max_elements = Some(elements);
        Arc::new(schema)
    }

    /// The type for the checker.
    pub fn to_type(&self) -> Type {
        match &self.shape {
            Shape::Dyn | Shape::IntOrString => Type::Dyn,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Uint => Type::Uint,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Duration => Type::Duration,
            Shape::Date | Shape::DateTime => Type::Timestamp,
            Shape::List(element, _) => Type::list(element.to_type()),
            Shape::Map(value) => Type::map(Type::String, value.to_type()),
            Shape::Object(object) => Type::Object(object.clone()),
            Shape::Other(ty) => ty.clone(),
        }
    }

    /// The most elements (of a list or map) or characters (of a string) that a value has.
    pub fn max_elements(&self) -> Option<u64> {
        self.max_elements
    }

    /// The fewest bytes a value takes in JSON.
    pub fn min_size(&self) -> u64 {
        self.min_size
    }

    /// The schema of a field by its escaped name.
    pub fn field(&self, name: &str) -> Option<&Arc<Schema>> {
        match &self.shape {
            Shape::Object(object) => object.fields.get(name).map(|field| &field.schema),
            _ => None,
        }
    }

    /// The schema of a list's elements or a map's values.
    pub fn element(&self) -> Option<&Arc<Schema>> {
        match &self.shape {
            Shape::List(element, _) | Shape::Map(element) => Some(element),
            _ => None,
        }
    }

    fn shallow(&self) -> Self {
        let shape = match &self.shape {
            Shape::Dyn => Shape::Dyn,
            Shape::IntOrString => Shape::IntOrString,
            Shape::Bool => Shape::Bool,
            Shape::Int => Shape::Int,
            Shape::Uint => Shape::Uint,
            Shape::Double => Shape::Double,
            Shape::String => Shape::String,
            Shape::Bytes => Shape::Bytes,
            Shape::Duration => Shape::Duration,
            Shape::Date => Shape::Date,
            Shape::DateTime => Shape::DateTime,
            Shape::List(element, kind) => Shape::List(element.clone(), kind.clone()),
            Shape::Map(value) => Shape::Map(value.clone()),
            Shape::Object(object) => Shape::Object(object.clone()),
            Shape::Other(ty) => Shape::Other(ty.clone()),
        };
        Self {
            shape,
            max_elements: self.max_elements,
            min_size: self.min_size,
            nullable: self.nullable,
        }
    }
}

/// Reads a structural OpenAPI v3 schema (as a CustomResourceDefinition has it; no `$ref`). `None` where an expression
/// cannot see the value: fields whose type is not known are not there for expressions. `type_name` names the object
/// types within; `resource_root` adds apiVersion, kind and metadata's names, as every resource has them.
pub fn from_openapi(schema: &Json, resource_root: bool, type_name: &str) -> Option<Arc<Schema>> {
    read(schema, resource_root, type_name).map(Arc::new)
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

/// A bound such as maxLength; negative ones count as zero.
fn limit(schema: &Json, name: &str) -> Option<u64> {
    let bound = schema.get(name)?;
    Some(
        bound
            .as_u64()
            .unwrap_or_else(|| bound.as_f64().unwrap_or_default().max(0.0) as u64),
    )
}

fn read(schema: &Json, resource_root: bool, name: &str) -> Option<Schema> {
    let nullable = flag(schema, "nullable");
    let mut out = if flag(schema, "x-kubernetes-int-or-string") {
        let mut dynamic = Schema::new(Shape::IntOrString, 1);
        dynamic.max_elements = Some(
            limit(schema, "maxLength").map_or(MAX_REQUEST_BYTES - 2, |max| max.saturating_mul(4)),
        );
        dynamic
    } else {
        let kind = schema.get("type").and_then(Json::as_str);
        match kind.or(if resource_root { Some("object") } else { None })? {
            "array" => list(schema, name)?,
            "object" => object(schema, resource_root, name)?,
            "string" => string(schema),
            "boolean" => Schema::new(Shape::Bool, 4),
            "number" => Schema::new(Shape::Double, 1),
            "integer" => Schema::new(Shape::Int, 1),
            _ => return None,
        }
    };
    out.nullable = nullable;
    Some(out)
}

fn list(schema: &Json, name: &str) -> Option<Schema> {
    let items = schema.get("items").filter(|items| items.is_object())?;
    let element = read(
        items,
        flag(items, "x-kubernetes-embedded-resource"),
        &format!("{name}.@idx"),
    )?;
    let kind = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(
            schema
                .get("x-kubernetes-list-map-keys")
                .and_then(Json::as_array)
                .into_iter()
                .flatten()
                .filter_map(Json::as_str)
                .map(str::to_owned)
                .collect(),
        ),
        _ => ListKind::Atomic,
    };
    let max = limit(schema, "maxItems")
        .unwrap_or((MAX_REQUEST_BYTES - 2) / (element.min_size.saturating_add(1)));
    let mut out = Schema::new(Shape::List(Arc::new(element), kind), 2);
    out.max_elements = Some(max);
    Some(out)
}

fn object(schema: &Json, resource_root: bool, name: &str) -> Option<Schema> {
    if let Some(values) = schema
        .get("additionalProperties")
        .filter(|values| values.is_object())
    {
        let value = read(
            values,
            flag(values, "x-kubernetes-embedded-resource"),
            &format!("{name}.@elem"),
        )?;
        let max = limit(schema, "maxProperties")
            .unwrap_or((MAX_REQUEST_BYTES - 2) / (value.min_size.saturating_add(6)));
        let mut out = Schema::new(Shape::Map(Arc::new(value)), 2);
        out.max_elements = Some(max);
        return Some(out);
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let mut fields = BTreeMap::new();
    let mut min_size: u64 = 2;
    let properties = schema.get("properties").and_then(Json::as_object);
    for (property, inner) in properties.into_iter().flatten() {
        let embedded = flag(inner, "x-kubernetes-embedded-resource");
        let Some(field) = read(inner, embedded, &format!("{name}.{property}")) else {
            continue;
        };
        if required.contains(&property.as_str()) && inner.get("default").is_none() {
            min_size = min_size
                .saturating_add(property.len() as u64)
                .saturating_add(field.min_size)
                .saturating_add(4);
        }
        if let Some(escaped) = escape(property) {
            fields.insert(
                Arc::from(escaped),
                Field {
                    schema: Arc::new(field),
                },
            );
        }
    }
    if resource_root {
        add_resource_fields(&mut fields, name);
    }
    Some(Schema::new(
        Shape::Object(Arc::new(ObjectType {
            name: Arc::from(name),
            fields,
            open: false,
        })),
        min_size,
    ))
}

/// Every resource has these, whatever its schema says.
fn add_resource_fields(fields: &mut BTreeMap<Arc<str>, Field>, name: &str) {
    let metadata_complete = fields.get("metadata").is_some_and(|metadata| {
        metadata.schema.field("name").is_some() && metadata.schema.field("generateName").is_some()
    });
    if fields.contains_key("kind") && fields.contains_key("apiVersion") && metadata_complete {
        return;
    }
    let text = || {
        let mut text = Schema::new(Shape::String, 2);
        text.max_elements = Some(MAX_REQUEST_BYTES - 2);
        Arc::new(text)
    };
    let metadata = Schema::object(
        &format!("{name}.metadata"),
        [("name", text()), ("generateName", text())],
    );
    for (field, schema) in [
        ("kind", text()),
        ("apiVersion", text()),
        ("metadata", metadata),
    ] {
        fields.insert(Arc::from(field), Field { schema });
    }
}

fn string(schema: &Json) -> Schema {
    let max_length = limit(schema, "maxLength");
    let format = schema.get("format").and_then(Json::as_str);
    let (shape, min_size, max) = match format {
        Some("byte") => (Shape::Bytes, 2, max_length.unwrap_or(MAX_REQUEST_BYTES - 2)),
        Some("duration") => (Shape::Duration, 3, 32),
        Some("date") => (Shape::Date, 12, 12),
        Some("date-time") => (Shape::DateTime, 21, 32),
        _ => (Shape::String, 2, string_bound(schema, max_length)),
    };
    let mut out = Schema::new(shape, min_size);
    out.max_elements = Some(max);
    out
}

fn string_bound(schema: &Json, max_length: Option<u64>) -> u64 {
    if let Some(max) = max_length {
        return max.saturating_mul(4);
    }
    let longest = schema
        .get("enum")
        .and_then(Json::as_array)
        .filter(|values| !values.is_empty())
        .map(|values| {
            values
                .iter()
                .filter_map(Json::as_str)
                .map(|value| value.len() as u64)
                .max()
                .unwrap_or_default()
        });
    longest.unwrap_or(MAX_REQUEST_BYTES - 2)
}
