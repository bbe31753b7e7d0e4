//! What an expression can see: its variables, the types it can name, and which functions are offered.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::declare::parse_type;
use crate::error::CompileErrors;
use crate::program::Program;
use crate::schema::{Schema, Shape};
use crate::types::{Field, ObjectType, Type};

/// Declares what expressions can see, and compiles them.
///
/// All of Kubernetes' libraries are always there, as upstream's base environment of 1.36 has them; what differs from
/// place to place are the variables, and the types that mutations make.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(Arc<str>, Arc<Schema>)>,
    lazy: Vec<Arc<str>>,
    mutation: bool,
}

impl Environment {
    /// An environment without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable. The name may have dots (`authorizer.requestResource`).
    #[must_use]
    pub fn variable_of(mut self, name: &str, schema: Arc<Schema>) -> Self {
        self.declare(name, schema);
        self
    }

    /// Adds a variable of a type, such as `authorizer` of [`authorizer_type`].
    #[must_use]
    pub fn with(self, name: &str, ty: Type) -> Self {
        self.variable_of(name, Schema::of(ty))
    }

    /// Adds a variable whose fields the activation computes one by one, when they are first asked for
    /// ([`crate::Activation::field`]). The schema is that of an object.
    #[must_use]
    pub fn lazy_variable(mut self, name: &str, schema: Arc<Schema>) -> Self {
        self.declare(name, schema);
        self.lazy.push(Arc::from(name));
        self
    }

    /// Adds what mutations need: `Object{}`, `JSONPatch{}` and `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_mutation(mut self) -> Self {
        self.mutation = true;
        self
    }

    /// Declares a variable, or declares it anew.
    pub fn declare(&mut self, name: &str, schema: Arc<Schema>) {
        match self
            .variables
            .iter_mut()
            .find(|(known, _)| &**known == name)
        {
            Some((_, old)) => *old = schema,
            None => self.variables.push((Arc::from(name), schema)),
        }
    }

    /// Compiles an expression: parsed, checked and planned.
    pub fn compile(&self, source: &str) -> Result<Program, CompileErrors> {
        Program::new(self, source)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<(&Arc<str>, &Arc<Schema>)> {
        self.variables
            .iter()
            .find(|(known, _)| &**known == name)
            .map(|(known, schema)| (known, schema))
    }

    pub(crate) fn is_lazy(&self, name: &str) -> bool {
        self.lazy.iter().any(|lazy| &**lazy == name)
    }

    /// Whether the function is offered here.
    pub(crate) fn offers(&self, function: &str) -> bool {
        self.mutation || function != "jsonpatch.escapeKey"
    }

    /// The type of that name.
    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        if self.mutation {
            if name == "JSONPatch" {
                return Some(Type::Object(json_patch_type()));
            }
            if name == "Object" || name.starts_with("Object.") {
                return Some(Type::Object(open_type(name)));
            }
        }
        Some(match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "null_type" => Type::Null,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "type" => Type::TypeOf(Arc::new(Type::Dyn)),
            "optional_type" => Type::optional(Type::Dyn),
            "google.protobuf.Duration" => Type::Duration,
            "google.protobuf.Timestamp" => Type::Timestamp,
            _ => return opaque_named(name).or_else(|| self.object_named(name)),
        })
    }

    /// An object type of one of the variables' schemas.
    fn object_named(&self, name: &str) -> Option<Type> {
        self.variables
            .iter()
            .find_map(|(_, schema)| match &schema.shape {
                Shape::Object(object) if &*object.name == name => {
                    Some(Type::Object(object.clone()))
                }
                _ => None,
            })
    }
}

fn opaque_named(name: &str) -> Option<Type> {
    const NAMES: [&str; 11] = [
        "kubernetes.Quantity",
        "kubernetes.URL",
        "net.IP",
        "net.CIDR",
        "kubernetes.NamedFormat",
        "kubernetes.Semver",
        "kubernetes.authorization.Authorizer",
        "kubernetes.authorization.PathCheck",
        "kubernetes.authorization.GroupCheck",
        "kubernetes.authorization.ResourceCheck",
        "kubernetes.authorization.Decision",
    ];
    NAMES
        .iter()
        .find(|known| **known == name)
        .map(|known| parse_type(known))
}

/// An object type whose fields may be anything.
pub(crate) fn open_type(name: &str) -> Arc<ObjectType> {
    Arc::new(ObjectType {
        name: Arc::from(name),
        fields: BTreeMap::new(),
        open: true,
    })
}

fn json_patch_type() -> Arc<ObjectType> {
    let fields = [
        ("op", Schema::string()),
        ("path", Schema::string()),
        ("from", Schema::string()),
        ("value", Schema::any()),
    ];
    Arc::new(ObjectType {
        name: Arc::from("JSONPatch"),
        fields: fields
            .into_iter()
            .map(|(name, schema)| (Arc::from(name), Field { schema }))
            .collect(),
        open: false,
    })
}

/// The type of the variable `authorizer`.
pub fn authorizer_type() -> Type {
    Type::Opaque("kubernetes.authorization.Authorizer")
}

/// The type of the variable `authorizer.requestResource`.
pub fn authorizer_resource_type() -> Type {
    Type::Opaque("kubernetes.authorization.ResourceCheck")
}
