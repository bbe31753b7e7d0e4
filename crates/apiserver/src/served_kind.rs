//! A kind as the pipeline sees it: made of the static table for built-in kinds, of a definition for custom ones.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;
use skiff_api::schema::body::Target;
use skiff_api::{ApiResult, Conversion, Kind, KindOps, Scope, Subresource, Verb};

use crate::crd::CustomKind;

/// A piece of a name, which the built-in kinds have for free.
pub type Text = Cow<'static, str>;

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `skiff_api::Column`")]
pub struct TableColumn {
    pub name: Text,
    pub kind: Text,
    pub format: Text,
    pub description: Text,
    pub priority: i32,
}

/// What the pipeline calls for what differs per kind.
#[derive(Clone)]
pub enum Ops {
    /// Of a built-in kind.
    BuiltIn(&'static dyn KindOps),
    /// Of a custom kind.
    Custom(Arc<dyn KindOps>),
}

impl Deref for Ops {
    type Target = dyn KindOps;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(ops) => *ops,
            Self::Custom(ops) => &**ops,
        }
    }
}

/// A served kind in one version, built in or custom. The fields are those of [`skiff_api::Kind`].
#[derive(Clone)]
#[allow(missing_docs, reason = "the names are those of `skiff_api::Kind`")]
pub struct ServedKind {
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    /// The kind of lists.
    pub list_kind: Text,
    pub plural: Text,
    pub singular: Text,
    pub short_names: Vec<Text>,
    pub categories: Vec<Text>,
    pub scope: Scope,
    pub verbs: &'static [Verb],
    pub subresources: &'static [Subresource],
    /// The key prefix in the store without slash at the end; empty for kinds that are not stored.
    pub storage: Text,
    pub columns: Cow<'static, [TableColumn]>,
    /// The fields that selectors may name beside name and namespace.
    pub fields: Vec<Text>,
    pub conversion: Option<Conversion>,
    pub ops: Ops,
    origin: Origin,
}

/// Where a kind comes from.
#[derive(Clone)]
enum Origin {
    BuiltIn(&'static Kind),
    Custom(Arc<CustomKind>),
}

impl fmt::Debug for ServedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

impl From<&'static Kind> for ServedKind {
    fn from(kind: &'static Kind) -> Self {
        let list = |names: &'static [&'static str]| {
            names.iter().map(|name| Text::Borrowed(name)).collect()
        };
        Self {
            group: kind.group.into(),
            version: kind.version.into(),
            kind: kind.kind.into(),
            list_kind: format!("{}List", kind.kind).into(),
            plural: kind.plural.into(),
            singular: kind.singular.into(),
            short_names: list(kind.short_names),
            categories: list(kind.categories),
            scope: kind.scope,
            verbs: kind.verbs,
            subresources: kind.subresources,
            storage: kind.storage.into(),
            columns: kind
                .columns
                .iter()
                .map(|column| TableColumn {
                    name: column.name.into(),
                    kind: column.kind.into(),
                    format: column.format.into(),
                    description: column.description.into(),
                    priority: column.priority,
                })
                .collect(),
            fields: kind
                .fields
                .iter()
                .map(|(name, _)| Text::Borrowed(*name))
                .collect(),
            conversion: kind.conversion,
            ops: Ops::BuiltIn(kind.ops),
            origin: Origin::BuiltIn(kind),
        }
    }
}

/// The parts of a custom kind that the registry knows it by.
pub struct CustomParts {
    /// Group, version, kind and the kind of lists.
    pub names: [String; 4],
    /// Plural and singular.
    pub resource: [String; 2],
    /// For example `po`.
    pub short_names: Vec<String>,
    /// For example `all`.
    pub categories: Vec<String>,
    /// Where objects live.
    pub scope: Scope,
    /// Status and scale, where they are wanted.
    pub subresources: &'static [Subresource],
}

impl ServedKind {
    /// A version of a custom resource.
    #[must_use]
    pub fn custom(parts: CustomParts, custom: Arc<CustomKind>) -> Self {
        let owned = |list: Vec<String>| list.into_iter().map(Text::Owned).collect();
        let [group, version, kind, list_kind] = parts.names.map(Text::Owned);
        let [plural, singular] = parts.resource.map(Text::Owned);
        Self {
            storage: format!("/registry/{group}/{plural}").into(),
            group,
            version,
            kind,
            list_kind,
            plural,
            singular,
            short_names: owned(parts.short_names),
            categories: owned(parts.categories),
            scope: parts.scope,
            verbs: skiff_api::kind::ALL_VERBS,
            subresources: parts.subresources,
            columns: custom.columns(),
            fields: custom.selectable_fields(),
            conversion: None,
            ops: Ops::Custom(custom.clone()),
            origin: Origin::Custom(custom),
        }
    }

    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether objects of the kind are kept in the store.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        !self.storage.is_empty()
    }

    /// A stored object as it is to be seen: a custom one fits the schema as it is now.
    #[must_use]
    pub fn normalized<'b>(&self, stored: &'b [u8]) -> Cow<'b, [u8]> {
        match &self.origin {
            Origin::BuiltIn(_) => Cow::Borrowed(stored),
            Origin::Custom(custom) => custom.definition().normalized(stored),
        }
    }

    /// Grows with every state of a custom kind's definition.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.as_custom()
            .map_or(0, |custom| custom.definition().serial)
    }

    /// What only custom kinds have.
    #[must_use]
    pub fn as_custom(&self) -> Option<&Arc<CustomKind>> {
        match &self.origin {
            Origin::BuiltIn(_) => None,
            Origin::Custom(custom) => Some(custom),
        }
    }

    /// What bodies, patches and applies are checked against.
    ///
    /// # Errors
    /// A built-in kind is not in the table of types, which a test rules out.
    pub fn target(&self) -> ApiResult<Target<'_>> {
        match &self.origin {
            Origin::BuiltIn(kind) => Target::of(kind),
            Origin::Custom(custom) => Ok(custom.target()),
        }
    }

    /// What owners of fields are recorded by, and applies are merged by.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub fn apply_target(&self) -> ApiResult<Target<'_>> {
        match &self.origin {
            Origin::BuiltIn(kind) => Target::of(kind),
            Origin::Custom(custom) => Ok(custom.apply_target()),
        }
    }

    /// What field selectors see of an object beside its name and namespace, in the order of [`Self::fields`].
    #[must_use]
    pub fn field_values(&self, object: &Value) -> Vec<String> {
        match &self.origin {
            Origin::BuiltIn(kind) => kind
                .field_values(object)
                .into_iter()
                .map(|(_, value)| value)
                .collect(),
            Origin::Custom(custom) => custom.field_values(object),
        }
    }

    /// Where a field that selectors may name is in [`Self::fields`].
    #[must_use]
    pub fn field_index(&self, field: &str) -> Option<usize> {
        self.fields.iter().position(|name| name == field)
    }
}
