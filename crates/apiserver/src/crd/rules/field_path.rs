//! Paths that rules name for their faults: `.spec.x`, `['a.b']`.

use serde_json::Value;

/// The path as errors show it, if it leads to something in the schema.
pub(super) fn normalized(path: &str, schema: &Value) -> Result<String, String> {
    let mut out = String::new();
    let mut schema = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, after) = if let Some(inner) = rest.strip_prefix("['") {
            quoted(inner)?
        } else if let Some(other) = rest.strip_prefix('[') {
            return Err(format!("expected single quoted string but got {other}"));
        } else if let Some(inner) = rest.strip_prefix('.') {
            let end = inner.find(['.', '[', ']']).unwrap_or(inner.len());
            if end == 0 {
                return Err("unexpected end of JSON path".to_owned());
            }
            (inner[..end].to_owned(), &inner[end..])
        } else {
            return Err(format!("expected [ or . but got: {rest}"));
        };
        schema = step(schema, &name, &mut out)?;
        rest = after;
    }
    Ok(out)
}

/// One step down, named or keyed.
fn step<'v>(schema: &'v Value, name: &str, out: &mut String) -> Result<&'v Value, String> {
    let nowhere = || "does not refer to a valid field".to_owned();
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(name);
        return properties.get(name).ok_or_else(nowhere);
    }
    out.push_str(&format!("[{name}]"));
    schema
        .get("additionalProperties")
        .filter(|values| values.is_object())
        .ok_or_else(nowhere)
}

/// A name in quotes, after its opening `['`; what follows the closing `']`.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => {
                let after = &text[at + 1..];
                return match after.strip_prefix(']') {
                    Some(after) => Ok((name, after)),
                    None => Err(format!("expected ] but got {after}")),
                };
            }
            '\\' => {
                let escaped = chars.next().map(|(_, c)| c);
                name.push(match escaped {
                    Some('a') => '\u{7}',
                    Some('b') => '\u{8}',
                    Some('f') => '\u{c}',
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('v') => '\u{b}',
                    Some(c @ ('\'' | '\\')) => c,
                    other => {
                        let shown = other.map(String::from).unwrap_or_default();
                        return Err(format!(
                            "invalid string literal: invalid escape char \\{shown}"
                        ));
                    }
                });
            }
            c => name.push(c),
        }
    }
    Err("unexpected end of JSON path".to_owned())
}
