//! A version of a custom resource, as the pipeline calls it.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use skiff_api::apiextensions::custom_object::{self, CustomObject};
use skiff_api::apiextensions::structural::{default, lists, prune, validate};
use skiff_api::patch::go_value;
use skiff_api::schema::body::Target;
use skiff_api::validation::expressions::{ExpressionChecker, Unchecked};
use skiff_api::{
    ApiError, ApiResult, ErrorList, FieldError, KindOps, Object, ObjectExt, Path, WriteContext,
    kind, printing,
};

use super::definition::{Compiled, Definition, ScalePaths, Version, names};
use crate::registry::{TableColumn, Text};

/// What the pipeline needs to know of a version of a custom resource beside its names.
pub struct CustomKind {
    definition: Arc<Definition>,
    /// Which of the definition's versions it is.
    index: usize,
    compiled: std::sync::OnceLock<Arc<Compiled>>,
}

const NAME: TableColumn = TableColumn {
    name: Cow::Borrowed("Name"),
    kind: Cow::Borrowed("string"),
    format: Cow::Borrowed("name"),
    description: Cow::Borrowed("The name, unique among its kind (in its namespace)."),
    priority: 0,
};

impl CustomKind {
    /// A version of a definition by its place; `None`: there is none.
    #[must_use]
    pub fn new(definition: Arc<Definition>, index: usize) -> Option<Self> {
        definition.versions.get(index)?;
        Some(Self {
            definition,
            index,
            compiled: std::sync::OnceLock::new(),
        })
    }

    /// The definition that the kind is of.
    #[must_use]
    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// The version.
    #[must_use]
    #[allow(
        clippy::indexing_slicing,
        reason = "the place was looked at when the kind was made, and versions do not change"
    )]
    pub fn version(&self) -> &Version {
        &self.definition.versions[self.index]
    }

    /// The schema.
    #[must_use]
    pub fn compiled(&self) -> &Arc<Compiled> {
        self.compiled
            .get_or_init(|| self.definition.compiled(self.version()))
    }

    /// The columns of a table.
    #[must_use]
    pub fn columns(&self) -> Cow<'static, [TableColumn]> {
        let own = self.version().columns.iter();
        let own = own.map(|(column, _)| column.clone());
        std::iter::once(NAME).chain(own).collect()
    }

    /// The fields that selectors may name.
    #[must_use]
    pub fn selectable_fields(&self) -> Vec<Text> {
        let fields = self.version().selectable.iter();
        fields.map(|(name, _)| name.clone().into()).collect()
    }

    /// The values of those fields; absent ones are empty.
    #[must_use]
    pub fn field_values(&self, object: &Value) -> Vec<String> {
        let fields = self.version().selectable.iter();
        fields
            .map(
                |(_, path)| match path.as_ref().and_then(|path| path.first(object)) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Null) | None => String::new(),
                    Some(other) => go_value(other),
                },
            )
            .collect()
    }

    /// What bodies are checked against.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        custom_object::target(
            &self.definition.group,
            &self.version().name,
            &self.definition.kind,
            Some(&self.compiled().node),
        )
    }

    /// What owners of fields are recorded by, and applies are merged by.
    #[must_use]
    pub fn apply_target(&self) -> Target<'_> {
        let (schema, root) = self.compiled().types();
        Target {
            schema,
            root: *root,
            ..self.target()
        }
    }

    /// What is wrong with the numbers and the selector of the scale.
    fn scale_errors(&self, value: &Value, spec: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(scale) = &self.version().scale else {
            return errors;
        };
        let paths = [spec.then_some(&scale.spec), Some(&scale.status)];
        for path in paths.into_iter().flatten() {
            if let Some(error) = replicas_error(value, path) {
                errors.push(error);
            }
        }
        if let Some(path) = &scale.selector
            && let Some(found) = at(value, path).filter(|found| !found.is_string())
        {
            let why = format!(
                "{path} accessor error: {} is of the type {}, expected string",
                go_value(found),
                go_type(found)
            );
            errors.push(FieldError::invalid(&Path::new(path), "", &why));
        }
        errors
    }

    fn errors(
        &self,
        new: &CustomObject,
        old: Option<&CustomObject>,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        let node = &self.compiled().node;
        let value = new.to_value();
        let old = old.map(Object::to_value);
        let mut errors = validate::validate(&value, old.as_ref(), node);
        errors.extend(self.scale_errors(&value, true));
        if let Some(map) = value.as_object() {
            errors.extend(lists::validate_embedded(None, map, node));
            let had = old.as_ref().and_then(Value::as_object);
            // A list that was wrong before may stay so.
            if had.is_none_or(|old| lists::validate_lists(None, old, node).is_empty()) {
                errors.extend(lists::validate_lists(None, map, node));
            }
        }
        self.ask_rules(&value, old.as_ref(), &mut errors, checker);
        errors
    }

    /// What an update would have been refused for, had it not been so before, is a warning.
    fn ask_rules(
        &self,
        value: &Value,
        old: Option<&Value>,
        errors: &mut ErrorList,
        checker: &dyn ExpressionChecker,
    ) {
        let found = self.compiled().rules.validate(value, old, errors);
        errors.extend(found.errors);
        for warning in found.warnings {
            checker.warn(warning);
        }
    }
}

/// The value at a path of names.
pub fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    names(path).try_fold(value, |value, name| value.get(name))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn replicas_error(value: &Value, path: &str) -> Option<FieldError> {
    let found = at(value, path)?;
    let field = Path::new(path);
    let Some(number) = found.as_i64() else {
        let why = format!(
            "{path} accessor error: {} is of the type {}, expected int64",
            go_value(found),
            go_type(found)
        );
        return Some(FieldError::invalid(&field, 0i64, &why));
    };
    if number < 0 {
        let why = "should be a non-negative integer";
        return Some(FieldError::invalid(&field, number, why));
    }
    let max = i64::from(i32::MAX);
    (number > max).then(|| {
        FieldError::invalid(
            &field,
            number,
            &format!("should be less than or equal to {max}"),
        )
    })
}

fn custom(object: &dyn Object) -> Option<&CustomObject> {
    object.downcast_ref()
}

fn no_custom_object() -> ErrorList {
    vec![FieldError::internal(
        &Path::new("kind"),
        "object of another kind",
    )]
}

impl KindOps for CustomKind {
    fn decode(&self, value: Cow<'_, Value>) -> ApiResult<Box<dyn Object>> {
        match CustomObject::from_value(value.into_owned()) {
            Ok(object) => Ok(Box::new(object)),
            Err(error) => Err(ApiError::bad_request(error)),
        }
    }
    fn has_status(&self) -> bool {
        self.version().has_status
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn allow_unconditional_update(&self) -> bool {
        false
    }
    fn allow_create_on_update(&self) -> bool {
        false
    }
    fn default(&self, object: &mut dyn Object) {
        if let Some(object) = object.downcast_mut::<CustomObject>() {
            let node = &self.compiled().node;
            // What an apply or a patch brought in is pruned as what was sent.
            prune::prune(&mut object.rest, node);
            default::fill(&mut object.rest, node);
        }
    }
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        kind::dns_subdomain_errors(name, prefix)
    }
    fn prepare_create(&self, object: &mut dyn Object, _: &WriteContext) {
        if let Some(object) = object.downcast_mut::<CustomObject>()
            && self.has_status()
        {
            object.rest.remove("status");
        }
    }
    fn validate_create(&self, object: &dyn Object) -> ErrorList {
        match custom(object) {
            Some(object) => self.errors(object, None, &Unchecked),
            None => no_custom_object(),
        }
    }
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, _: &WriteContext) {
        if let (Some(new), Some(old)) = (new.downcast_mut::<CustomObject>(), custom(old))
            && self.has_status()
        {
            match old.rest.get("status") {
                Some(status) => new.rest.insert("status".to_owned(), status.clone()),
                None => new.rest.remove("status"),
            };
        }
    }
    fn validate_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList {
        self.validate_update_with(new, old, &Unchecked)
    }
    fn validate_update_with(
        &self,
        new: &dyn Object,
        old: &dyn Object,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        match (custom(new), custom(old)) {
            (Some(new), Some(old)) => self.errors(new, Some(old), checker),
            _ => no_custom_object(),
        }
    }
    fn prepare_status_update(&self, new: &mut dyn Object, old: &dyn Object, _: &WriteContext) {
        if let (Some(new), Some(old)) = (new.downcast_mut::<CustomObject>(), custom(old)) {
            let mut kept = old.clone();
            match new.rest.remove("status") {
                Some(status) => kept.rest.insert("status".to_owned(), status),
                None => kept.rest.remove("status"),
            };
            kept.metadata.managed_fields = new.metadata.managed_fields.take();
            kept.metadata.resource_version = new.metadata.resource_version.take();
            *new = kept;
        }
    }
    fn validate_status_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList {
        self.validate_status_update_with(new, old, &Unchecked)
    }
    // As upstream, all rules are asked; those that hang on nothing that changed can only warn.
    fn validate_status_update_with(
        &self,
        new: &dyn Object,
        old: &dyn Object,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        let (Some(new), Some(old)) = (custom(new), custom(old)) else {
            return no_custom_object();
        };
        let mut errors = ErrorList::new();
        let node = &self.compiled().node;
        if let (Some(status), Some(node)) = (new.rest.get("status"), node.property("status")) {
            let old = old.rest.get("status");
            errors.extend(validate::validate_at("status", status, old, node));
        }
        let value = new.to_value();
        errors.extend(self.scale_errors(&value, false));
        if let Some(map) = value.as_object()
            && lists::validate_lists(None, &old.rest, node).is_empty()
        {
            errors.extend(lists::validate_lists(None, map, node));
        }
        self.ask_rules(&value, Some(&old.to_value()), &mut errors, checker);
        errors
    }
    fn warnings(&self, new: &dyn Object, old: Option<&dyn Object>) -> Vec<String> {
        let had = old.and_then(|old| old.metadata().finalizers.as_deref());
        let had = had.unwrap_or_default();
        let finalizers = new.metadata().finalizers.iter().flatten();
        finalizers
            .filter(|finalizer| !had.contains(finalizer) && !finalizer.contains('/'))
            .filter(|finalizer| {
                !matches!(
                    finalizer.as_str(),
                    "orphan" | "foregroundDeletion" | "kubernetes"
                )
            })
            .map(|finalizer| {
                let path = match finalizer.contains('.') {
                    true => " including a path (/)",
                    false => "",
                };
                format!(
                    "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
                )
            })
            .collect()
    }
    fn row(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        let value = object.to_value();
        let mut cells = vec![object.metadata().name.clone().into()];
        for (column, path) in &self.version().columns {
            let found = path.as_ref().and_then(|path| path.first(&value));
            cells.push(cell(&column.kind, found, now));
        }
        cells
    }
}

/// A cell of a column of a type; null where there is no such value.
fn cell(ty: &str, value: Option<&Value>, now: Timestamp) -> Value {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Value::Null;
    };
    match (ty, value) {
        ("string", value) => go_value(value).into(),
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(number) => number.into(),
            #[allow(clippy::cast_possible_truncation, reason = "as upstream cuts it")]
            None => number
                .as_f64()
                .map_or(Value::Null, |number| (number as i64).into()),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => {
                let age = now.as_nanosecond() - time.as_nanosecond();
                printing::human_duration(age).into()
            }
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

impl CustomKind {
    /// Where the scale is, if it is a subresource.
    #[must_use]
    pub fn scale(&self) -> Option<&ScalePaths> {
        self.version().scale.as_ref()
    }
}
