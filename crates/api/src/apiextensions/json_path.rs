//! The paths by which definitions name fields: of columns, of selectable fields, of replicas.

use serde_json::Value;

/// One step into a value.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// All elements or fields.
    All,
    /// Every value at any depth.
    Descend,
    /// The elements whose value at the path compares so with the constant (`None`: there is one).
    Filter(Vec<Step>, Option<(Comparison, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A path into an object, for example `.spec.replicas` or `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { rest: text };
        let steps = reader.steps(false)?;
        match reader.rest {
            "" => Ok(Self(steps)),
            rest => Err(format!("unexpected {rest:?} in {text:?}")),
        }
    }

    /// The first value that the path leads to.
    #[must_use]
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        find(&self.0, vec![value]).into_iter().next()
    }

    /// The names on the way, if the path is of names alone.
    #[must_use]
    pub fn names(&self) -> Option<Vec<&str>> {
        let names = self.0.iter().map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            _ => None,
        });
        names.collect()
    }
}

fn find<'v>(steps: &[Step], from: Vec<&'v Value>) -> Vec<&'v Value> {
    let Some((step, rest)) = steps.split_first() else {
        return from;
    };
    let mut found = Vec::new();
    for value in from {
        match step {
            Step::Field(name) => found.extend(value.get(name)),
            Step::Index(index) => {
                let list = value.as_array();
                let length = list.map_or(0, Vec::len);
                let at = match usize::try_from(*index) {
                    Ok(index) => Some(index),
                    Err(_) => usize::try_from(index.unsigned_abs())
                        .ok()
                        .and_then(|back| length.checked_sub(back)),
                };
                found.extend(list.zip(at).and_then(|(list, at)| list.get(at)));
            }
            Step::All => match value {
                Value::Array(list) => found.extend(list),
                Value::Object(map) => found.extend(map.values()),
                _ => {}
            },
            Step::Descend => descend(value, &mut found),
            Step::Filter(path, condition) => {
                let elements = value.as_array().into_iter().flatten();
                found.extend(elements.filter(|element| holds(element, path, condition.as_ref())));
            }
        }
    }
    find(rest, found)
}

fn descend<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    found.push(value);
    match value {
        Value::Array(list) => list.iter().for_each(|value| descend(value, found)),
        Value::Object(map) => map.values().for_each(|value| descend(value, found)),
        _ => {}
    }
}

fn holds(element: &Value, path: &[Step], condition: Option<&(Comparison, Value)>) -> bool {
    let found = find(path, vec![element]);
    let Some((comparison, constant)) = condition else {
        return !found.is_empty();
    };
    let Some(value) = found.first() else {
        return false;
    };
    let order = match (value, constant) {
        (Value::Number(a), Value::Number(b)) => a
            .as_f64()
            .zip(b.as_f64())
            .and_then(|(a, b)| a.partial_cmp(&b)),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let Some(order) = order else {
        return *comparison == Comparison::NotEqual;
    };
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    }
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn until(&mut self, end: impl Fn(char) -> bool) -> &'t str {
        let at = self.rest.find(end).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(at);
        self.rest = rest;
        text
    }

    /// Steps up to the end, or (`inner`) to what ends a path within a filter.
    fn steps(&mut self, inner: bool) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.eat("..") {
                steps.push(Step::Descend);
                if !self.rest.starts_with('[') {
                    steps.push(self.name(inner)?);
                }
            } else if self.eat(".") {
                if self.rest.starts_with('[') || self.rest.is_empty() {
                    continue;
                }
                steps.push(self.name(inner)?);
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    fn name(&mut self, inner: bool) -> Result<Step, String> {
        let mut name = String::new();
        loop {
            let part = self.until(|c| {
                matches!(c, '.' | '[' | '\\' | '{' | '}') || (inner && " =!<>)".contains(c))
            });
            name.push_str(part);
            if !self.eat("\\") {
                break;
            }
            let mut chars = self.rest.chars();
            name.extend(chars.next());
            self.rest = chars.as_str();
        }
        match name.as_str() {
            "" => Err("a field has no name".to_owned()),
            "*" => Ok(Step::All),
            _ => Ok(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        if self.eat("?(") {
            return self.filter();
        }
        let text = match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                self.rest = self.rest.get(1..).unwrap_or_default();
                let name = self.until(|c| c == quote).to_owned();
                self.rest = self.rest.get(1..).unwrap_or_default();
                if !self.eat("]") {
                    return Err("unterminated array".to_owned());
                }
                return Ok(Step::Field(name));
            }
            _ => self.until(|c| c == ']').trim(),
        };
        if !self.eat("]") {
            return Err("unterminated array".to_owned());
        }
        match text {
            "*" => Ok(Step::All),
            _ => match text.parse() {
                Ok(index) => Ok(Step::Index(index)),
                Err(_) => Err(format!("invalid array index {text}")),
            },
        }
    }

    fn filter(&mut self) -> Result<Step, String> {
        if !self.eat("@") {
            return Err("a filter begins with @".to_owned());
        }
        let path = self.steps(true)?;
        self.rest = self.rest.trim_start();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ];
        let comparison = comparisons
            .into_iter()
            .find_map(|(text, comparison)| self.eat(text).then_some(comparison));
        let condition = match comparison {
            None => None,
            Some(comparison) => Some((comparison, self.constant()?)),
        };
        self.rest = self.rest.trim_start();
        if self.eat(")]") {
            Ok(Step::Filter(path, condition))
        } else {
            Err("unterminated filter".to_owned())
        }
    }

    fn constant(&mut self) -> Result<Value, String> {
        self.rest = self.rest.trim_start();
        for quote in ["\"", "'"] {
            if self.eat(quote) {
                let text = self.until(|c| quote.contains(c)).to_owned();
                self.eat(quote);
                return Ok(text.into());
            }
        }
        let text = self.until(|c| c == ')' || c == ' ');
        serde_json::from_str(text).map_err(|_| format!("cannot compare with {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_they_say() {
        let object = json!({
            "spec": {"a.b": 1, "n": {"x": true}, "list": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        let table = [
            (".spec.n.x", json!(true)),
            ("spec.n", json!(null)),
            (".spec.list[1].v", json!(2)),
            (".spec.list[-1].k", json!("b")),
            (".spec['a.b']", json!(1)),
            (".spec.a\\.b", json!(1)),
            (".spec.list[*].k", json!("a")),
            (".spec.list[?(@.v>1)].k", json!("b")),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!("True"),
            ),
            (
                ".status.conditions[?(@.type == 'Other')].status",
                json!("False"),
            ),
            (".status..type", json!("Ready")),
            (".nothing.there", json!(null)),
        ];
        for (path, expected) in table {
            let found = JsonPath::parse(path).ok();
            let value = found.as_ref().and_then(|path| path.first(&object));
            assert_eq!(value.cloned().unwrap_or_default(), expected, "{path}");
        }
        for bad in ["spec", ".a[", ".a[x]", ".a[?(x)]", "..", ".a{"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
