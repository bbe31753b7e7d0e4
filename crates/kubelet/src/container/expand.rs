//! Expands `$(NAME)` in commands, arguments and environment values; `$$` is a dollar sign.

use std::collections::BTreeMap;

/// The text with every known reference replaced; unknown ones stay as they are.
#[must_use]
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let reference = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        match reference {
            Some((name, after)) => {
                match variables.get(name) {
                    Some(value) => out.push_str(value),
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

/// The names that `text` refers to and `variables` lacks.
#[must_use]
pub fn missing(text: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            if !variables.contains_key(name) {
                names.push(name.to_owned());
            }
            rest = after;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let variables: BTreeMap<String, String> = [("A", "1"), ("B", "$(A)"), ("EMPTY", "")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
        for (text, wanted) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)z", "x1y1z"),
            ("$(B)", "$(A)"),
            ("$(EMPTY)", ""),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$()", "$()"),
            ("\u{e9}$(A)\u{e9}", "\u{e9}1\u{e9}"),
        ] {
            assert_eq!(expand(text, &variables), wanted, "{text}");
        }
        assert_eq!(missing("$(A) $(NONE) $$(X)", &variables), ["NONE"]);
    }
}
