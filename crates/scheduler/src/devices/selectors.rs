//! Which devices a selector takes: CEL over one device.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use parking_lot::Mutex;
use skiff_cel::{Bindings, Environment, PER_CALL_LIMIT, Program, Schema, Value};

/// So many compiled expressions are remembered.
const REMEMBERED: usize = 256;

/// Make values of Kubernetes' own types out of their text.
static CONVERSIONS: LazyLock<Option<(Program, Program)>> = LazyLock::new(|| {
    let texts = Environment::new().variable_of("text", Schema::string());
    let quantity = texts.compile("quantity(text)").ok()?;
    Some((quantity, texts.compile("semver(text)").ok()?))
});

/// An expression ready to be asked.
#[derive(Debug)]
pub struct Selector {
    program: Program,
    /// Texts that the expression names: any of them may be a domain, and a domain that a device knows nothing of is
    /// there all the same, with nothing in it.
    named: Vec<Box<str>>,
}

/// An expression, compiled; or what is wrong with it.
pub type Compiled = Arc<Result<Selector, String>>;

/// Compiled expressions, shared by all that ask.
#[derive(Debug, Default)]
pub struct Selectors {
    known: Mutex<HashMap<Box<str>, Compiled>>,
}

impl Selectors {
    /// The expression, compiled; or what is wrong with it.
    pub fn get(&self, expression: &str) -> Compiled {
        let mut known = self.known.lock();
        if let Some(found) = known.get(expression) {
            return found.clone();
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let made = Arc::new(Selector::new(expression));
        known.insert(expression.into(), made.clone());
        made
    }
}

impl Selector {
    /// Compiles an expression.
    pub fn new(expression: &str) -> Result<Self, String> {
        let program = skiff_cel::device::compile(expression)?;
        Ok(Self {
            program,
            named: literals(expression),
        })
    }

    /// Whether it takes a device of that driver.
    pub fn takes(&self, driver: &str, device: &Device) -> Result<bool, String> {
        let value = self.value(driver, device)?;
        let bindings = Bindings::new().with("device", value);
        let result = self.program.evaluate(&bindings, PER_CALL_LIMIT).result;
        let answer = result.map_err(|error| error.to_string())?;
        answer.as_bool().ok_or_else(|| {
            format!(
                "CEL result of type {} could not be converted to bool",
                answer.type_of()
            )
        })
    }

    fn value<'a>(&'a self, driver: &'a str, device: &'a Device) -> Result<Value<'a>, String> {
        let mut attributes = self.domains();
        for (name, attribute) in device.attributes.iter().flatten() {
            let value =
                attribute_value(attribute).map_err(|why| format!("attribute {name}: {why}"))?;
            let (domain, id) = qualified(name, driver);
            attributes
                .entry(domain)
                .or_default()
                .push((id.into(), value));
        }
        let mut capacity = self.domains();
        for (name, amount) in device.capacity.iter().flatten() {
            let value = convert(&amount.value.0, true)?;
            let (domain, id) = qualified(name, driver);
            capacity.entry(domain).or_default().push((id.into(), value));
        }
        let several = device.allow_multiple_allocations == Some(true);
        Ok(Value::map([
            ("driver".into(), driver.into()),
            ("allowMultipleAllocations".into(), several.into()),
            ("attributes".into(), nested(attributes)),
            ("capacity".into(), nested(capacity)),
        ]))
    }

    fn domains<'a>(&'a self) -> Domains<'a> {
        self.named
            .iter()
            .map(|name| (&**name, Vec::new()))
            .collect()
    }
}

type Domains<'a> = BTreeMap<&'a str, Vec<(Value<'a>, Value<'a>)>>;

fn nested(domains: Domains<'_>) -> Value<'_> {
    let all = domains.into_iter();
    Value::map(all.map(|(domain, values)| (domain.into(), Value::map(values))))
}

/// The domain and the rest of a name; without a domain it is the driver's.
#[must_use]
pub fn qualified<'a>(name: &'a str, driver: &'a str) -> (&'a str, &'a str) {
    name.split_once('/').unwrap_or((driver, name))
}

fn attribute_value(attribute: &DeviceAttribute) -> Result<Value<'_>, String> {
    if let Some(number) = attribute.int {
        return Ok(number.into());
    }
    if let Some(truth) = attribute.bool {
        return Ok(truth.into());
    }
    if let Some(text) = attribute.string.as_deref() {
        return Ok(text.into());
    }
    match attribute.version.as_deref() {
        Some(version) => {
            convert(version, false).map_err(|why| format!("parse semantic version: {why}"))
        }
        None => Err("unsupported attribute value".to_owned()),
    }
}

fn convert(text: &str, quantity: bool) -> Result<Value<'static>, String> {
    let programs = CONVERSIONS
        .as_ref()
        .ok_or("the conversions do not compile")?;
    let program = if quantity { &programs.0 } else { &programs.1 };
    let bindings = Bindings::new().with("text", text.to_owned().into());
    let result = program.evaluate(&bindings, PER_CALL_LIMIT).result;
    result.map_err(|error| error.to_string())
}

/// The texts in quotes within an expression.
fn literals(expression: &str) -> Vec<Box<str>> {
    let mut found = BTreeSet::new();
    let mut open: Option<(char, usize)> = None;
    let mut escaped = false;
    for (at, character) in expression.char_indices() {
        match open {
            None if matches!(character, '"' | '\'') => open = Some((character, at + 1)),
            None => {}
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some((quote, start)) if quote == character => {
                found.insert(Box::from(expression.get(start..at).unwrap_or_default()));
                open = None;
            }
            Some(_) => {}
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device() -> Device {
        serde_json::from_value(json!({
            "name": "gpu-0",
            "allowMultipleAllocations": true,
            "attributes": {
                "model": {"string": "A100"},
                "dra.example.com/cores": {"int": 8},
                "other.org/good": {"bool": true},
                "version": {"version": "1.2.3"},
            },
            "capacity": {"memory": {"value": "40Gi"}},
        }))
        .unwrap()
    }

    #[test]
    fn devices_are_selected_by_what_they_say() {
        for (expression, expected) in [
            ("true", true),
            (r#"device.driver == "dra.example.com""#, true),
            (
                r#"device.attributes["dra.example.com"].model == "A100""#,
                true,
            ),
            (r#"device.attributes["dra.example.com"].cores > 8"#, false),
            (r#"device.attributes["other.org"].good"#, true),
            (
                r#"device.capacity["dra.example.com"].memory.compareTo(quantity("40Gi")) >= 0"#,
                true,
            ),
            (
                r#"device.attributes["dra.example.com"].version.isGreaterThan(semver("1.2.0"))"#,
                true,
            ),
            ("device.allowMultipleAllocations", true),
            (
                r#"cel.bind(dra, device.attributes["dra.example.com"], dra.cores == 8 && dra.model == "A100")"#,
                true,
            ),
            (r#""cores" in device.attributes["dra.example.com"]"#, true),
            (r#"has(device.attributes["nowhere.org"].x)"#, false),
            (r#"'nowhere.org' in device.attributes"#, true),
        ] {
            let selector = Selector::new(expression).unwrap();
            assert_eq!(
                selector.takes("dra.example.com", &device()),
                Ok(expected),
                "{expression}"
            );
        }
    }

    #[test]
    fn faults_are_told() {
        let missing = Selector::new(r#"device.attributes["nowhere.org"].x == 1"#).unwrap();
        assert_eq!(
            missing.takes("d", &device()),
            Err("no such key: x".to_owned())
        );
        assert!(
            Selector::new("device.nothing")
                .unwrap_err()
                .starts_with("compilation failed: ERROR: ")
        );
        assert_eq!(
            Selector::new("device.driver").unwrap_err(),
            "must evaluate to bool or the unknown type, not string"
        );
    }

    #[test]
    fn literals_are_found() {
        assert_eq!(literals(r#"a["x.y"] == 'it\'s' && "b""#).len(), 3);
        assert_eq!(literals(r#"""#).len(), 0);
    }
}
