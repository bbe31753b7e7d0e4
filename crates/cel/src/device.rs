//! What expressions that select devices may see: one device (dynamic resource allocation).

use std::sync::LazyLock;

use crate::environment::Environment;
use crate::program::Program;
use crate::schema::Schema;
use crate::types::Type;

/// The most attributes, and the most capacities, that a device has.
const NAMES: u64 = 32;
/// The most characters of a driver's name.
const DRIVER: u64 = 63;
/// The most characters of an attribute's value.
const VALUE: u64 = 64;

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let quantity = Schema::of(Type::Opaque("kubernetes.Quantity"));
    let by_name = |value| Schema::map(Schema::map(value).at_most(NAMES)).at_most(NAMES);
    let device = Schema::object(
        "kubernetes.DRADevice",
        [
            ("driver", Schema::string().at_most(DRIVER)),
            ("allowMultipleAllocations", Schema::bool().at_most(1)),
            ("attributes", by_name(Schema::any().at_most(VALUE))),
            ("capacity", by_name(quantity)),
        ],
    );
    Environment::new().variable_of("device", device)
});

/// Compiles an expression over `device`. The error is upstream's.
///
/// # Errors
/// What is wrong with it, or with what it gives.
pub fn compile(expression: &str) -> Result<Program, String> {
    let program = ENVIRONMENT
        .compile(expression)
        .map_err(|errors| format!("compilation failed: {errors}"))?;
    match program.output_type() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!(
            "must evaluate to bool or the unknown type, not {other}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_selector_may_cost_is_known_before() {
        for (expression, cost) in [
            (r#""dev.example.org" in device.attributes"#, 3),
            (r#"device.driver == "dev.example.org""#, 4),
            (r#"device.attributes["dev.example.org"].model"#, 4),
            (r#"device.attributes["dev.example.org"].model == "x""#, 5),
            (
                r#"device.capacity["dev.example.org"].memory.isGreaterThan(quantity("1Ki"))"#,
                6,
            ),
            ("device.allowMultipleAllocations == true", 3),
        ] {
            let program = compile(expression).unwrap();
            assert_eq!(program.estimated_cost().max, cost, "{expression}");
        }
    }

    #[test]
    fn what_cannot_select_is_told() {
        assert_eq!(
            compile("1").unwrap_err(),
            "must evaluate to bool or the unknown type, not int"
        );
        let fault = compile("device.colour").unwrap_err();
        assert!(
            fault.starts_with("compilation failed: ERROR: <input>:1:7: undefined field 'colour'"),
            "{fault}"
        );
    }
}
