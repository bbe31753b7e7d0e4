//! What expressions come to: values, faults and costs.

use serde_json::{Value as Json, json};
use skiff_cel::{Bindings, Environment, Evaluation, PER_CALL_LIMIT, Schema, Value};

fn environment() -> Environment {
    Environment::new().variable_of("object", Schema::any())
}

fn object() -> Json {
    json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"}},
        "spec": {"replicas": 3, "names": ["a", "b", "c"], "ratio": 0.5, "nothing": null},
    })
}

/// The value as JSON, or the fault's text; and the cost.
fn run(source: &str) -> (Result<Json, String>, u64) {
    let program = match environment().compile(source) {
        Ok(program) => program,
        Err(errors) => return (Err(format!("compile: {errors}")), 0),
    };
    let object = object();
    let bindings = Bindings::new().with("object", Value::from_json(&object));
    let Evaluation { result, cost } = program.evaluate(&bindings, PER_CALL_LIMIT);
    let shown = result
        .and_then(|value| match &value {
            Value::Type(ty) => Ok(json!(ty.to_string())),
            Value::Double(d) if !d.is_finite() => Ok(json!(d.to_string())),
            other => other.to_json(),
        })
        .map_err(|error| error.to_string());
    (shown, cost)
}

#[track_caller]
fn gives(table: &[(&str, Json)]) {
    for (source, wanted) in table {
        let (found, _) = run(source);
        assert_eq!(found.as_ref(), Ok(wanted), "{source}");
    }
}

#[track_caller]
fn fails(table: &[(&str, &str)]) {
    for (source, wanted) in table {
        let (found, _) = run(source);
        assert_eq!(found, Err((*wanted).to_owned()), "{source}");
    }
}

#[track_caller]
fn costs(table: &[(&str, u64)]) {
    for (source, wanted) in table {
        let (found, cost) = run(source);
        assert!(found.is_ok(), "{source}: {found:?}");
        assert_eq!(cost, *wanted, "{source}");
    }
}

mod language;
mod libraries;
