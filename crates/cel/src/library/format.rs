//! Named formats: `format.dns1123Label().validate(x)`.

use std::sync::Arc;

use super::opaque::Opaque;
use super::{timestamp, url};
use crate::declare::Row;
use crate::error::EvalError;
use crate::value::Value;

type Result<'v> = std::result::Result<Value<'v>, EvalError>;

/// A format: its name, how it is checked, and how long the pattern behind it counts.
pub struct Format {
    /// What expressions call it.
    pub name: &'static str,
    pub(crate) pattern_size: u64,
    check: fn(&str) -> Vec<String>,
}

macro_rules! formats {
    ($($function:ident $name:literal $size:literal $check:expr;)*) => {
        static FORMATS: &[Format] = &[
            $(Format { name: $name, pattern_size: $size, check: $check },)*
        ];
        $(
            #[allow(non_snake_case)]
            fn $function<'v>(_: &[Value<'v>]) -> Result<'v> {
                Ok(named_format($name))
            }
        )*
        pub(crate) const TABLE: &[Row] = &[
            ("validate", "format-validate", "kubernetes.NamedFormat.(string) -> optional(list(string))", validate),
            ("format.named", "format-named", "(string) -> optional(kubernetes.NamedFormat)", named),
            $((
                concat!("format.", $name),
                concat!("format.", $name),
                "() -> kubernetes.NamedFormat",
                $function,
            ),)*
        ];
    };
}

formats! {
    label "dns1123Label" 30 |text| dns_label(text);
    subdomain "dns1123Subdomain" 60 |text| dns_subdomain(text);
    old_label "dns1035Label" 30 |text| dns_1035_label(text);
    qualified "qualifiedName" 60 |text| qualified_name(text);
    label_prefix "dns1123LabelPrefix" 30 |text| dns_label(&masked(text));
    subdomain_prefix "dns1123SubdomainPrefix" 60 |text| dns_subdomain(&masked(text));
    old_label_prefix "dns1035LabelPrefix" 30 |text| dns_1035_label(&masked(text));
    label_value "labelValue" 40 |text| is_label_value(text);
    uri "uri" 1087 |text| url::parse(text).err().into_iter().collect();
    uuid "uuid" 69 |text| only_if(is_uuid(text), "does not match the UUID format");
    byte "byte" 69 |text| only_if(is_base64(text), "invalid base64");
    date "date" 84 |text| only_if(timestamp::parse_date(text).is_some(), "invalid date");
    datetime "datetime" 84 |text| only_if(timestamp::parse_lenient(text).is_some(), "invalid datetime");
}

fn named_format<'v>(name: &str) -> Value<'v> {
    match FORMATS.iter().find(|format| format.name == name) {
        Some(format) => Value::Opaque(Opaque::Format(format)),
        None => Value::Null,
    }
}

fn only_if(good: bool, message: &str) -> Vec<String> {
    if good {
        Vec::new()
    } else {
        vec![message.to_owned()]
    }
}

fn validate<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::Opaque(Opaque::Format(format)), Value::String(text)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let faults = (format.check)(text);
    if faults.is_empty() {
        return Ok(Value::Optional(None));
    }
    let faults = faults.into_iter().map(Value::from).collect();
    Ok(Value::Optional(Some(Arc::new(Value::list(faults)))))
}

fn named<'v>(args: &[Value<'v>]) -> Result<'v> {
    let [Value::String(name)] = args else {
        return Err(EvalError::no_such_overload());
    };
    Ok(Value::Optional(match named_format(name) {
        Value::Null => None,
        format => Some(Arc::new(format)),
    }))
}

/// A prefix for generated names may end in a dash: the name that follows will not.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if text.len() > 1 => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn inner(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}

fn edge(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_name(text: &str, inner: fn(u8) -> bool, edge: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|b| inner(*b))
        && bytes.first().is_some_and(|b| edge(*b))
        && bytes.last().is_some_and(|b| edge(*b))
}

/// Whether the text is a DNS label.
pub(crate) fn is_label(text: &str) -> bool {
    dns_label(text).is_empty()
}

/// Whether the text is a DNS subdomain.
pub(crate) fn is_subdomain(text: &str) -> bool {
    dns_subdomain(text).is_empty()
}

fn too_long(text: &str, max: usize, faults: &mut Vec<String>) {
    if text.len() > max {
        faults.push(format!("must be no more than {max} characters"));
    }
}

fn pattern_fault(message: &str, pattern: &str, examples: &[&str]) -> String {
    let mut out = format!("{message} (");
    for (index, example) in examples.iter().enumerate() {
        if index > 0 {
            out.push_str(" or ");
        } else {
            out.push_str("e.g. ");
        }
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{pattern}')"));
    out
}

fn dns_label(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    too_long(text, 63, &mut faults);
    if !is_name(text, inner, edge) {
        let subdomain = is_dotted(text);
        faults.push(if subdomain {
            "must not contain dots".to_owned()
        } else {
            pattern_fault(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
                &["my-name", "123-abc"],
            )
        });
    }
    faults
}

fn is_dotted(text: &str) -> bool {
    text.split('.').all(|label| is_name(label, inner, edge))
}

fn dns_subdomain(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    too_long(text, 253, &mut faults);
    if !is_dotted(text) {
        faults.push(pattern_fault(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    faults
}

fn dns_1035_label(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    too_long(text, 63, &mut faults);
    if !is_name(text, inner, edge) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        faults.push(pattern_fault(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    faults
}

fn word_inner(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')
}

fn word_edge(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn qualified_name(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|f| format!("prefix part {f}")),
                );
            }
            name
        }
        _ => {
            let examples = ["MyName", "my.name", "123-abc"];
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern_fault(QUALIFIED_RULE, QUALIFIED, &examples)
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push("name part must be no more than 63 characters".to_owned());
    }
    if !is_name(name, word_inner, word_edge) {
        let examples = ["MyName", "my.name", "123-abc"];
        faults.push(format!(
            "name part {}",
            pattern_fault(QUALIFIED_RULE, QUALIFIED, &examples)
        ));
    }
    faults
}

fn is_label_value(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    too_long(text, 63, &mut faults);
    if !text.is_empty() && !is_name(text, word_inner, word_edge) {
        faults.push(pattern_fault(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

fn is_uuid(text: &str) -> bool {
    let hex: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let dashes = text.len() - hex.len();
    let placed = [8, 13, 18, 23]
        .iter()
        .filter(|at| text.as_bytes().get(**at) == Some(&b'-'))
        .count();
    hex.len() == 32
        && hex.iter().all(u8::is_ascii_hexdigit)
        && (dashes == 0 || (dashes == 4 && placed == 4))
}

fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .is_ok()
}
