//! Sets of fields: what `managedFields` records (`fieldsV1`), and how objects are taken apart and merged for them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::{Field, ListKind, Schema, Type, TypeId};

/// A set of fields as a tree. The steps are written as `fieldsV1` writes them: `f:name` a field, `k:{...}` an element
/// of a list by its keys, `v:...` an element by its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The place itself is in the set, not only what is under it.
    own: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// A set of the place itself.
    #[must_use]
    pub fn leaf() -> Self {
        Self {
            own: true,
            children: BTreeMap::new(),
        }
    }

    /// A set of fields by their names from the root on.
    #[must_use]
    pub fn of_paths(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let place = path
                .iter()
                .fold(&mut set, |place, name| place.step(format!("f:{name}")));
            place.own = true;
        }
        set
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.own && self.children.values().all(Self::is_empty)
    }

    /// The step under this place, made if it is not there.
    pub fn step(&mut self, step: String) -> &mut Self {
        self.children.entry(step).or_default()
    }

    /// Reads `fieldsV1`.
    #[must_use]
    pub fn from_fields_v1(value: &Value) -> Self {
        let Value::Object(map) = value else {
            return Self::default();
        };
        let children = map
            .iter()
            .filter(|(step, _)| *step != ".")
            .map(|(step, value)| {
                let mut child = Self::from_fields_v1(value);
                child.own |= value.as_object().is_none_or(Map::is_empty);
                (step.clone(), child)
            })
            .collect();
        Self {
            own: map.contains_key("."),
            children,
        }
    }

    /// Writes `fieldsV1`.
    #[must_use]
    pub fn to_fields_v1(&self) -> Value {
        let mut map = Map::new();
        if self.own && self.children.values().any(|child| !child.is_empty()) {
            map.insert(".".to_owned(), json!({}));
        }
        for (step, child) in self.children.iter().filter(|(_, child)| !child.is_empty()) {
            map.insert(step.clone(), child.to_fields_v1());
        }
        map.into()
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.own |= other.own;
        for (step, child) in &other.children {
            let mine = self.children.remove(step).unwrap_or_default();
            self.children.insert(step.clone(), mine.union(child));
        }
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(step, child)| {
            let both = child.intersection(other.children.get(step)?);
            (!both.is_empty()).then(|| (step.clone(), both))
        });
        Self {
            own: self.own && other.own,
            children: children.collect(),
        }
    }

    /// What is here and not there.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let none = Self::default();
        let children = self.children.iter().filter_map(|(step, child)| {
            let rest = child.difference(other.children.get(step).unwrap_or(&none));
            (!rest.is_empty()).then(|| (step.clone(), rest))
        });
        Self {
            own: self.own && !other.own,
            children: children.collect(),
        }
    }

    /// The set without the places that `gone` names and all that is under them.
    #[must_use]
    pub fn without_trees(&self, gone: &Self) -> Self {
        if gone.own {
            return Self::default();
        }
        let children = self.children.iter().filter_map(|(step, child)| {
            let rest = match gone.children.get(step) {
                Some(gone) => child.without_trees(gone),
                None => child.clone(),
            };
            (!rest.is_empty()).then(|| (step.clone(), rest))
        });
        Self {
            own: self.own,
            children: children.collect(),
        }
    }

    /// The set without the places under which the other has something: what holds a thing that is kept is kept.
    #[must_use]
    pub fn unless_above(&self, kept: &Self) -> Self {
        if kept.is_empty() {
            return self.clone();
        }
        let none = Self::default();
        let children = self.children.iter().map(|(step, child)| {
            let rest = child.unless_above(kept.children.get(step).unwrap_or(&none));
            (step.clone(), rest)
        });
        Self {
            own: false,
            children: children.filter(|(_, child)| !child.is_empty()).collect(),
        }
    }

    /// The places of the set as messages write them: `.spec.containers[name="a"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.own {
            paths.push(prefix.to_owned());
        }
        for (step, child) in &self.children {
            child.collect_paths(&format!("{prefix}{}", shown_step(step)), paths);
        }
    }
}

/// Whether `fieldsV1` names all places of a set.
#[must_use]
pub fn covers(fields: &Value, set: &FieldSet) -> bool {
    let Value::Object(map) = fields else {
        return set.is_empty();
    };
    if set.own && !map.is_empty() && !map.contains_key(".") {
        return false;
    }
    let mut children = set.children.iter().filter(|(_, child)| !child.is_empty());
    children.all(|(step, child)| map.get(step).is_some_and(|fields| covers(fields, child)))
}

/// Whether `fieldsV1` names a place of a set, or (`trees`) one under a place of the set.
#[must_use]
pub fn touches(set: &FieldSet, fields: &Value, trees: bool) -> bool {
    let Value::Object(map) = fields else {
        return false;
    };
    if set.own && (trees || map.is_empty() || map.contains_key(".")) {
        return true;
    }
    let mut children = set.children.iter();
    children.any(|(step, child)| {
        map.get(step)
            .is_some_and(|fields| touches(child, fields, trees))
    })
}

fn shown_step(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let mut keys: Vec<String> = keys
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            keys.sort();
            format!("[{}]", keys.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        _ => format!("[{step}]"),
    }
}

/// How apply sees a place: its type, and the field it is in.
#[derive(Clone, Copy)]
struct Place<'s> {
    ty: &'s Type,
    field: Option<&'s Field>,
}

/// What is known of a place that the schema leaves open.
const DEDUCED: Place<'static> = Place {
    ty: &Type::Deduced,
    field: None,
};

/// What apply does at a place.
enum Shape<'s> {
    /// One value.
    Leaf,
    /// Fields or keys, each on its own.
    Fields,
    /// Elements known by their values.
    Set,
    /// Elements known by the fields.
    Elements(&'s [std::borrow::Cow<'static, str>], &'s Type),
}

/// Takes objects apart by their schema.
pub struct Fields<'s> {
    schema: &'s Schema,
    root: Type,
}

impl<'s> Fields<'s> {
    /// For objects of a type.
    #[must_use]
    pub const fn new(schema: &'s Schema, root: TypeId) -> Self {
        Self {
            schema,
            root: Type::Object(root),
        }
    }

    fn root(&self) -> Place<'_> {
        Place {
            ty: &self.root,
            field: None,
        }
    }

    fn shape<'p>(&'p self, place: Place<'p>) -> Shape<'p> {
        let list = place.field.and_then(|field| field.list.as_ref());
        match place.ty {
            _ if list == Some(&ListKind::Atomic) => Shape::Leaf,
            Type::Object(id) if self.schema.get(*id).atomic => Shape::Leaf,
            Type::Object(_) | Type::Map(_) | Type::Deduced => Shape::Fields,
            Type::List(element) => match list {
                Some(ListKind::Set) => Shape::Set,
                Some(ListKind::Map(keys)) => Shape::Elements(keys, element),
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }

    fn under<'p>(&'p self, place: Place<'p>, name: &str) -> Option<Place<'p>> {
        match place.ty {
            Type::Object(id) => {
                let def = self.schema.get(*id);
                match def.field(name) {
                    Some(field) => Some(Place {
                        ty: &field.ty,
                        field: Some(field),
                    }),
                    None if def.open => Some(DEDUCED),
                    None => None,
                }
            }
            Type::Deduced => Some(DEDUCED),
            Type::Map(element) => Some(Place {
                ty: element,
                field: None,
            }),
            _ => None,
        }
    }

    /// The step to an element of a list: its keys, those that are absent as their defaults say.
    fn element_step(
        &self,
        keys: &[std::borrow::Cow<'static, str>],
        element: &Type,
        value: &Value,
    ) -> String {
        let mut found = Map::new();
        for key in keys {
            let default = || match element {
                Type::Object(id) => self.schema.get(*id).field(key)?.default.clone(),
                _ => None,
            };
            if let Some(value) = value.get(&**key).cloned().or_else(default) {
                found.insert(key.to_string(), value);
            }
        }
        format!("k:{}", Value::Object(found))
    }

    /// All fields that an object sets.
    #[must_use]
    pub fn of(&self, value: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        self.collect(self.root(), value, &mut set);
        set
    }

    fn collect(&self, place: Place<'_>, value: &Value, set: &mut FieldSet) {
        match (self.shape(place), value) {
            (Shape::Fields, Value::Object(map)) if !map.is_empty() => {
                for (name, value) in map {
                    let child = set.step(format!("f:{name}"));
                    match self.under(place, name) {
                        Some(place) => self.collect(place, value, child),
                        None => child.own = true,
                    }
                }
            }
            (Shape::Set, Value::Array(list)) if !list.is_empty() => {
                for value in list {
                    set.step(format!("v:{value}")).own = true;
                }
            }
            (Shape::Elements(keys, element), Value::Array(list)) if !list.is_empty() => {
                for value in list {
                    let child = set.step(self.element_step(keys, element, value));
                    child.own = true;
                    self.collect(
                        Place {
                            ty: element,
                            field: None,
                        },
                        value,
                        child,
                    );
                }
            }
            _ => set.own = true,
        }
    }

    /// What differs between two states: what was set or changed, and what went.
    #[must_use]
    pub fn compare(&self, old: &Value, new: &Value) -> (FieldSet, FieldSet) {
        let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
        self.diff(
            self.root(),
            (Some(old), Some(new)),
            false,
            &mut changed,
            &mut removed,
        );
        (changed, removed)
    }

    /// `fresh`: what holds the place is new itself.
    fn diff(
        &self,
        place: Place<'_>,
        (old, new): (Option<&Value>, Option<&Value>),
        fresh: bool,
        changed: &mut FieldSet,
        removed: &mut FieldSet,
    ) {
        if old == new {
            return;
        }
        let object = |value: Option<&Value>| value.is_none_or(Value::is_object);
        let shape = match place.ty {
            Type::Deduced if !(object(old) && object(new)) => Shape::Leaf,
            _ => self.shape(place),
        };
        // What is always written is there for upstream even in an empty object.
        let always = !fresh
            && place
                .field
                .is_none_or(|field| field.always || field.embedded);
        let fresh = old.is_none() && !always;
        match (old, new) {
            (None, Some(_)) => changed.own |= fresh || matches!(shape, Shape::Leaf),
            (Some(_), None) => removed.own = true,
            _ => changed.own |= matches!(shape, Shape::Leaf),
        }
        match shape {
            Shape::Leaf => {}
            Shape::Fields => {
                let none = Map::new();
                let (old, new) = (
                    old.and_then(Value::as_object).unwrap_or(&none),
                    new.and_then(Value::as_object).unwrap_or(&none),
                );
                for name in old
                    .keys()
                    .chain(new.keys().filter(|name| !old.contains_key(*name)))
                {
                    let (old, new) = (old.get(name), new.get(name));
                    if old == new {
                        continue;
                    }
                    let step = format!("f:{name}");
                    let Some(place) = self.under(place, name) else {
                        continue;
                    };
                    self.diff(
                        place,
                        (old, new),
                        fresh,
                        changed.step(step.clone()),
                        removed.step(step),
                    );
                }
            }
            Shape::Set | Shape::Elements(..) => {
                let (old, new) = (self.by_step(place, old), self.by_step(place, new));
                let element = match place.ty {
                    Type::List(element) => &**element,
                    other => other,
                };
                for step in old.keys().filter(|step| !new.contains_key(*step)) {
                    removed.step(step.clone()).own = true;
                }
                for (step, value) in &new {
                    let child = changed.step(step.clone());
                    let before = old.get(step).copied();
                    child.own |= before.is_none();
                    if matches!(shape, Shape::Elements(..)) {
                        let place = Place {
                            ty: element,
                            field: None,
                        };
                        self.diff(
                            place,
                            (before, Some(value)),
                            before.is_none(),
                            child,
                            removed.step(step.clone()),
                        );
                    }
                }
            }
        }
    }

    /// The elements of a list by their steps.
    fn by_step<'v>(
        &self,
        place: Place<'_>,
        list: Option<&'v Value>,
    ) -> BTreeMap<String, &'v Value> {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        match self.shape(place) {
            Shape::Elements(keys, element) => list
                .map(|value| (self.element_step(keys, element, value), value))
                .collect(),
            _ => list.map(|value| (format!("v:{value}"), value)).collect(),
        }
    }

    /// The places that an apply of `value` would replace as a whole, as paths.
    #[must_use]
    pub fn replaced_as_a_whole(&self, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.find_whole(self.root(), value, "", &mut found);
        found
    }

    fn find_whole(&self, place: Place<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
        let leaf = matches!(self.shape(place), Shape::Leaf);
        match (place.ty, value) {
            (Type::Object(_) | Type::Map(_), Value::Object(map)) => {
                if leaf {
                    found.push(path.to_owned());
                }
                for (name, value) in map {
                    if let (Type::Object(_), Some(place)) = (place.ty, self.under(place, name)) {
                        self.find_whole(place, value, &format!("{path}.{name}"), found);
                    }
                }
            }
            (Type::List(element), Value::Array(list)) => {
                if leaf {
                    found.push(path.to_owned());
                }
                let place = Place {
                    ty: element,
                    field: None,
                };
                for (index, value) in list.iter().enumerate() {
                    self.find_whole(place, value, &format!("{path}[{index}]"), found);
                }
            }
            _ => {}
        }
    }

    /// An object with another applied to it.
    #[must_use]
    pub fn merge(&self, live: &Value, config: &Value) -> Value {
        self.merge_at(self.root(), live, config)
    }

    fn merge_at(&self, place: Place<'_>, live: &Value, config: &Value) -> Value {
        match (self.shape(place), live, config) {
            (Shape::Fields, Value::Object(live), Value::Object(config)) => {
                let mut merged = live.clone();
                for (name, value) in config {
                    let value = match (merged.get(name), self.under(place, name)) {
                        (Some(live), Some(place)) => self.merge_at(place, live, value),
                        _ => value.clone(),
                    };
                    merged.insert(name.clone(), value);
                }
                merged.into()
            }
            (Shape::Set | Shape::Elements(..), Value::Array(live), Value::Array(config)) => {
                let step = |value: &Value| match self.shape(place) {
                    Shape::Elements(keys, element) => self.element_step(keys, element, value),
                    _ => format!("v:{value}"),
                };
                let element = match place.ty {
                    Type::List(element) => &**element,
                    other => other,
                };
                // The order is the applier's; what only others have stays before what followed it.
                let wanted: Vec<String> = config.iter().map(step).collect();
                let mut rest = live.iter().peekable();
                let mut merged = Vec::new();
                for (value, name) in config.iter().zip(&wanted) {
                    while let Some(other) = rest.next_if(|other| !wanted.contains(&step(other))) {
                        merged.push(other.clone());
                    }
                    rest.next_if(|_| true);
                    merged.push(match live.iter().find(|other| step(other) == *name) {
                        Some(live) => self.merge_at(
                            Place {
                                ty: element,
                                field: None,
                            },
                            live,
                            value,
                        ),
                        None => value.clone(),
                    });
                }
                merged.extend(rest.filter(|other| !wanted.contains(&step(other))).cloned());
                merged.into()
            }
            _ => config.clone(),
        }
    }

    /// The object without the places that are in the set.
    #[must_use]
    pub fn without(&self, value: &Value, gone: &FieldSet) -> Value {
        self.prune(self.root(), value, gone)
    }

    fn prune(&self, place: Place<'_>, value: &Value, gone: &FieldSet) -> Value {
        match (self.shape(place), value) {
            (Shape::Fields, Value::Object(map)) => {
                let kept = map.iter().filter_map(|(name, value)| {
                    let Some(gone) = gone.children.get(&format!("f:{name}")) else {
                        return Some((name.clone(), value.clone()));
                    };
                    if gone.own {
                        return None;
                    }
                    let inner = self.under(place, name)?;
                    let rest = self.prune(inner, value, gone);
                    // What was emptied by this goes with it.
                    (!is_empty(&rest) || is_empty(value)).then(|| (name.clone(), rest))
                });
                Value::Object(kept.collect())
            }
            (shape @ (Shape::Set | Shape::Elements(..)), Value::Array(list)) => {
                let kept = list.iter().filter_map(|value| {
                    let (step, element) = match shape {
                        Shape::Elements(keys, element) => {
                            (self.element_step(keys, element, value), Some(element))
                        }
                        _ => (format!("v:{value}"), None),
                    };
                    match (gone.children.get(&step), element) {
                        (Some(gone), _) if gone.own => None,
                        (Some(gone), Some(element)) => Some(self.prune(
                            Place {
                                ty: element,
                                field: None,
                            },
                            value,
                            gone,
                        )),
                        _ => Some(value.clone()),
                    }
                });
                Value::Array(kept.collect())
            }
            _ => value.clone(),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
