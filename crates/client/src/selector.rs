//! Label selectors, made ready once and matched often.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The labels of an object, as its metadata has them.
pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// A label selector that can be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMatcher {
    tests: Vec<(String, Test)>,
    nothing: bool,
}

/// A selector with an operator that is none of Kubernetes'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid label selector operator")]
pub struct InvalidSelector(pub String);

impl LabelMatcher {
    /// Matches no object.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            tests: Vec::new(),
            nothing: true,
        }
    }

    /// Matches every object.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            tests: Vec::new(),
            nothing: false,
        }
    }

    /// Matches objects that carry all these labels; an empty set matches every object.
    #[must_use]
    pub fn equal_to(labels: &Labels) -> Self {
        let tests = labels
            .iter()
            .map(|(key, value)| (key.clone(), Test::In(vec![value.clone()])));
        Self {
            tests: tests.collect(),
            nothing: false,
        }
    }

    /// The selector of an API object: none matches nothing, an empty one everything.
    pub fn from_selector(selector: Option<&LabelSelector>) -> Result<Self, InvalidSelector> {
        let Some(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut matcher = Self::equal_to(selector.match_labels.as_ref().unwrap_or(&Labels::new()));
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => return Err(InvalidSelector(other.to_owned())),
            };
            matcher.tests.push((expression.key.clone(), test));
        }
        Ok(matcher)
    }

    /// Reads a selector as queries and scales carry it: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        let mut matcher = Self::everything();
        let (mut depth, mut start) = (0_i32, 0);
        let mut terms = Vec::new();
        for (position, letter) in text.char_indices() {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                ',' if depth == 0 => {
                    terms.extend(text.get(start..position));
                    start = position + 1;
                }
                _ => {}
            }
        }
        terms.extend(text.get(start..));
        if text.trim().is_empty() {
            return Ok(matcher);
        }
        for term in terms {
            let test = term_of(term.trim()).ok_or_else(|| InvalidSelector(term.to_owned()))?;
            matcher.tests.push(test);
        }
        Ok(matcher)
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        !self.nothing
            && self.tests.iter().all(|(key, test)| {
                let value = labels.and_then(|labels| labels.get(key));
                match (test, value) {
                    (Test::In(values), Some(value)) => values.contains(value),
                    (Test::NotIn(values), Some(value)) => !values.contains(value),
                    (Test::Exists, Some(_)) | (Test::Absent | Test::NotIn(_), None) => true,
                    (Test::Absent, Some(_)) | (Test::In(_) | Test::Exists, None) => false,
                }
            })
    }

    /// Whether every object is selected.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.tests.is_empty()
    }
}

fn is_word(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    text.chars().all(inner)
}

/// One term of a selector's text.
fn term_of(term: &str) -> Option<(String, Test)> {
    let key_of = |key: &str| {
        let key = key.trim();
        (!key.is_empty() && is_word(key)).then(|| key.to_owned())
    };
    if let Some(key) = term.strip_prefix('!') {
        return Some((key_of(key)?, Test::Absent));
    }
    if let Some(list) = term.strip_suffix(')') {
        let (left, list) = list.split_once('(')?;
        let values = list.split(',').map(|value| value.trim().to_owned());
        let values: Vec<String> = values.collect();
        let (key, operator) = left.trim().rsplit_once(char::is_whitespace)?;
        let test = match operator {
            "in" => Test::In(values),
            "notin" => Test::NotIn(values),
            _ => return None,
        };
        return Some((key_of(key)?, test));
    }
    let value_of =
        |value: &str| Some(vec![value.trim().to_owned()]).filter(|v| v.iter().all(|v| is_word(v)));
    if let Some((key, value)) = term.split_once("!=") {
        return Some((key_of(key)?, Test::NotIn(value_of(value)?)));
    }
    match term.split_once("==").or_else(|| term.split_once('=')) {
        Some((key, value)) => Some((key_of(key)?, Test::In(value_of(value)?))),
        None => Some((key_of(term)?, Test::Exists)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn requirement(operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "tier".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
            }]),
            ..LabelSelector::default()
        }
    }

    #[test]
    fn texts() {
        let labels = Labels::from([
            ("app".to_owned(), "web".to_owned()),
            ("a.b/c".to_owned(), String::new()),
        ]);
        for (text, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web,a.b/c=", true),
            ("app!=web", false),
            ("app in (db, web),!tier", true),
            ("app notin (db),app", true),
            ("tier", false),
        ] {
            let matcher = LabelMatcher::parse(text).unwrap();
            assert_eq!(matcher.matches(Some(&labels)), matches, "{text}");
        }
        for text in ["=x", "a,,b", "a in b", "a of (b)", "a (b", "a=b c"] {
            assert!(LabelMatcher::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn operators() {
        let web = Labels::from([("tier".to_owned(), "web".to_owned())]);
        for (operator, values, on_web, on_none) in [
            ("In", &["web", "db"][..], true, false),
            ("In", &["db"], false, false),
            ("NotIn", &["web"], false, true),
            ("NotIn", &["db"], true, true),
            ("Exists", &[], true, false),
            ("DoesNotExist", &[], false, true),
        ] {
            let selector = requirement(operator, values);
            let matcher = LabelMatcher::from_selector(Some(&selector)).unwrap();
            assert_eq!(matcher.matches(Some(&web)), on_web, "{operator} {values:?}");
            assert_eq!(matcher.matches(None), on_none, "{operator} {values:?}");
        }
        assert!(LabelMatcher::from_selector(Some(&requirement("Near", &[]))).is_err());
    }

    #[test]
    fn none_selects_nothing_and_empty_everything() {
        assert!(!LabelMatcher::from_selector(None).unwrap().matches(None));
        let empty = LabelMatcher::from_selector(Some(&LabelSelector::default())).unwrap();
        assert!(empty.matches(None) && empty.is_everything());
    }
}
