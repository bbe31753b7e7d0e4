//! The schema of a custom resource as the server works with it: compact, made once per definition.
//!
//! A [`Node`] says what may be at a place; [`prune`](prune::prune) takes away what may not, [`default`](default::fill)
//! adds what is missing, and [`validate`](validate::validate) says what is wrong with the rest.

pub mod default;
pub mod formats;
pub mod lists;
pub mod prune;
pub mod validate;
pub mod view;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use regex::Regex;
use serde_json::Value;

/// What JSON a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of JSON schema")]
pub enum Ty {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Ty {
    /// The type of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// The name in a schema.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// How a list is merged, and what must be unique in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// One value.
    Atomic,
    /// Its elements are.
    Set,
    /// Its elements' keys are.
    Map(Vec<String>),
}

/// What other fields than the known ones an object may have.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// The schema does not speak of them.
    #[default]
    Unsaid,
    /// Any, or none.
    Any(bool),
    /// Those that fit.
    Fitting(Box<Node>),
}

/// What may be at a place of an object.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of JSON schema")]
pub struct Node {
    pub ty: Option<Ty>,
    pub int_or_string: bool,
    pub nullable: bool,
    /// Fields that are not listed are kept.
    pub preserve: bool,
    /// What is here is an object with `apiVersion`, `kind` and metadata of its own.
    pub embedded: bool,
    pub list: Option<List>,
    /// Apply takes the object as one.
    pub atomic: bool,
    pub default: Option<Value>,
    /// Sorted by name.
    pub properties: Vec<(String, Node)>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub checks: Option<Box<Checks>>,
    /// `x-kubernetes-validations`.
    pub rules: Vec<ValidationRule>,
}

/// A regular expression as written, and as it is run; `None`: it cannot be.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As written.
    pub text: String,
    regex: Option<Regex>,
}

impl Pattern {
    /// Of a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            regex: regex(text).ok(),
        }
    }

    /// Whether a text has a match in it.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex
            .as_ref()
            .is_some_and(|regex| regex.is_match(text))
    }
}

/// Compiles a regular expression as Go reads it.
///
/// # Errors
/// The message of the compiler.
pub fn regex(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(&from_go(pattern))
        .size_limit(4 << 20)
        .build()
        .map_err(|error| error.to_string())
}

/// The pattern in our library's words: in Go the classes are of ASCII, and within brackets fewer characters are special.
fn from_go(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\x0c\\r ]"),
                Some('S') => out.push_str("[^\\t\\n\\x0c\\r ]"),
                Some('b') if !in_class => out.push_str("(?-u:\\b)"),
                Some('z') if !in_class => out.push_str("\\z"),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if in_class => {
                // A named class is the same; a bracket alone is a character.
                if chars.peek() == Some(&':') {
                    out.push('[');
                    for c in chars.by_ref() {
                        out.push(c);
                        if c == ']' {
                            break;
                        }
                    }
                } else {
                    out.push_str("\\[");
                }
            }
            '[' => {
                in_class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.push('^');
                    chars.next();
                }
                if chars.peek() == Some(&']') {
                    out.push_str("\\]");
                    chars.next();
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => out.extend(['\\', c]),
            other => out.push(other),
        }
    }
    out
}

/// What must hold of the value at a place.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of JSON schema")]
pub struct Checks {
    pub format: String,
    pub pattern: Option<Pattern>,
    pub required: Vec<String>,
    pub one_of_values: Vec<Value>,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<i64>,
    pub max_length: Option<i64>,
    pub min_items: Option<i64>,
    pub max_items: Option<i64>,
    pub min_properties: Option<i64>,
    pub max_properties: Option<i64>,
    pub unique_items: bool,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

impl Node {
    /// Of a definition's schema.
    #[must_use]
    pub fn new(props: &JSONSchemaProps) -> Self {
        let yes = |flag: Option<bool>| flag == Some(true);
        let list = match props.x_kubernetes_list_type.as_deref() {
            Some("set") => Some(List::Set),
            Some("map") => {
                let keys = props.x_kubernetes_list_map_keys.clone();
                Some(List::Map(keys.unwrap_or_default()))
            }
            Some("atomic") => Some(List::Atomic),
            _ => None,
        };
        let additional = match &props.additional_properties {
            None => Additional::Unsaid,
            Some(JSONSchemaPropsOrBool::Bool(any)) => Additional::Any(*any),
            Some(JSONSchemaPropsOrBool::Schema(schema)) => {
                Additional::Fitting(Box::new(Self::new(schema)))
            }
        };
        let items = match &props.items {
            Some(JSONSchemaPropsOrArray::Schema(schema)) => Some(Box::new(Self::new(schema))),
            _ => None,
        };
        let properties = props.properties.iter().flatten();
        Self {
            ty: props.type_.as_deref().and_then(Ty::parse),
            int_or_string: yes(props.x_kubernetes_int_or_string),
            nullable: yes(props.nullable),
            preserve: yes(props.x_kubernetes_preserve_unknown_fields),
            embedded: yes(props.x_kubernetes_embedded_resource),
            list,
            atomic: props.x_kubernetes_map_type.as_deref() == Some("atomic"),
            default: props.default.as_ref().map(|json| json.0.clone()),
            properties: properties
                .map(|(name, props)| (name.clone(), Self::new(props)))
                .collect(),
            additional,
            items,
            checks: Checks::new(props).map(Box::new),
            rules: props.x_kubernetes_validations.clone().unwrap_or_default(),
        }
    }

    /// The schema of a known field.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Self> {
        let index = self
            .properties
            .binary_search_by(|(have, _)| have.as_str().cmp(name))
            .ok()?;
        self.properties.get(index).map(|(_, node)| node)
    }

    /// The schema of a field, known or not.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.property(name).or(match &self.additional {
            Additional::Fitting(node) => Some(node),
            Additional::Unsaid | Additional::Any(_) => None,
        })
    }

    /// Whether any place of the schema, those within alternatives included, is as asked.
    pub fn any(&self, test: &impl Fn(&Self) -> bool) -> bool {
        test(self)
            || self.properties.iter().any(|(_, node)| node.any(test))
            || matches!(&self.additional, Additional::Fitting(node) if node.any(test))
            || self.items.as_ref().is_some_and(|node| node.any(test))
            || self.checks.as_ref().is_some_and(|checks| {
                let all = checks.all_of.iter().chain(&checks.any_of);
                let all = all.chain(&checks.one_of).chain(checks.not.as_deref());
                all.into_iter().any(|node| node.any(test))
            })
    }
}

impl Checks {
    fn new(props: &JSONSchemaProps) -> Option<Self> {
        let nodes = |list: &Option<Vec<JSONSchemaProps>>| -> Vec<Node> {
            list.iter().flatten().map(Node::new).collect()
        };
        let checks = Self {
            format: props
                .format
                .clone()
                .filter(|format| formats::is_known(format))
                .unwrap_or_default(),
            pattern: props
                .pattern
                .as_deref()
                .filter(|pattern| !pattern.is_empty())
                .map(Pattern::new),
            required: props.required.clone().unwrap_or_default(),
            one_of_values: props
                .enum_
                .iter()
                .flatten()
                .map(|json| json.0.clone())
                .collect(),
            minimum: props.minimum,
            exclusive_minimum: props.exclusive_minimum == Some(true),
            maximum: props.maximum,
            exclusive_maximum: props.exclusive_maximum == Some(true),
            multiple_of: props.multiple_of,
            min_length: props.min_length,
            max_length: props.max_length,
            min_items: props.min_items,
            max_items: props.max_items,
            min_properties: props.min_properties,
            max_properties: props.max_properties,
            unique_items: props.unique_items == Some(true),
            all_of: nodes(&props.all_of),
            any_of: nodes(&props.any_of),
            one_of: nodes(&props.one_of),
            not: props.not.as_deref().map(|props| Box::new(Node::new(props))),
        };
        (!checks.is_empty()).then_some(checks)
    }

    fn is_empty(&self) -> bool {
        let numbers = [self.minimum, self.maximum, self.multiple_of];
        let sizes = [
            self.min_length,
            self.max_length,
            self.min_items,
            self.max_items,
            self.min_properties,
            self.max_properties,
        ];
        let junctors = [&self.all_of, &self.any_of, &self.one_of];
        self.format.is_empty()
            && self.pattern.is_none()
            && self.required.is_empty()
            && self.one_of_values.is_empty()
            && numbers.iter().all(Option::is_none)
            && sizes.iter().all(Option::is_none)
            && !self.unique_items
            && junctors.iter().all(|list| list.is_empty())
            && self.not.is_none()
    }
}

/// The fields that the metadata of an object are in, which no schema prunes.
pub(crate) const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

#[cfg(test)]
pub(crate) fn node(schema: serde_json::Value) -> Node {
    Node::new(&serde_json::from_value(schema).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_go_reads_them() {
        let table = [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[[]x[]]$", "[x]", true),
            (r"^[^]]+$", "ab", true),
            (r"^[a&&b]+$", "&ab", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"b", "abc", true),
            (r"\bfoo\b", "a foo b", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(
                Pattern::new(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        }
        assert!(regex("(").is_err());
    }
}
