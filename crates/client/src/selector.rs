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
