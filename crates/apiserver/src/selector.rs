//! Label and field selectors of lists, watches and collection deletes.

use std::collections::BTreeMap;
use std::sync::Arc;

use skiff_api::{ApiError, ApiResult};

use crate::cache::Entry;
use crate::registry::{Resource, ServedKind};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// A label selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Reads the text form, for example `app=web,tier in (a,b),!old`.
    pub fn parse(text: &str) -> ApiResult<Self> {
        Parser { text, at: 0 }
            .selector()
            .map_err(|error| ApiError::bad_request(format!("unable to parse requirement: {error}")))
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The requirements as reviews of access tell them; comparisons of numbers have no form there and are left out.
    #[must_use]
    pub fn requirements(&self) -> Vec<serde_json::Value> {
        let told = self.0.iter().filter_map(|requirement| {
            let operator = match requirement.operator {
                Operator::In => "In",
                Operator::NotIn => "NotIn",
                Operator::Exists => "Exists",
                Operator::Missing => "DoesNotExist",
                Operator::Greater(_) | Operator::Less(_) => return None,
            };
            let mut told = serde_json::json!({"key": requirement.key, "operator": operator});
            if !requirement.values.is_empty() {
                told["values"] = requirement.values.clone().into();
            }
            Some(told)
        });
        told.collect()
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = || value.is_some_and(|value| requirement.values.contains(value));
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match requirement.operator {
                Operator::In => listed(),
                Operator::NotIn => !listed(),
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
                Operator::Greater(than) => number().is_some_and(|number| number > than),
                Operator::Less(than) => number().is_some_and(|number| number < than),
            }
        })
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn selector(mut self) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        if self.peek().is_none() {
            return Ok(LabelSelector(requirements));
        }
        loop {
            requirements.push(self.requirement()?);
            match self.peek() {
                None => break,
                Some(',') => {
                    self.at += 1;
                    // A trailing comma is an error, as upstream has it.
                    if self.peek().is_none() {
                        return Err("found '', expected: identifier after ','".to_owned());
                    }
                }
                Some(_) => {
                    return Err(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        self.word()
                    ));
                }
            }
        }
        Ok(LabelSelector(requirements))
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.peek() == Some('!') {
            self.at += 1;
            let key = self.key()?;
            return Ok(Requirement {
                key,
                operator: Operator::Missing,
                values: Vec::new(),
            });
        }
        let key = self.key()?;
        let rest = &self.text[self.at..].trim_start();
        let (operator, length) = match rest {
            r if r.starts_with("!=") => (Operator::NotIn, 2),
            r if r.starts_with("==") => (Operator::In, 2),
            r if r.starts_with('=') => (Operator::In, 1),
            r if r.starts_with('>') => (Operator::Greater(0), 1),
            r if r.starts_with('<') => (Operator::Less(0), 1),
            r if r.is_empty() || r.starts_with(',') => {
                return Ok(Requirement {
                    key,
                    operator: Operator::Exists,
                    values: Vec::new(),
                });
            }
            _ => {
                let word = self.word();
                let operator = match word.as_str() {
                    "in" => Operator::In,
                    "notin" => Operator::NotIn,
                    _ => {
                        return Err(format!(
                            "found '{word}', expected: in, notin, =, ==, !=, gt, lt"
                        ));
                    }
                };
                let values = self.set()?;
                return Ok(Requirement {
                    key,
                    operator,
                    values,
                });
            }
        };
        self.space();
        self.at += length;
        let value = self.value()?;
        let operator = match operator {
            Operator::Greater(_) => Operator::Greater(integer(&value)?),
            Operator::Less(_) => Operator::Less(integer(&value)?),
            other => other,
        };
        Ok(Requirement {
            key,
            operator,
            values: vec![value],
        })
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        if self.peek() != Some('(') {
            return Err(format!("found '{}', expected: '('", self.word()));
        }
        self.at += 1;
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.peek() {
                Some(',') => self.at += 1,
                Some(')') => {
                    self.at += 1;
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                _ => return Err(format!("found '{}', expected: ',' or ')'", self.word())),
            }
        }
    }

    fn key(&mut self) -> Result<String, String> {
        let key = self.word();
        let errors = label_key_errors(&key);
        if key.is_empty() {
            let found = self.peek().map(String::from).unwrap_or_default();
            return Err(format!(
                "found '{found}', expected: !, identifier, or 'end of string'"
            ));
        }
        match errors {
            None => Ok(key),
            Some(error) => Err(format!("<nil>: Invalid value: {key:?}: {error}")),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        let value = self.word();
        if value.len() > 63 {
            return Err(format!(
                "<nil>: Invalid value: {value:?}: must be no more than 63 bytes"
            ));
        }
        if !value.is_empty() && !is_label_name(&value) {
            return Err(format!(
                "<nil>: Invalid value: {value:?}: {LABEL_VALUE_RULE}"
            ));
        }
        Ok(value)
    }

    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.space();
        self.text[self.at..].chars().next()
    }

    fn word(&mut self) -> String {
        self.space();
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
            .unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }
}

const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const LABEL_NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn integer(value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| {
        format!("<nil>: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer")
    })
}

fn is_label_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next())
        && edge(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn label_key_errors(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".to_owned());
        }
        if let Some(error) = skiff_api::kind::dns_subdomain_errors(prefix, false).first() {
            return Some(format!("prefix part {error}"));
        }
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 bytes".to_owned());
    }
    (!is_label_name(name)).then(|| LABEL_NAME_RULE.to_owned())
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// For example `spec.nodeName`.
    pub field: String,
    /// The value.
    pub value: String,
    /// Whether the value must be another one.
    pub negated: bool,
}

/// Reads a field selector's text form.
pub fn parse_fields(text: &str) -> ApiResult<Vec<FieldTerm>> {
    let mut terms = Vec::new();
    for term in split_unescaped(text) {
        if term.is_empty() {
            continue;
        }
        let split = [("!=", true), ("==", false), ("=", false)]
            .iter()
            .filter_map(|(operator, negated)| {
                let at = term.find(operator)?;
                Some((at, operator.len(), *negated))
            })
            .min_by_key(|(at, length, _)| (*at, usize::MAX - *length));
        let Some((at, length, negated)) = split else {
            return Err(ApiError::bad_request(format!(
                "invalid selector: '{text}'; can't understand '{term}'"
            )));
        };
        let value = unescape(&term[at + length..]).ok_or_else(|| {
            ApiError::bad_request(format!(
                "invalid field selector: invalid value {:?}",
                &term[at + length..]
            ))
        })?;
        terms.push(FieldTerm {
            field: term[..at].to_owned(),
            value,
            negated,
        });
    }
    Ok(terms)
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                escaped @ ('\\' | ',' | '=') => out.push(escaped),
                _ => return None,
            },
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

/// What a list or watch selects, beside the namespace.
#[derive(Clone)]
pub struct Filter {
    labels: LabelSelector,
    fields: Vec<FieldTerm>,
    kind: Arc<ServedKind>,
    storage: Arc<ServedKind>,
}

impl Filter {
    /// Reads both selectors; refuses fields that the kind does not select on.
    pub fn new(resource: &Resource, labels: &str, fields: &str) -> ApiResult<Self> {
        let kind = &resource.kind;
        let fields = parse_fields(fields)?;
        for term in &fields {
            let known = matches!(term.field.as_str(), "metadata.name" | "metadata.namespace")
                || kind.field_index(&term.field).is_some();
            if !known {
                return Err(ApiError::bad_request(unknown_field(kind, &term.field)));
            }
        }
        Ok(Self {
            labels: LabelSelector::parse(labels)?,
            fields,
            kind: kind.clone(),
            storage: resource.storage.clone(),
        })
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether a field is selected on that another version may have elsewhere, or not at all.
    #[must_use]
    pub fn has_own_fields(&self) -> bool {
        let plain = ["metadata.name", "metadata.namespace"];
        self.fields
            .iter()
            .any(|term| !plain.contains(&term.field.as_str()))
    }

    /// The value that a field must have, if the selector says so.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|term| term.field == field && !term.negated)
            .map(|term| term.value.as_str())
    }

    /// Whether an object is selected.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        if self.is_empty() {
            return true;
        }
        self.fields
            .iter()
            .all(|term| (self.field(entry, &term.field) == term.value) != term.negated)
            && (self.labels.is_empty() || self.labels.matches(entry.labels(&self.storage)))
    }

    fn field<'a>(&self, entry: &'a Entry, field: &str) -> std::borrow::Cow<'a, str> {
        match field {
            "metadata.name" => entry.name().into(),
            "metadata.namespace" if self.kind.scope == skiff_api::Scope::Namespaced => {
                entry.namespace().into()
            }
            "metadata.namespace" => "".into(),
            // A cached object keeps the fields of one version; others are looked up as they are asked for.
            _ if Arc::ptr_eq(&self.kind, &self.storage)
                && crate::crd::definition_of(&self.kind).is_none() =>
            {
                self.kind
                    .field_index(field)
                    .and_then(|index| entry.fields(&self.storage).get(index))
                    .map(String::as_str)
                    .unwrap_or_default()
                    .into()
            }
            // Another version than the stored one names its fields differently.
            _ => {
                let value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
                let value = match &self.kind.conversion {
                    Some(conversion) => (conversion.from_storage)(value),
                    None => value,
                };
                let index = self.kind.field_index(field);
                index
                    .and_then(|index| self.kind.field_values(&value).into_iter().nth(index))
                    .unwrap_or_default()
                    .into()
            }
        }
    }
}

fn unknown_field(kind: &ServedKind, field: &str) -> String {
    match (&*kind.kind, &*kind.fields) {
        ("Job" | "ReplicationController" | "ReplicaSet" | "CertificateSigningRequest", _) => {
            format!("field label {field:?} not supported for {}", kind.kind)
        }
        _ if kind.as_custom().is_some() => format!("field label not supported: {field}"),
        (_, []) => format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
        _ => format!("field label not supported: {field}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn selects_by_labels() {
        let have = labels(&[("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")]);
        let table = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (a, web)", true),
            ("app in (a,b)", false),
            ("app notin (a,b)", true),
            ("other notin (a)", true),
            ("!other", true),
            ("!app", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("empty=", true),
            ("empty", true),
            ("other=", false),
            ("app.kubernetes.io/name!=x", true),
        ];
        for (text, expected) in table {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(&have), expected, "{text}");
        }
        for bad in [
            "=a", "a=b,", "a b", "a in b", "a in (b", "a=b c", "a>x", "-a=b", "/a", "a=b!",
        ] {
            assert_eq!(LabelSelector::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    #[test]
    fn reads_field_selectors() {
        let terms = parse_fields("spec.nodeName=n1,status.phase!=Running,a==b\\,c").unwrap();
        let shown: Vec<_> = terms
            .iter()
            .map(|t| (t.field.as_str(), t.value.as_str(), t.negated))
            .collect();
        assert_eq!(
            shown,
            [
                ("spec.nodeName", "n1", false),
                ("status.phase", "Running", true),
                ("a", "b,c", false)
            ]
        );
        assert!(parse_fields("x").is_err());
        assert!(parse_fields("x=\\y").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-c =!()<>,\\\\/é]{0,24}") {
            let _ = LabelSelector::parse(&text);
            let _ = parse_fields(&text);
        }
    }
}
