//! The values that expressions work on: cheap to clone, and borrowed from the JSON they came from where they can be.

use std::borrow::Cow;
use std::sync::Arc;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::Value as Json;

use crate::error::EvalError;
use crate::json::read;
use crate::library::opaque::Opaque;
use crate::schema::{DYN, ListKind, Schema, Shape};
use crate::types::Type;

/// A value while an expression runs. `'a` is the life of the JSON (and of the authorizer) that the caller hands in.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// A truth value.
    Bool(bool),
    /// A number with a sign.
    Int(i64),
    /// A number without a sign.
    Uint(u64),
    /// A floating point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Raw bytes.
    Bytes(Arc<[u8]>),
    /// A span of time in nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map, or an object read from JSON.
    Map(Map<'a>),
    /// An object that the expression made: `Object{...}`, `JSONPatch{...}`.
    Object(Arc<Object<'a>>),
    /// `optional.of(x)` or `optional.none()`.
    Optional(Option<Arc<Value<'a>>>),
    /// A type, as `type(x)` gives it.
    Type(Type),
    /// A value of one of Kubernetes' own types.
    Opaque(Opaque<'a>),
}

/// Text, borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Borrowed from the input.
    Borrowed(&'a str),
    /// Made by the expression.
    Shared(Arc<str>),
}

/// A list: JSON as it stands, or values that the expression made.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// An array and the schema of the list.
    Json(&'a [Json], &'a Schema),
    /// Values.
    Shared(Arc<Vec<Value<'a>>>),
}

/// A map: JSON as it stands, or entries that the expression made.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// A JSON object and the schema of the map or object.
    Json(&'a serde_json::Map<String, Json>, &'a Schema),
    /// Entries in the order they were written.
    Shared(Arc<Entries<'a>>),
}

/// The entries of a map that the expression made.
pub type Entries<'a> = IndexMap<Key<'a>, (Value<'a>, Value<'a>)>;

/// A map's key as it is compared: numbers of all types are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key<'a> {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Number(i128),
    /// Text.
    String(Text<'a>),
}

/// An object that the expression made.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    /// The name of its type.
    pub type_name: Arc<str>,
    /// The fields that were set.
    pub fields: Vec<(Arc<str>, Value<'a>)>,
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text<'_> {}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl std::hash::Hash for Text<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl<'a> List<'a> {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Shared(items) => items.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Json(items, schema) => items
                .get(index)
                .map(|item| read(item, schema.element().map_or(&DYN, |element| element))),
            Self::Shared(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(crate) fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        match self {
            Self::Shared(items) => Ok(items.to_vec()),
            Self::Json(..) => self.iter().collect(),
        }
    }

    pub(crate) fn kind(&self) -> &ListKind {
        match self {
            Self::Json(
                _,
                Schema {
                    shape: Shape::List(_, kind),
                    ..
                },
            ) => kind,
            _ => &ListKind::Atomic,
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(fields, _) => fields.len(),
            Self::Shared(entries) => entries.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under a name; for objects the name is the escaped one.
    pub fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Json(fields, schema) => json_field(fields, schema, name),
            Self::Shared(entries) => entries
                .get(&Key::String(Text::Borrowed(name)))
                .map(|(_, value)| Ok(value.clone())),
        }
    }

    /// The value under a key of any type.
    pub(crate) fn find(&self, key: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
        match (self, key) {
            (Self::Json(..), Value::String(name)) => self.get(name).transpose(),
            (Self::Json(_, schema), _) => match schema.shape {
                // JSON of no schema compares keys like any map; only strings are there.
                Shape::Dyn => Ok(None),
                _ => Err(EvalError::no_such_overload()),
            },
            (Self::Shared(entries), _) => match Key::new(key) {
                Some(key) => Ok(entries.get(&key).map(|(_, value)| value.clone())),
                None => Ok(None),
            },
        }
    }

    /// The keys.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(fields, schema) => {
                let object = matches!(schema.shape, Shape::Object(_));
                fields
                    .keys()
                    .filter_map(|key| {
                        if object {
                            crate::escape::escape(key).map(Value::from)
                        } else {
                            Some(Value::from(key.as_str()))
                        }
                    })
                    .collect()
            }
            Self::Shared(entries) => entries.values().map(|(key, _)| key.clone()).collect(),
        }
    }
}

/// A field of a JSON object, read by the schema.
pub(crate) fn json_field<'a>(
    fields: &'a serde_json::Map<String, Json>,
    schema: &'a Schema,
    name: &str,
) -> Option<Result<Value<'a>, EvalError>> {
    match &schema.shape {
        Shape::Object(object) if !object.open => {
            let (property, field) = match object.fields.get(name) {
                Some(field) => (unescaped(name)?, field),
                None => {
                    let escaped = crate::escape::escape(name)?;
                    (Cow::Borrowed(name), object.fields.get(escaped.as_str())?)
                }
            };
            match fields.get(&*property)? {
                // A null is an absent field in an object.
                Json::Null => None,
                json => Some(read(json, &field.schema)),
            }
        }
        Shape::Map(value) => fields.get(name).map(|json| read(json, value)),
        _ => fields.get(name).map(|json| read(json, &DYN)),
    }
}

fn unescaped(name: &str) -> Option<Cow<'_, str>> {
    if name.contains("__") {
        crate::escape::unescape(name).map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(name))
    }
}

impl<'a> Key<'a> {
    /// The key that a value makes, if it can be one.
    pub fn new(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Number((*i).into()),
            Value::Uint(u) => Self::Number((*u).into()),
            // Whole numbers within 2^64 are exact in an i128.
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 2e19 => Self::Number(*d as i128),
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }
}

impl<'a> Value<'a> {
    /// JSON as it stands, without a schema: whole numbers are `int`, others `double`.
    pub fn from_json(json: &'a Json) -> Self {
        read(json, &DYN).unwrap_or(Value::Null)
    }

    /// JSON read by a schema; nothing is converted before it is looked at.
    pub fn from_typed_json(json: &'a Json, schema: &'a Schema) -> Result<Self, EvalError> {
        read(json, schema)
    }

    /// The value as JSON. Fails for what JSON cannot say: types, the authorizer, keys that are no strings.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        crate::json::write(self)
    }

    /// A list of values.
    pub fn list(values: Vec<Value<'a>>) -> Self {
        Self::List(List::Shared(Arc::new(values)))
    }

    /// A map made of entries; keys that cannot be keys are left out.
    pub fn map(entries: impl IntoIterator<Item = (Value<'a>, Value<'a>)>) -> Self {
        let entries = entries
            .into_iter()
            .filter_map(|(key, value)| Key::new(&key).map(|k| (k, (key, value))))
            .collect();
        Self::Map(Map::Shared(Arc::new(entries)))
    }

    /// An authorizer, as the variable `authorizer` holds it.
    pub fn authorizer(authorizer: &'a dyn crate::Authorizer) -> Self {
        Self::Opaque(Opaque::Authorizer(authorizer))
    }

    /// The variable `authorizer.requestResource`: a check of the resource that the request is about.
    pub fn authorizer_resource(
        authorizer: &'a dyn crate::Authorizer,
        check: crate::ResourceCheck,
    ) -> Self {
        Self::Opaque(Opaque::ResourceCheck(authorizer, Arc::new(check)))
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The type that `type(x)` gives.
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Object(object) => Type::Object(crate::environment::open_type(&object.type_name)),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Type(_) => Type::TypeOf(Arc::new(Type::Dyn)),
            Self::Opaque(opaque) => Type::Opaque(opaque.type_name()),
        }
    }

    /// What `size()` says; 1 for values without a size.
    pub(crate) fn cost_size(&self) -> u64 {
        match self {
            Self::String(text) => chars(text),
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(value)) => value.cost_size(),
            Self::Opaque(opaque) => opaque.size(),
            _ => 1,
        }
    }

    /// Whether this is its type's zero value (`optional.ofNonZeroValue`).
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(b) => !b,
            Self::Int(i) => *i == 0,
            Self::Uint(u) => *u == 0,
            Self::Double(d) => *d == 0.0,
            Self::String(text) => text.is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Duration(d) => *d == 0,
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Object(object) => object.fields.is_empty(),
            Self::Optional(value) => value.is_none(),
            Self::Timestamp(_) | Self::Type(_) | Self::Opaque(_) => false,
        }
    }
}

/// How many code points a text has.
pub(crate) fn chars(text: &str) -> u64 {
    if text.is_ascii() {
        text.len() as u64
    } else {
        text.chars().count() as u64
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::String(Text::Shared(Arc::from(text)))
    }
}

impl From<Arc<str>> for Value<'_> {
    fn from(text: Arc<str>) -> Self {
        Self::String(Text::Shared(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<i64> for Value<'_> {
    fn from(i: i64) -> Self {
        Self::Int(i)
    }
}
