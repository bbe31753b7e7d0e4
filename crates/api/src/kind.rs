//! What a kind is to the generic pipeline: data, and a small strategy.

use std::borrow::Cow;
use std::marker::PhantomData;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::field::ErrorList;
use crate::object::{Object, ObjectExt};
use crate::status::{ApiError, ApiResult};
use crate::validation::expressions::ExpressionChecker;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// What can be done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Kubernetes' own verbs")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

/// A column of a server-side table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What the column means; `kubectl` does not show it, the API does.
    pub description: &'static str,
    /// 0: always shown; 1: only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The column of names that every kind but events has first.
    pub const NAME: Self = Self::new(
        "Name",
        "string",
        "The name, unique among its kind (in its namespace).",
    )
    .name();
    /// The column of ages.
    pub const AGE: Self = Self::new("Age", "string", "How long ago the object was made.");
    /// What the default table has in place of the age.
    pub const CREATED_AT: Self = Self::new("Created At", "date", "When the object was made.");

    /// A column that is always shown.
    #[must_use]
    pub const fn new(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self {
            name,
            kind,
            format: "",
            description,
            priority: 0,
        }
    }

    /// The same, shown only with `-o wide`.
    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// The same, marked as a name.
    #[must_use]
    pub const fn name(mut self) -> Self {
        self.format = "name";
        self
    }
}

/// The verbs of an ordinary stored kind.
pub const ALL_VERBS: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
/// The verb of reviews.
pub const CREATE_ONLY: &[Verb] = &[Verb::Create];
/// The verbs of a status.
pub const STATUS_VERBS: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// A subresource, for example `status` of `deployments`.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    /// The name in the path.
    pub name: &'static str,
    /// The kind that is read and written there: (group, version, kind).
    pub kind: (&'static str, &'static str, &'static str),
    /// What can be done with it.
    pub verbs: &'static [Verb],
}

impl Subresource {
    /// The scale of a workload.
    pub const SCALE: Self = Self {
        name: "scale",
        kind: ("autoscaling", "v1", "Scale"),
        verbs: STATUS_VERBS,
    };

    /// The status of a kind.
    #[must_use]
    pub const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        Self {
            name: "status",
            kind: (group, version, kind),
            verbs: STATUS_VERBS,
        }
    }
}

impl Verb {
    /// The verb as discovery and RBAC write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// How a version that is served but not stored relates to the stored one, which has the same storage prefix.
/// Requests are checked, defaulted and decoded in the served version, then converted with `to_storage`, and go on
/// with the ops of the stored kind; answers are converted back.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// The `apiVersion` that is stored.
    pub storage_version: &'static str,
    /// From the served to the stored version, `apiVersion` included.
    pub to_storage: fn(Value) -> Value,
    /// From the stored to the served version, `apiVersion` included.
    pub from_storage: fn(Value) -> Value,
}

/// A served kind in one version. `crate::kinds()` lists those that are served by default.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The API group, empty for the core.
    pub group: &'static str,
    /// The version, for example `v1`.
    pub version: &'static str,
    /// The kind, for example `Pod`.
    pub kind: &'static str,
    /// The resource, for example `pods`.
    pub plural: &'static str,
    /// For example `pod`.
    pub singular: &'static str,
    /// For example `po`.
    pub short_names: &'static [&'static str],
    /// For example `all`.
    pub categories: &'static [&'static str],
    /// Where objects live.
    pub scope: Scope,
    /// What can be done with it.
    pub verbs: &'static [Verb],
    /// The subresources.
    pub subresources: &'static [Subresource],
    /// The key prefix in the store without slash at the end, as upstream lays it out (`/registry/pods`,
    /// `/registry/services/specs`); empty for kinds that are not stored (reviews, bindings).
    pub storage: &'static str,
    /// The columns of a table, the name column included, as `reference/table-columns.json` has them.
    pub columns: &'static [Column],
    /// The fields that selectors may name beside `metadata.name` and `metadata.namespace`, with the JSON
    /// pointer each is read from. A field that is absent reads as the empty string (booleans: `false`).
    pub fields: &'static [(&'static str, &'static str)],
    /// The name of the schema in OpenAPI v2, for example `io.k8s.api.core.v1.Pod`.
    pub schema: &'static str,
    /// `None`: this version is the one that is stored.
    pub conversion: Option<Conversion>,
    /// What the pipeline calls.
    pub ops: &'static dyn KindOps,
}

impl Kind {
    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether objects of the kind are kept in the store.
    #[must_use]
    pub const fn is_stored(&self) -> bool {
        !self.storage.is_empty()
    }

    /// What field selectors see of an object beside its name and namespace.
    #[must_use]
    pub fn field_values(&self, object: &Value) -> Vec<(&'static str, String)> {
        self.fields
            .iter()
            .map(|(name, pointer)| {
                let value = match object.pointer(pointer) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Null) | None => absent_field(name, object),
                    Some(other) => other.to_string(),
                };
                (*name, value)
            })
            .collect()
    }
}

/// What an absent field reads as: upstream selects on decoded objects, where numbers and booleans are never absent,
/// and an event without source is taken to come from its reporter.
fn absent_field(name: &str, object: &Value) -> String {
    match name {
        "spec.hostNetwork" | "spec.unschedulable" => "false".to_owned(),
        "status.replicas" | "status.successful" => "0".to_owned(),
        "source" => ["/reportingComponent", "/reportingController"]
            .iter()
            .find_map(|pointer| object.pointer(pointer)?.as_str())
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    }
}

/// What a strategy may know about the write.
#[derive(Clone, Debug)]
pub struct WriteContext {
    /// The time of the write.
    pub now: Timestamp,
    /// The user's name.
    pub user: String,
    /// The user's uid, often empty.
    pub uid: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// What the authenticator knows of the user besides.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
    /// The subresource written to, empty for the object itself.
    pub subresource: String,
}

/// The methods of a strategy whose object has `spec` and `status`: a creator sets no status, an update keeps it, and an update
/// of the status keeps everything else.
macro_rules! keep_status {
    () => {
        fn prepare_create(object: &mut Self::Object, _: &$crate::kind::WriteContext) {
            object.status = Some(Default::default());
        }

        $crate::kind::keep_status!(update);
    };
    (update) => {
        fn prepare_update(
            new: &mut Self::Object,
            old: &Self::Object,
            _: &$crate::kind::WriteContext,
        ) {
            new.status = old.status.clone();
        }

        fn prepare_status_update(
            new: &mut Self::Object,
            old: &Self::Object,
            _: &$crate::kind::WriteContext,
        ) {
            new.spec = old.spec.clone();
        }
    };
}
pub(crate) use keep_status;

/// What differs per kind, on its own type. Everything has a default that does what upstream's generic
/// strategy does. Metadata (names, labels, ownership ...) is defaulted and validated by the pipeline for every
/// kind, not here, except what is special to the kind ([`Strategy::name_errors`]).
pub trait Strategy: Send + Sync + 'static {
    /// The kind's type.
    type Object: k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + schemars::JsonSchema
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static;

    /// Whether the object has `status`, which only the status subresource may change, and `generation`,
    /// which grows with every change of anything but metadata and status.
    const HAS_STATUS: bool = false;
    /// Whether `metadata.generation` is kept.
    const HAS_GENERATION: bool = Self::HAS_STATUS;
    /// Whether a new object has the generation 1; else it has none before the first change.
    const HAS_FIRST_GENERATION: bool = Self::HAS_GENERATION;
    /// Whether an update may come without a resource version.
    const ALLOW_UNCONDITIONAL_UPDATE: bool = true;
    /// Whether an update of an object that does not exist makes it.
    const ALLOW_CREATE_ON_UPDATE: bool = false;

    /// Fills in what the client left out. Idempotent.
    fn default(_: &mut Self::Object) {}
    /// What is wrong with a name of this kind (upstream's name validation); `prefix`: it is a `generateName`.
    fn name_errors(name: &str, prefix: bool) -> Vec<String> {
        crate::kind::dns_subdomain_errors(name, prefix)
    }
    /// Before validation on create: drop what a creator may not set (status).
    fn prepare_create(_: &mut Self::Object, _: &WriteContext) {}
    /// What is wrong with a new object.
    fn validate_create(_: &Self::Object) -> ErrorList {
        Vec::new()
    }
    /// Before validation on update: keep of `old` what an update may not change (status).
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object, _: &WriteContext) {}
    /// What is wrong with a changed object.
    fn validate_update(new: &Self::Object, _old: &Self::Object) -> ErrorList {
        Self::validate_create(new)
    }
    /// What is wrong with a new object, the expressions in it included; for kinds that have expressions.
    fn validate_create_with(object: &Self::Object, _: &dyn ExpressionChecker) -> ErrorList {
        Self::validate_create(object)
    }
    /// The same for a changed object.
    fn validate_update_with(
        new: &Self::Object,
        old: &Self::Object,
        _: &dyn ExpressionChecker,
    ) -> ErrorList {
        Self::validate_update(new, old)
    }
    /// Before validation on an update of the status: keep of `old` everything else.
    fn prepare_status_update(_new: &mut Self::Object, _old: &Self::Object, _: &WriteContext) {}
    /// What is wrong with the new status.
    fn validate_status_update(_new: &Self::Object, _old: &Self::Object) -> ErrorList {
        Vec::new()
    }
    /// Warnings for the client (`Warning: 299 - "..."`) on create and update.
    fn warnings(_new: &Self::Object, _old: Option<&Self::Object>) -> Vec<String> {
        Vec::new()
    }
    /// Whether an update makes a new generation, where that does not hang on everything but metadata and status.
    fn is_new_generation(_new: &Self::Object, _old: &Self::Object) -> Option<bool> {
        None
    }
    /// Warnings for the client on updates of the status.
    fn status_warnings(_new: &Self::Object) -> Vec<String> {
        Vec::new()
    }
    /// The cells of the object's row in a table, one per column of the kind.
    fn row(object: &Self::Object, now: Timestamp) -> Vec<Value>;
}

/// A strategy behind one vtable, so that the pipeline is compiled once.
#[allow(
    missing_docs,
    reason = "each method is the one of `Strategy` with that name"
)]
pub trait KindOps: Send + Sync + 'static {
    /// The typed view. The value has passed the schema check; what does not decode gives 400. A borrowed tree is not copied: strings are.
    fn decode(&self, value: Cow<'_, Value>) -> ApiResult<Box<dyn Object>>;
    fn has_status(&self) -> bool;
    fn has_generation(&self) -> bool;
    fn has_first_generation(&self) -> bool {
        self.has_generation()
    }
    fn allow_unconditional_update(&self) -> bool;
    fn allow_create_on_update(&self) -> bool;
    fn default(&self, object: &mut dyn Object);
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String>;
    fn prepare_create(&self, object: &mut dyn Object, context: &WriteContext);
    fn validate_create(&self, object: &dyn Object) -> ErrorList;
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, context: &WriteContext);
    fn validate_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList;
    fn validate_create_with(&self, object: &dyn Object, _: &dyn ExpressionChecker) -> ErrorList {
        self.validate_create(object)
    }
    fn validate_update_with(
        &self,
        new: &dyn Object,
        old: &dyn Object,
        _: &dyn ExpressionChecker,
    ) -> ErrorList {
        self.validate_update(new, old)
    }
    fn prepare_status_update(&self, new: &mut dyn Object, old: &dyn Object, context: &WriteContext);
    fn validate_status_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList;
    fn validate_status_update_with(
        &self,
        new: &dyn Object,
        old: &dyn Object,
        _: &dyn ExpressionChecker,
    ) -> ErrorList {
        self.validate_status_update(new, old)
    }
    fn warnings(&self, new: &dyn Object, old: Option<&dyn Object>) -> Vec<String>;
    fn is_new_generation(&self, _new: &dyn Object, _old: &dyn Object) -> Option<bool> {
        None
    }
    fn status_warnings(&self, _new: &dyn Object) -> Vec<String> {
        Vec::new()
    }
    fn row(&self, object: &dyn Object, now: Timestamp) -> Vec<Value>;
    /// Adds the schemas of the kind and of all that it consists of to the generator's definitions.
    fn add_schema(&self, _generator: &mut schemars::SchemaGenerator) {}
}

/// Makes [`KindOps`] of a [`Strategy`].
pub struct Typed<S>(PhantomData<fn() -> S>);

impl<S> Typed<S> {
    /// For the table of kinds.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S> Default for Typed<S> {
    fn default() -> Self {
        Self::new()
    }
}

// The pipeline hands every object to the ops of the kind that decoded it, so a downcast fails only by a
// fault of the pipeline itself; the write is then refused rather than the process ended.
fn typed<T: 'static>(object: &dyn Object) -> Option<&T> {
    let typed = object.downcast_ref();
    if typed.is_none() {
        debug_assert!(false, "object is not a {}", std::any::type_name::<T>());
    }
    typed
}

fn wrong_type(path: &str) -> ErrorList {
    vec![crate::field::FieldError::internal(
        &crate::field::Path::new(path),
        "object of another kind",
    )]
}

impl<S: Strategy> KindOps for Typed<S> {
    fn decode(&self, value: Cow<'_, Value>) -> ApiResult<Box<dyn Object>> {
        // One decoder for trees of both sorts: each is much code.
        match S::Object::deserialize(&*value) {
            Ok(object) => Ok(Box::new(object)),
            Err(error) => Err(ApiError::bad_request(error.to_string())),
        }
    }
    fn has_status(&self) -> bool {
        S::HAS_STATUS
    }
    fn has_generation(&self) -> bool {
        S::HAS_GENERATION
    }
    fn has_first_generation(&self) -> bool {
        S::HAS_FIRST_GENERATION
    }
    fn allow_unconditional_update(&self) -> bool {
        S::ALLOW_UNCONDITIONAL_UPDATE
    }
    fn allow_create_on_update(&self) -> bool {
        S::ALLOW_CREATE_ON_UPDATE
    }
    fn default(&self, object: &mut dyn Object) {
        if let Some(object) = object.downcast_mut() {
            S::default(object);
        }
    }
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        S::name_errors(name, prefix)
    }
    fn prepare_create(&self, object: &mut dyn Object, context: &WriteContext) {
        if let Some(object) = object.downcast_mut() {
            S::prepare_create(object, context);
        }
    }
    fn validate_create(&self, object: &dyn Object) -> ErrorList {
        typed(object).map_or_else(|| wrong_type("kind"), S::validate_create)
    }
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, context: &WriteContext) {
        if let (Some(new), Some(old)) = (new.downcast_mut(), typed(old)) {
            S::prepare_update(new, old, context);
        }
    }
    fn validate_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList {
        match (typed(new), typed(old)) {
            (Some(new), Some(old)) => S::validate_update(new, old),
            _ => wrong_type("kind"),
        }
    }
    fn validate_create_with(
        &self,
        object: &dyn Object,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        typed(object).map_or_else(
            || wrong_type("kind"),
            |object| S::validate_create_with(object, checker),
        )
    }
    fn validate_update_with(
        &self,
        new: &dyn Object,
        old: &dyn Object,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        match (typed(new), typed(old)) {
            (Some(new), Some(old)) => S::validate_update_with(new, old, checker),
            _ => wrong_type("kind"),
        }
    }
    fn prepare_status_update(
        &self,
        new: &mut dyn Object,
        old: &dyn Object,
        context: &WriteContext,
    ) {
        if let (Some(new), Some(old)) = (new.downcast_mut(), typed(old)) {
            S::prepare_status_update(new, old, context);
        }
    }
    fn validate_status_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList {
        match (typed(new), typed(old)) {
            (Some(new), Some(old)) => S::validate_status_update(new, old),
            _ => wrong_type("kind"),
        }
    }
    fn warnings(&self, new: &dyn Object, old: Option<&dyn Object>) -> Vec<String> {
        typed(new).map_or_else(Vec::new, |new| S::warnings(new, old.and_then(typed)))
    }
    fn is_new_generation(&self, new: &dyn Object, old: &dyn Object) -> Option<bool> {
        S::is_new_generation(typed(new)?, typed(old)?)
    }
    fn status_warnings(&self, new: &dyn Object) -> Vec<String> {
        typed(new).map_or_else(Vec::new, S::status_warnings)
    }
    fn row(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        typed(object).map_or_else(Vec::new, |object| S::row(object, now))
    }
    fn add_schema(&self, generator: &mut schemars::SchemaGenerator) {
        generator.subschema_for::<S::Object>();
    }
}

/// Upstream's `NameIsDNSSubdomain`.
#[must_use]
pub fn dns_subdomain_errors(name: &str, prefix: bool) -> Vec<String> {
    // A prefix is judged as if one letter followed it.
    let name = if prefix && name.ends_with('-') {
        format!("{}a", &name[..name.len() - 1])
    } else {
        name.to_owned()
    };
    let mut errors = Vec::new();
    if name.len() > 253 {
        errors.push("must be no more than 253 bytes".to_owned());
    }
    let label = |label: &str| {
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(label.chars().next())
            && edge(label.chars().next_back())
            && label
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !name.split('.').all(label) {
        errors.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    errors
}
