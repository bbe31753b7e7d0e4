//! A version of a custom resource, as the pipeline calls it.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde_json::Value;
use skiff_api::apiextensions::custom_object::CustomObject;
use skiff_api::schema::body::Target;
use skiff_api::{
    ApiError, ApiResult, ErrorList, KindOps, Object, ObjectExt, WriteContext, kind, printing,
};

use crate::registry::{TableColumn, Text};

/// What the pipeline needs to know of a version of a custom resource beside its names.
pub struct CustomKind {
    group: String,
    version: String,
    kind: String,
    has_status: bool,
    has_scale: bool,
}

const NAME_AND_AGE: &[TableColumn] = &[
    TableColumn {
        name: Cow::Borrowed("Name"),
        kind: Cow::Borrowed("string"),
        format: Cow::Borrowed("name"),
        description: Cow::Borrowed("The name, unique among its kind (in its namespace)."),
        priority: 0,
    },
    TableColumn {
        name: Cow::Borrowed("Age"),
        kind: Cow::Borrowed("date"),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed("When the object was made."),
        priority: 0,
    },
];

impl CustomKind {
    /// A version of a definition.
    #[must_use]
    pub fn new(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Self {
        let subresources = version.subresources.as_ref();
        Self {
            group: crd.spec.group.clone(),
            version: version.name.clone(),
            kind: crd.spec.names.kind.clone(),
            has_status: subresources.is_some_and(|subresources| subresources.status.is_some()),
            has_scale: subresources.is_some_and(|subresources| subresources.scale.is_some()),
        }
    }

    /// Whether the status is a subresource.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.has_status
    }

    /// Whether the scale is a subresource.
    #[must_use]
    pub fn has_scale(&self) -> bool {
        self.has_scale
    }

    /// The columns of a table.
    #[must_use]
    pub fn columns(&self) -> Cow<'static, [TableColumn]> {
        Cow::Borrowed(NAME_AND_AGE)
    }

    /// The fields that selectors may name.
    #[must_use]
    pub fn selectable_fields(&self) -> Vec<Text> {
        Vec::new()
    }

    /// The values of those fields.
    #[must_use]
    pub fn field_values(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// What bodies are checked against.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        skiff_api::apiextensions::custom_object::target(&self.group, &self.version, &self.kind)
    }
}

fn custom(object: &dyn Object) -> Option<&CustomObject> {
    object.downcast_ref()
}

impl KindOps for CustomKind {
    fn decode(&self, value: Value) -> ApiResult<Box<dyn Object>> {
        match CustomObject::from_value(value) {
            Ok(object) => Ok(Box::new(object)),
            Err(error) => Err(ApiError::bad_request(error)),
        }
    }
    fn has_status(&self) -> bool {
        self.has_status
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
    fn default(&self, _object: &mut dyn Object) {}
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        kind::dns_subdomain_errors(name, prefix)
    }
    fn prepare_create(&self, object: &mut dyn Object, _: &WriteContext) {
        if let Some(object) = object.downcast_mut::<CustomObject>()
            && self.has_status
        {
            object.rest.remove("status");
        }
    }
    fn validate_create(&self, _object: &dyn Object) -> ErrorList {
        Vec::new()
    }
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, _: &WriteContext) {
        if let (Some(new), Some(old)) = (new.downcast_mut::<CustomObject>(), custom(old))
            && self.has_status
        {
            match old.rest.get("status") {
                Some(status) => new.rest.insert("status".to_owned(), status.clone()),
                None => new.rest.remove("status"),
            };
        }
    }
    fn validate_update(&self, _new: &dyn Object, _old: &dyn Object) -> ErrorList {
        Vec::new()
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
    fn validate_status_update(&self, _new: &dyn Object, _old: &dyn Object) -> ErrorList {
        Vec::new()
    }
    fn warnings(&self, _new: &dyn Object, _old: Option<&dyn Object>) -> Vec<String> {
        Vec::new()
    }
    fn row(&self, object: &dyn Object, _now: Timestamp) -> Vec<Value> {
        let meta = object.metadata();
        vec![meta.name.clone().into(), printing::created_at(meta)]
    }
}
