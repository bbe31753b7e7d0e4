//! Validation errors with the path of the field they are about, in upstream's words.

use std::fmt;

/// The path of a field, for example `spec.containers[0].image` or `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// A path that starts at `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A path without a name, which is shown as `[]`: what upstream says of an object as a whole.
    #[must_use]
    pub fn nameless() -> Self {
        Self("[]".to_owned())
    }

    /// The field `name` of this field.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// Element `index` of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// Entry `key` of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text; empty for the object itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The kinds of validation errors; upstream's `field.ErrorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorType {
    /// A named thing does not exist.
    NotFound,
    /// A value that has to be there is not.
    Required,
    /// A value that has to be unique is there twice.
    Duplicate,
    /// A malformed value.
    Invalid,
    /// None of the values of an enumeration.
    NotSupported,
    /// A value that may not be set here.
    Forbidden,
    /// A string too long.
    TooLong,
    /// A list too long.
    TooMany,
    /// A server's own fault.
    Internal,
    /// A value of the wrong JSON type.
    TypeInvalid,
}

impl ErrorType {
    /// The reason in the `Status` cause, for example `FieldValueInvalid`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One validation error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What kind of error.
    pub kind: ErrorType,
    /// Which field.
    pub path: Path,
    /// The message without the path, for example `Required value: must have at least one`.
    pub body: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body)
    }
}

fn with_detail(head: String, detail: &str) -> String {
    if detail.is_empty() {
        head
    } else {
        format!("{head}: {detail}")
    }
}

/// A value as upstream prints it in messages: strings quoted, numbers and booleans bare.
pub trait Shown {
    /// The printed form.
    fn shown(&self) -> String;
}

impl Shown for str {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
impl Shown for String {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
macro_rules! shown_bare { ($($t:ty),*) => { $(impl Shown for $t { fn shown(&self) -> String { self.to_string() } })* } }
shown_bare!(i32, i64, u32, u64, usize, bool);
impl Shown for serde_json::Value {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl<T: Shown + ?Sized> Shown for &T {
    fn shown(&self) -> String {
        (**self).shown()
    }
}

impl FieldError {
    fn new(kind: ErrorType, path: &Path, body: String) -> Self {
        Self {
            kind,
            path: path.clone(),
            body,
        }
    }

    /// `Required value: detail`
    #[must_use]
    pub fn required(path: &Path, detail: &str) -> Self {
        Self::new(
            ErrorType::Required,
            path,
            with_detail("Required value".into(), detail),
        )
    }

    /// `Invalid value: "x": detail`
    #[must_use]
    pub fn invalid(path: &Path, value: impl Shown, detail: &str) -> Self {
        Self::new(
            ErrorType::Invalid,
            path,
            with_detail(format!("Invalid value: {}", value.shown()), detail),
        )
    }

    /// `Duplicate value: "x"`
    #[must_use]
    pub fn duplicate(path: &Path, value: impl Shown) -> Self {
        Self::new(
            ErrorType::Duplicate,
            path,
            format!("Duplicate value: {}", value.shown()),
        )
    }

    /// `Not found: "x"`
    #[must_use]
    pub fn not_found(path: &Path, value: impl Shown) -> Self {
        Self::new(
            ErrorType::NotFound,
            path,
            format!("Not found: {}", value.shown()),
        )
    }

    /// `Forbidden: detail`
    #[must_use]
    pub fn forbidden(path: &Path, detail: &str) -> Self {
        Self::new(
            ErrorType::Forbidden,
            path,
            with_detail("Forbidden".into(), detail),
        )
    }

    /// `Unsupported value: "x": supported values: "a", "b"`; the values are printed in the order given
    /// (upstream sorts them where they come from a set).
    #[must_use]
    pub fn not_supported(path: &Path, value: impl Shown, supported: &[&str]) -> Self {
        let head = format!("Unsupported value: {}", value.shown());
        let list = supported
            .iter()
            .map(|value| format!("{value:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let body = if list.is_empty() {
            head
        } else {
            format!("{head}: supported values: {list}")
        };
        Self::new(ErrorType::NotSupported, path, body)
    }

    /// `Too long: may not be more than N bytes`
    #[must_use]
    pub fn too_long(path: &Path, max: usize) -> Self {
        Self::new(
            ErrorType::TooLong,
            path,
            format!("Too long: may not be more than {max} bytes"),
        )
    }

    /// `Too many: N: must have at most M items`
    #[must_use]
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        Self::new(
            ErrorType::TooMany,
            path,
            format!("Too many: {actual}: must have at most {max} items"),
        )
    }

    /// `Internal error: detail`
    #[must_use]
    pub fn internal(path: &Path, detail: &str) -> Self {
        Self::new(
            ErrorType::Internal,
            path,
            format!("Internal error: {detail}"),
        )
    }
}

/// The errors of one validation.
pub type ErrorList = Vec<FieldError>;
