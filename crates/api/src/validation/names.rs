//! What names, labels, keys and ports may look like; each function lists what is wrong with a text, in
//! upstream's words.

const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// A rule for texts: what is wrong with one.
pub type Rule = fn(&str) -> Vec<String>;

/// The longest DNS label.
pub const LABEL_MAX: usize = 63;
/// The longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

/// `must be between low and high, inclusive`
#[must_use]
pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// The message with examples and the pattern, with upstream's doubled blank before each `or`.
#[must_use]
pub fn pattern_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples
        .iter()
        .map(|example| format!("'{example}', "))
        .collect();
    format!(
        "{message} (e.g. {}regex used for validation is '{pattern}')",
        examples.join(" or ")
    )
}

fn lower_alphanumeric(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether the text is not empty, begins with `first`, ends with `last`, and has only `middle` between.
fn shaped(
    text: &str,
    first: impl Fn(u8) -> bool,
    middle: impl Fn(u8) -> bool,
    last: impl Fn(u8) -> bool,
) -> bool {
    let bytes = text.as_bytes();
    match bytes {
        [] => false,
        [only] => first(*only) && last(*only),
        [head, between @ .., tail] => {
            first(*head) && last(*tail) && between.iter().all(|c| middle(*c))
        }
    }
}

fn is_label(text: &str) -> bool {
    shaped(
        text,
        lower_alphanumeric,
        |c| lower_alphanumeric(c) || c == b'-',
        lower_alphanumeric,
    )
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified_part(text: &str) -> bool {
    shaped(
        text,
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'),
        |c| c.is_ascii_alphanumeric(),
    )
}

/// A `generateName` is judged as if a letter stood in for the dash at its end and what is before it.
fn unmask(name: &str, prefix: bool) -> String {
    let mut head = name.chars();
    if prefix && name.len() > 1 && head.next_back() == Some('-') {
        head.next_back();
        return format!("{}a", head.as_str());
    }
    name.to_owned()
}

/// RFC 1123 label, for example `my-name`.
#[must_use]
pub fn dns_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(characters(LABEL_MAX));
    }
    if !is_label(text) {
        errors.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            pattern_error(LABEL_MESSAGE, LABEL_PATTERN, &["my-name", "123-abc"])
        });
    }
    errors
}

/// RFC 1123 subdomain, for example `example.com`.
#[must_use]
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(characters(SUBDOMAIN_MAX));
    }
    if !is_subdomain(text) {
        errors.push(pattern_error(
            SUBDOMAIN_MESSAGE,
            SUBDOMAIN_PATTERN,
            &["example.com"],
        ));
    }
    errors
}

/// RFC 1123 subdomain whose labels may hold `_`, as DNS search lists need.
#[must_use]
pub fn dns_subdomain_with_underscore(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(characters(SUBDOMAIN_MAX));
    }
    let label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        shaped(
            rest,
            lower_alphanumeric,
            |c| lower_alphanumeric(c) || matches!(c, b'-' | b'_'),
            lower_alphanumeric,
        )
    };
    if !text.split('.').all(label) {
        errors.push(pattern_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// RFC 1035 label, for example `abc-123`: a label that begins with a letter.
#[must_use]
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(characters(LABEL_MAX));
    }
    if !is_label(text) || text.starts_with(|c: char| c.is_ascii_digit()) {
        errors.push(pattern_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A subdomain under a wildcard, for example `*.example.com`.
#[must_use]
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(characters(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(pattern_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_PATTERN}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// A label key, annotation key, finalizer, taint key ...: `name` or `prefix.example/name`.
#[must_use]
pub fn qualified_name(text: &str) -> Vec<String> {
    let pattern = || {
        pattern_error(
            QUALIFIED_MESSAGE,
            QUALIFIED_PATTERN,
            &["MyName", "my.name", "123-abc"],
        )
    };
    let mut errors = Vec::new();
    let mut parts = text.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if third.is_some() {
        return vec![format!(
            "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            pattern()
        )];
    }
    let name = match second {
        None => first,
        Some(name) => {
            if first.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                if first.len() > SUBDOMAIN_MAX {
                    errors.push(format!("prefix part {}", bytes(SUBDOMAIN_MAX)));
                }
                if !is_subdomain(first) {
                    let error =
                        pattern_error(SUBDOMAIN_MESSAGE, SUBDOMAIN_PATTERN, &["example.com"]);
                    errors.push(format!("prefix part {error}"));
                }
            }
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", bytes(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {}", pattern()));
    }
    errors
}

/// A label's value: empty or like the name part of a key.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(bytes(LABEL_MAX));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        errors.push(pattern_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A C identifier.
#[must_use]
pub fn c_identifier(text: &str) -> Vec<String> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if shaped(text, |c| c.is_ascii_alphabetic() || c == b'_', word, word) {
        return Vec::new();
    }
    vec![pattern_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A port's number.
#[must_use]
pub fn port_number(port: i32) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec![range_error(1, 65535)]
    }
}

/// A port's name, for example `http`.
#[must_use]
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut check = |bad: bool, message: &str| {
        if bad {
            errors.push(message.to_owned());
        }
    };
    let charset = !text.is_empty() && text.bytes().all(|c| lower_alphanumeric(c) || c == b'-');
    check(text.len() > 15, &characters(15));
    check(
        !charset,
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    check(
        !text.bytes().any(|c| c.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    );
    check(text.contains("--"), "must not contain consecutive hyphens");
    check(
        text.starts_with('-') || text.ends_with('-'),
        "must not begin or end with a hyphen",
    );
    errors
}

/// A percentage, for example `25%`.
#[must_use]
pub fn percent(text: &str) -> Vec<String> {
    let valid = text
        .strip_suffix('%')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()));
    if valid {
        return Vec::new();
    }
    vec![pattern_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// The name of an HTTP header.
#[must_use]
pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    vec![pattern_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The name of an environment variable: any printable ASCII but `=`.
#[must_use]
pub fn environment_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|c| matches!(c, b' '..=b'~') && c != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A key of a ConfigMap or Secret.
#[must_use]
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        errors.push(characters(SUBDOMAIN_MAX));
    }
    let valid = !text.is_empty()
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    if !valid {
        errors.push(pattern_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// A name that is one segment of a URL path (RBAC objects).
#[must_use]
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_prefix(text)
}

/// The beginning of a path segment (`generateName`).
#[must_use]
pub fn path_segment_prefix(text: &str) -> Vec<String> {
    ["/", "%"]
        .into_iter()
        .filter(|part| text.contains(part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// A user id: 31 bits.
#[must_use]
pub fn user_id(id: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&id) {
        Vec::new()
    } else {
        vec![range_error(0, i64::from(i32::MAX))]
    }
}

/// The name of an object that must be a subdomain (most kinds); `prefix`: it is a `generateName`.
#[must_use]
pub fn subdomain_name(name: &str, prefix: bool) -> Vec<String> {
    dns_subdomain(&unmask(name, prefix))
}

/// The name of an object that must be a label (namespaces).
#[must_use]
pub fn label_name(name: &str, prefix: bool) -> Vec<String> {
    dns_label(&unmask(name, prefix))
}

/// The name of an object that must be an RFC 1035 label.
#[must_use]
pub fn label_1035_name(name: &str, prefix: bool) -> Vec<String> {
    dns_1035_label(&unmask(name, prefix))
}

/// The name of an object that need only fit a URL path (RBAC kinds).
#[must_use]
pub fn path_segment_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix {
        path_segment_prefix(name)
    } else {
        path_segment(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    fn matches(pattern: &str, text: &str) -> bool {
        Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(text))
    }

    #[test]
    fn exact_texts() {
        assert_eq!(
            dns_label("Web"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns_label("web.one"), ["must not contain dots"]);
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert_eq!(
            port_name("UPPER--case-is-too-long"),
            [
                "must be no more than 15 characters",
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "must not contain consecutive hyphens"
            ]
        );
        assert_eq!(config_key("..x"), ["must not start with '..'"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(subdomain_name("web-", true), Vec::<String>::new());
        assert_eq!(subdomain_name("web-", false).len(), 1);
        assert_eq!(path_segment_name("a/b", false), ["may not contain '/'"]);
    }

    proptest! {
        #[test]
        fn same_as_the_patterns(text in "[-a-zA-Z0-9._*/]{0,8}") {
            prop_assert_eq!(dns_label(&text).is_empty(), matches(LABEL_PATTERN, &text));
            prop_assert_eq!(dns_subdomain(&text).is_empty(), matches(SUBDOMAIN_PATTERN, &text));
            prop_assert_eq!(dns_1035_label(&text).is_empty(), matches("[a-z]([-a-z0-9]*[a-z0-9])?", &text));
            prop_assert_eq!(label_value(&text).is_empty(), matches(&format!("({QUALIFIED_PATTERN})?"), &text));
            prop_assert_eq!(c_identifier(&text).is_empty(), matches("[A-Za-z_][A-Za-z0-9_]*", &text));
            prop_assert_eq!(qualified_name(&text).is_empty(), matches(&format!("({SUBDOMAIN_PATTERN}/)?{QUALIFIED_PATTERN}"), &text));
            prop_assert_eq!(
                dns_subdomain_with_underscore(&text).is_empty(),
                matches("_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*", &text)
            );
        }

        #[test]
        fn any_text_is_judged(text in ".{0,300}") {
            for judge in [dns_label, dns_subdomain, dns_1035_label, qualified_name, label_value, c_identifier, port_name, config_key, path_segment, environment_name, percent] {
                let _ = judge(&text);
            }
            let _ = subdomain_name(&text, true);
        }
    }
}
