//! Expressions of the authentication configuration, on the claims of a token or on the user made of them.

use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use skiff_cel::{Bindings, Environment, Program, Schema, Type, Value};

/// What an expression is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// `claims`, of which anything may be made.
    Claims,
    /// `claims`, on which a rule must hold.
    ClaimsRule,
    /// `user`, on which a rule must hold.
    UserRule,
}

/// What an expression may cost; upstream has no bound here.
const BUDGET: u64 = 10 * skiff_cel::PER_CALL_LIMIT;

/// An expression that was compiled.
#[derive(Debug)]
pub(crate) struct Expression {
    /// As it stands in the configuration.
    pub text: String,
    about: About,
    program: Program,
}

impl About {
    fn variable(self) -> (&'static str, &'static Arc<Schema>) {
        static CLAIMS: OnceLock<Arc<Schema>> = OnceLock::new();
        static USER: OnceLock<Arc<Schema>> = OnceLock::new();
        match self {
            Self::Claims | Self::ClaimsRule => {
                ("claims", CLAIMS.get_or_init(|| Schema::map(Schema::any())))
            }
            Self::UserRule => ("user", USER.get_or_init(user)),
        }
    }
}

fn user() -> Arc<Schema> {
    let strings = || Schema::list(Schema::string());
    Schema::object(
        "kubernetes.UserInfo",
        [
            ("username", Schema::string()),
            ("uid", Schema::string()),
            ("groups", strings()),
            ("extra", Schema::map(strings())),
        ],
    )
}

impl Expression {
    /// Compiles an expression; what is wrong with it otherwise.
    pub fn compile(text: &str, about: About) -> Result<Self, String> {
        let (name, schema) = about.variable();
        let environment = Environment::new().variable_of(name, schema.clone());
        let program = environment
            .compile(text)
            .map_err(|error| format!("compilation failed: {error}"))?;
        if about != About::Claims && !matches!(program.output_type(), Type::Bool) {
            return Err("must evaluate to bool".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
            about,
            program,
        })
    }

    /// What the expression makes of the claims, or of the user.
    pub fn evaluate(&self, on: &Json) -> Result<Json, String> {
        let (name, schema) = self.about.variable();
        let value = Value::from_typed_json(on, schema).map_err(|error| error.to_string())?;
        let bindings = Bindings::new().with(name, value);
        let found = self.program.evaluate(&bindings, BUDGET).result;
        let found = found
            .map_err(|error| format!("expression '{}' resulted in error: {error}", self.text))?;
        found.to_json().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_read_claims_and_users() {
        let claims =
            json!({"sub": "jane", "roles": ["a", "b"], "address": {"country": "x"}, "level": 3});
        let of = |text: &str| {
            Expression::compile(text, About::Claims)
                .unwrap()
                .evaluate(&claims)
        };
        assert_eq!(of("'oidc:' + claims.sub"), Ok(json!("oidc:jane")));
        assert_eq!(
            of("claims.roles.map(r, 'g:' + r)"),
            Ok(json!(["g:a", "g:b"]))
        );
        assert_eq!(of("claims.address.country"), Ok(json!("x")));
        assert!(of("claims.missing").is_err());
        assert!(Expression::compile("claims.", About::Claims).is_err());
        assert_eq!(
            Expression::compile("'a'", About::ClaimsRule).map(|_| ()),
            Err("must evaluate to bool".to_owned())
        );
        let user =
            json!({"username": "jane", "uid": "", "groups": ["dev"], "extra": {"a/b": ["c"]}});
        let rule = "!user.username.startsWith('system:') && user.groups.exists(g, g == 'dev')";
        let rule = Expression::compile(rule, About::UserRule).unwrap();
        assert_eq!(rule.evaluate(&user), Ok(json!(true)));
    }
}
