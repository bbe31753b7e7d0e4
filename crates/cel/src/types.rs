//! The types that the checker reasons about.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::schema::Schema;

/// A type of the expression language.
#[derive(Clone, Debug)]
pub enum Type {
    /// Known when the expression runs, not before.
    Dyn,
    /// The type of what could not be checked; fits everything, so that one fault is reported once.
    Error,
    /// The type of `null`.
    Null,
    /// `true` and `false`.
    Bool,
    /// 64 bits with a sign.
    Int,
    /// 64 bits without a sign.
    Uint,
    /// A 64-bit floating point number.
    Double,
    /// Text.
    String,
    /// Raw bytes.
    Bytes,
    /// `google.protobuf.Duration`.
    Duration,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// `list(T)`.
    List(Arc<Type>),
    /// `map(K, V)`.
    Map(Arc<(Type, Type)>),
    /// An object with named fields.
    Object(Arc<ObjectType>),
    /// `optional_type(T)`.
    Optional(Arc<Type>),
    /// The type of a type.
    TypeOf(Arc<Type>),
    /// A type that only its own functions look into, such as `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A parameter in a function's declaration.
    Param(&'static str),
    /// A type that the checker has yet to find out.
    Var(u32),
}

/// An object's type: its name and its fields.
#[derive(Debug)]
pub struct ObjectType {
    pub(crate) name: Arc<str>,
    pub(crate) fields: BTreeMap<Arc<str>, Field>,
    /// Whether every field name is good and of any type, as in `Object.spec` of mutations.
    pub(crate) open: bool,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) schema: Arc<Schema>,
}

impl ObjectType {
    /// The type's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn field(&self, name: &str) -> Option<Type> {
        if self.open {
            return Some(Type::Dyn);
        }
        if let Some(field) = self.fields.get(name) {
            return Some(field.schema.to_type());
        }
        // A field named like a reserved word may be written as it is: `object.metadata.namespace`.
        let escaped = crate::escape::escape(name)?;
        (escaped != name)
            .then(|| self.fields.get(escaped.as_str()))
            .flatten()
            .map(|field| field.schema.to_type())
    }
}

impl Type {
    /// `list(element)`.
    pub fn list(element: Type) -> Self {
        Self::List(Arc::new(element))
    }

    /// `map(key, value)`.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// `optional_type(value)`.
    pub fn optional(value: Type) -> Self {
        Self::Optional(Arc::new(value))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// The name that `type(x)` shows.
    pub(crate) fn runtime_name(&self) -> &str {
        match self {
            Self::Dyn | Self::Param(_) | Self::Var(_) => "dyn",
            Self::Error => "error",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Object(object) => &object.name,
            Self::Optional(_) => "optional_type",
            Self::TypeOf(_) => "type",
            Self::Opaque(name) => name,
        }
    }
}

/// Equal to the last parameter. Objects are equal by name.
impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b))
            | (Self::Optional(a), Self::Optional(b))
            | (Self::TypeOf(a), Self::TypeOf(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => a.name == b.name,
            (Self::Opaque(a), Self::Opaque(b)) | (Self::Param(a), Self::Param(b)) => a == b,
            (Self::Var(a), Self::Var(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Self::Optional(value) => write!(f, "optional_type({value})"),
            Self::TypeOf(inner) => match **inner {
                Self::Dyn => f.write_str("type"),
                _ => write!(f, "type({inner})"),
            },
            Self::Param(name) => f.write_str(name),
            Self::Var(number) => write!(f, "_var{number}"),
            _ => f.write_str(self.runtime_name()),
        }
    }
}
