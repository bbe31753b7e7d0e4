//! Regular expressions: RE2's language, in linear time.

use crate::declare::{Overload, Row, accepts};
use crate::error::EvalError;
use crate::value::{Text, Value};

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

pub(crate) const TABLE: &[Row] = &[
    ("matches", "matches", "(string, string) -> bool", matches),
    (
        "matches",
        "matches_string",
        "string.(string) -> bool",
        matches,
    ),
    (
        "find",
        "string_find_string",
        "string.(string) -> string",
        find,
    ),
    (
        "findAll",
        "string_find_all_string",
        "string.(string) -> list(string)",
        find_all,
    ),
    (
        "findAll",
        "string_find_all_string_int",
        "string.(string, int) -> list(string)",
        find_all,
    ),
];

/// The most memory a compiled pattern may take.
const MAX_COMPILED: usize = 2 << 20;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern(regex::Regex);

impl Pattern {
    pub(crate) fn new(pattern: &str) -> std::result::Result<Self, String> {
        // RE2 knows these as literals within classes and elsewhere where this engine reads set operations.
        regex::RegexBuilder::new(pattern)
            .size_limit(MAX_COMPILED)
            .build()
            .map(Self)
            .map_err(|error| {
                let text = error.to_string();
                let reason = text
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ");
                format!("error parsing regexp: {reason}: `{pattern}`")
            })
    }

    /// Calls the function with the pattern compiled beforehand.
    pub(crate) fn apply<'v>(
        &self,
        overloads: &[&'static Overload],
        args: &[Value<'v>],
    ) -> Result<'v> {
        let overload = overloads
            .iter()
            .find(|overload| overload.params.iter().zip(args).all(|(p, a)| accepts(p, a)))
            .ok_or_else(EvalError::no_such_overload)?;
        let [Value::String(text), ..] = args else {
            return Err(EvalError::no_such_overload());
        };
        match overload.id {
            "matches" | "matches_string" => Ok(self.0.is_match(text).into()),
            "string_find_string" => Ok(self.first(text)),
            _ => Ok(self.all(text, args.get(2))),
        }
    }

    fn first<'v>(&self, text: &Text<'v>) -> Value<'v> {
        match (self.0.find(text), text) {
            (None, _) => Value::from(""),
            (Some(found), Text::Borrowed(text)) => {
                Value::from(text.get(found.range()).unwrap_or_default())
            }
            (Some(found), Text::Shared(_)) => found.as_str().to_owned().into(),
        }
    }

    fn all<'v>(&self, text: &Text<'v>, limit: Option<&Value<'v>>) -> Value<'v> {
        let limit = match limit {
            Some(Value::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let found = self
            .0
            .find_iter(text)
            .take(limit)
            .map(|found| found.as_str().to_owned().into())
            .collect();
        Value::list(found)
    }
}

fn matches<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text), Value::String(pattern)] => Pattern::new(pattern)
            .map(|pattern| pattern.0.is_match(text).into())
            .map_err(EvalError::fault),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn compiled(pattern: &str) -> std::result::Result<Pattern, EvalError> {
    Pattern::new(pattern).map_err(|error| EvalError::fault(format!("Illegal regex: {error}")))
}

fn find<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text), Value::String(pattern)] => Ok(compiled(pattern)?.first(text)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn find_all<'v>(args: &[Value<'v>]) -> Result<'v> {
    match args {
        [Value::String(text), Value::String(pattern), ..] => {
            Ok(compiled(pattern)?.all(text, args.get(2)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}
