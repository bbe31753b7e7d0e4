//! The table of types: compact, made once, read by everything that needs to know a field.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// A name that costs nothing when it is built in.
pub type Name = Cow<'static, str>;

/// Where a type is in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(u32);

/// What JSON a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Any string.
    String,
    /// A boolean.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Float,
    /// A string in base64.
    Bytes,
    /// A time to the second, RFC 3339.
    Time,
    /// A time to the microsecond, RFC 3339.
    MicroTime,
    /// A quantity, as a string or a number.
    Quantity,
    /// A number of 32 bits or a string.
    IntOrString,
    /// Anything, kept as it is.
    Any,
    /// Anything, of which apply takes objects apart and the rest as one.
    Deduced,
    /// An object with known fields.
    Object(TypeId),
    /// A list.
    List(Box<Type>),
    /// A map from strings.
    Map(Box<Type>),
}

/// How server-side apply merges a list (a map, where `Atomic` is the only choice beside the usual).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// One value with one owner.
    Atomic,
    /// Each element has owners.
    Set,
    /// Each element has owners, and is known by these fields.
    Map(Vec<Name>),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: Name,
    /// What it takes.
    pub ty: Type,
    /// The name of the type in upstream's error messages, where it does not follow from `ty`.
    pub go: Option<Name>,
    /// Absent and zero are different things.
    pub pointer: bool,
    /// It is written even when it is zero.
    pub always: bool,
    /// It is an object that is always there, if only as `{}`.
    pub embedded: bool,
    /// How apply merges it, for lists; atomic for all others that apply takes as one.
    pub list: Option<ListKind>,
    /// Strategic merge merges the list rather than replacing it.
    pub patch_merge: bool,
    /// Strategic merge replaces the object rather than merging it.
    pub patch_replace: bool,
    /// The field by which strategic merge knows the elements of a list.
    pub patch_merge_key: Option<Name>,
    /// What apply takes the field to be where it is absent, as far as upstream's schema says so.
    pub default: Option<Value>,
}

impl Field {
    /// A field of a type, with nothing special about it.
    #[must_use]
    pub fn new(name: impl Into<Name>, ty: Type) -> Self {
        Self {
            name: name.into(),
            ty,
            go: None,
            pointer: false,
            always: false,
            embedded: false,
            list: None,
            patch_merge: false,
            patch_replace: false,
            patch_merge_key: None,
            default: None,
        }
    }
}

/// An object type.
#[derive(Clone, Debug, Default)]
pub struct TypeDef {
    /// For example `core.v1.Pod`.
    pub name: Name,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Apply takes the object as one.
    pub atomic: bool,
    /// Fields that are not listed are kept, and are no errors (custom resources).
    pub open: bool,
}

/// A set of types that refer to each other.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The types that come first: a custom resource's refer to the built-in metadata.
    base: Option<&'static Schema>,
    types: Vec<TypeDef>,
    names: HashMap<Name, TypeId>,
}

impl TypeDef {
    /// The field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index(name).and_then(|index| self.fields.get(index))
    }

    /// Where the field of that name is.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<usize> {
        self.fields
            .binary_search_by(|field| (*field.name).cmp(name))
            .ok()
    }
}

/// What an unknown [`TypeId`] stands for; it cannot come up within one schema.
static NOTHING: TypeDef = TypeDef {
    name: Cow::Borrowed(""),
    fields: Vec::new(),
    atomic: false,
    open: true,
};

impl Schema {
    /// An empty set whose types can refer to those of another.
    #[must_use]
    pub fn over(base: &'static Schema) -> Self {
        Self {
            base: Some(base),
            ..Self::default()
        }
    }

    /// Whether the types are a custom resource's, which keep what was written as it was.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.base.is_some()
    }

    fn offset(&self) -> usize {
        self.base.map_or(0, |base| base.types.len())
    }

    /// Adds a type; its fields are sorted here.
    pub fn add(&mut self, mut def: TypeDef) -> TypeId {
        def.fields.sort_by(|a, b| a.name.cmp(&b.name));
        let id = self.id_for(def.name.clone());
        let index = (id.0 as usize).wrapping_sub(self.offset());
        if let Some(place) = self.types.get_mut(index) {
            *place = def;
        }
        id
    }

    /// The id of a type that may be added later.
    fn id_for(&mut self, name: Name) -> TypeId {
        if let Some(id) = self.names.get(&name) {
            return *id;
        }
        let index = self.offset() + self.types.len();
        let id = TypeId(u32::try_from(index).unwrap_or(u32::MAX));
        self.types.push(TypeDef {
            name: name.clone(),
            ..TypeDef::default()
        });
        self.names.insert(name, id);
        id
    }

    /// The type of that id.
    #[must_use]
    pub fn get(&self, id: TypeId) -> &TypeDef {
        match (id.0 as usize).checked_sub(self.offset()) {
            Some(index) => self.types.get(index).unwrap_or(&NOTHING),
            None => self.base.map_or(&NOTHING, |base| base.get(id)),
        }
    }

    /// The type of a kind by its name in OpenAPI (`io.k8s.api.core.v1.Pod`, [`crate::Kind::schema`]).
    #[must_use]
    pub fn find(&self, openapi_name: &str) -> Option<TypeId> {
        let own = self.names.get(&*short_name(openapi_name)).copied();
        own.or_else(|| self.base?.find(openapi_name))
    }

    /// All types.
    pub fn types(&self) -> impl Iterator<Item = &TypeDef> {
        self.types.iter()
    }

    /// What an embedded object holds when nothing was given: the objects embedded in it.
    #[must_use]
    pub fn empty(&self, id: TypeId) -> Map<String, Value> {
        let mut object = Map::new();
        self.complete(id, &mut object);
        object
    }

    /// Adds the embedded objects that are missing.
    pub fn complete(&self, id: TypeId, object: &mut Map<String, Value>) {
        for field in self.get(id).fields.iter().filter(|field| field.embedded) {
            if let (Type::Object(inner), false) = (&field.ty, object.contains_key(&*field.name)) {
                object.insert(field.name.to_string(), self.empty(*inner).into());
            }
        }
    }
}

const PACKAGES: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.", "meta."),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.",
        "apiextensions.",
    ),
    (
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.",
        "apiregistration.",
    ),
    ("io.k8s.apimachinery.pkg.", "apimachinery."),
    ("io.k8s.api.", ""),
];

/// `core.v1.Pod` of `io.k8s.api.core.v1.Pod`.
#[must_use]
pub fn short_name(openapi_name: &str) -> Cow<'_, str> {
    PACKAGES
        .iter()
        .find_map(|(long, short)| {
            let rest = openapi_name.strip_prefix(long)?;
            Some(if short.is_empty() {
                Cow::Borrowed(rest)
            } else {
                Cow::Owned(format!("{short}{rest}"))
            })
        })
        .unwrap_or(Cow::Borrowed(openapi_name))
}

/// `io.k8s.api.core.v1.Pod` of `core.v1.Pod`.
#[must_use]
pub fn openapi_name(short_name: &str) -> String {
    let long = PACKAGES.iter().find_map(|(long, short)| {
        let rest = short_name.strip_prefix(short)?;
        Some(format!("{long}{rest}"))
    });
    long.unwrap_or_else(|| short_name.to_owned())
}

/// The types of all built-in kinds.
#[must_use]
pub fn built_in() -> &'static Schema {
    static BUILT_IN: LazyLock<Schema> = LazyLock::new(|| parse(TYPES.lines()));
    &BUILT_IN
}

/// The same with the types of versions that are served only on demand.
pub(crate) fn with_optional() -> &'static Schema {
    static ALL: LazyLock<Schema> =
        LazyLock::new(|| parse(TYPES.lines().chain(crate::legacy::TEXT.lines())));
    &ALL
}

/// The text of the table of built-in types.
///
/// `@name flags` begins a type, each following line is a field: its name, its type (`s` string, `b` boolean, `i` and
/// `l` numbers of 32 and 64 bits, `f` number, `B` bytes, `t` and `m` times, `q` quantity, `o` number or string, `x`
/// anything, `&name` an object, `[` a list of, `{` a map to), and flags (`p` pointer, `z` always written, `v`
/// embedded, `r` required, and `key=value`).
pub(crate) const TYPES: &str = include_str!("types.txt");

fn parse(lines: impl Iterator<Item = &'static str>) -> Schema {
    let mut schema = Schema::default();
    let mut current = TypeDef::default();
    for line in lines {
        let mut words = line.split(' ');
        let Some(first) = words.next() else { continue };
        if let Some(name) = first.strip_prefix('@') {
            finish(&mut schema, std::mem::take(&mut current));
            current.name = Cow::Borrowed(name);
            current.atomic = words.any(|word| word == "map-type=atomic");
        } else if let Some(code) = words.next() {
            let ty = parse_type(&mut schema, code);
            current.fields.push(parse_field(first, ty, words));
        }
    }
    finish(&mut schema, current);
    schema
}

fn finish(schema: &mut Schema, def: TypeDef) {
    if !def.name.is_empty() {
        schema.add(def);
    }
}

fn parse_type(schema: &mut Schema, code: &'static str) -> Type {
    match code.split_at_checked(1) {
        Some(("s", _)) => Type::String,
        Some(("b", _)) => Type::Bool,
        Some(("i", _)) => Type::Int32,
        Some(("l", _)) => Type::Int64,
        Some(("f", _)) => Type::Float,
        Some(("B", _)) => Type::Bytes,
        Some(("t", _)) => Type::Time,
        Some(("m", _)) => Type::MicroTime,
        Some(("q", _)) => Type::Quantity,
        Some(("o", _)) => Type::IntOrString,
        Some(("&", name)) => Type::Object(schema.id_for(Cow::Borrowed(name))),
        Some(("[", inner)) => Type::List(Box::new(parse_type(schema, inner))),
        Some(("{", inner)) => Type::Map(Box::new(parse_type(schema, inner))),
        _ => Type::Any,
    }
}

fn parse_field(name: &'static str, ty: Type, flags: impl Iterator<Item = &'static str>) -> Field {
    let mut field = Field::new(name, ty);
    let (mut list, mut keys) = ("", Vec::new());
    for flag in flags {
        match flag.split_once('=').unwrap_or((flag, "")) {
            ("p", _) => field.pointer = true,
            ("z", _) => field.always = true,
            ("v", _) => field.embedded = true,
            ("go", name) => field.go = Some(Cow::Borrowed(name)),
            ("list" | "map-type", kind) => list = kind,
            ("keys", names) => keys = names.split(',').map(Cow::Borrowed).collect(),
            ("patch", strategies) => {
                field.patch_merge = strategies.split(',').any(|strategy| strategy == "merge");
                field.patch_replace = strategies == "replace";
            }
            ("merge-key", name) => field.patch_merge_key = Some(Cow::Borrowed(name)),
            ("default", json) => field.default = serde_json::from_str(json).ok(),
            _ => {}
        }
    }
    field.list = match list {
        "atomic" => Some(ListKind::Atomic),
        "set" => Some(ListKind::Set),
        "map" => Some(ListKind::Map(keys)),
        _ => None,
    };
    field
}

impl Field {
    /// What upstream calls the type of the field in messages.
    #[must_use]
    pub fn go_type(&self, schema: &Schema) -> String {
        self.go
            .as_ref()
            .map_or_else(|| go_type(schema, &self.ty), ToString::to_string)
    }

    /// What upstream calls the type of what is in the list or map.
    #[must_use]
    pub fn go_element(&self, schema: &Schema, element: &Type) -> String {
        let named = self
            .go
            .as_deref()
            .and_then(|name| match name.strip_prefix("[]") {
                Some(element) => Some(element),
                None => name
                    .strip_prefix("map[")?
                    .split_once(']')
                    .map(|(_, element)| element),
            });
        named.map_or_else(|| go_type(schema, element), str::to_owned)
    }
}

/// `v1.Pod` of `core.v1.Pod`: package and name.
#[must_use]
pub fn go_name(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(index, _)| index);
    let _ = dots.next();
    dots.next()
        .map_or(name, |index| name.get(index + 1..).unwrap_or(name))
}

fn go_type(schema: &Schema, ty: &Type) -> String {
    match ty {
        Type::String => "string".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Float => "float64".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Any | Type::Deduced => "interface {}".to_owned(),
        Type::Object(id) => go_name(&schema.get(*id).name).to_owned(),
        Type::List(element) => format!("[]{}", go_type(schema, element)),
        Type::Map(element) => format!("map[string]{}", go_type(schema, element)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_type_and_every_reference_leads_somewhere() {
        let schema = built_in();
        for kind in crate::kinds().iter().chain(crate::subresource_kinds()) {
            let id = schema
                .find(kind.schema)
                .unwrap_or_else(|| panic!("no type {}", kind.schema));
            assert!(
                schema.get(id).field("metadata").is_some(),
                "{}",
                kind.schema
            );
        }
        for def in schema.types() {
            assert!(
                !def.fields.is_empty() || LEAVES.contains(&&*def.name),
                "{} has no fields",
                def.name
            );
            assert!(
                def.fields.len() <= 128,
                "{}: the checker counts fields in 128 bits",
                def.name
            );
            assert!(
                def.fields.is_sorted_by(|a, b| a.name < b.name),
                "{}",
                def.name
            );
        }
    }

    /// Types that have no fields upstream.
    const LEAVES: &[&str] = &["apiextensions.v1.CustomResourceSubresourceStatus"];

    /// The types of k8s-openapi and ours have the same fields: what passes the check is decoded, not lost.
    #[test]
    fn fields_are_those_of_the_typed_objects() {
        let schema = built_in();
        let mut generator = schemars::SchemaGenerator::default();
        for kind in crate::kinds().iter().chain(crate::subresource_kinds()) {
            kind.ops.add_schema(&mut generator);
        }
        for (name, definition) in generator.definitions() {
            let Some(properties) = definition.get("properties").and_then(Value::as_object) else {
                continue;
            };
            let Some(id) = schema.find(name) else {
                panic!("no type {name}")
            };
            let ours: Vec<&str> = schema
                .get(id)
                .fields
                .iter()
                .map(|field| &*field.name)
                .collect();
            let mut theirs: Vec<&str> = properties.keys().map(String::as_str).collect();
            theirs.sort_unstable();
            assert_eq!(ours, theirs, "{name}");
        }
    }

    #[test]
    fn names_are_shortened_and_back() {
        for name in [
            "io.k8s.api.core.v1.Pod",
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        ] {
            assert_eq!(openapi_name(&short_name(name)), name);
        }
        assert_eq!(go_name("core.v1.Pod"), "v1.Pod");
    }

    #[test]
    fn an_empty_service_has_its_embedded_objects() {
        let schema = built_in();
        let service = schema.find("io.k8s.api.core.v1.Service").unwrap();
        let empty = Value::Object(schema.empty(service));
        assert_eq!(
            empty,
            serde_json::json!({"metadata": {}, "spec": {}, "status": {"loadBalancer": {}}})
        );
    }
}
