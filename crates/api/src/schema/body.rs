//! Decodes request bodies, JSON or YAML, into the checked JSON of a kind, with upstream's errors and warnings.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::check::{CheckError, Checked, check, check_value};
use super::table::{Schema, TypeId, built_in, with_optional};
use crate::apiextensions::structural::Node;
use crate::apiextensions::structural::prune::prune;
use crate::field::{FieldError, Path};
use crate::kind::Kind;
use crate::status::{ApiError, ApiResult};

/// What is done about unknown and duplicate fields: the `fieldValidation` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped, and the client is warned.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// Of the query parameter; `None` if upstream would refuse it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

/// What a body shall be.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where the type is described.
    pub schema: &'a Schema,
    /// The type.
    pub root: TypeId,
    /// The group, empty for the core.
    pub group: &'a str,
    /// The version.
    pub version: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// The definition's schema of a custom resource: fields that it does not know are pruned.
    pub pruned_by: Option<&'a Node>,
}

impl<'a> Target<'a> {
    /// A built-in kind.
    ///
    /// # Errors
    /// The kind is not in the table of types, which a test rules out.
    pub fn of(kind: &'a Kind) -> ApiResult<Self> {
        let mut schema = built_in();
        let mut root = schema.find(kind.schema);
        if root.is_none() {
            schema = with_optional();
            root = schema.find(kind.schema);
        }
        let root = root.ok_or_else(|| ApiError::internal(format!("no type {}", kind.schema)))?;
        Ok(Self {
            schema,
            root,
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            pruned_by: None,
        })
    }

    /// Takes away what the schema of a custom resource does not know, and says so as unknown fields are told of.
    pub(crate) fn prune(&self, value: &mut Value) -> Vec<String> {
        let (Some(schema), Value::Object(map)) = (self.pruned_by, value) else {
            return Vec::new();
        };
        let gone = prune(map, schema);
        gone.into_iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect()
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, `apiVersion` and `kind` included.
    pub value: Value,
    /// For the client, one `Warning` header each.
    pub warnings: Vec<String>,
}

/// Decodes a body.
///
/// # Errors
/// 400 with upstream's message: the body cannot be read, is of another kind or version, has values of wrong types,
/// or (`Strict`) unknown or duplicate fields.
pub fn decode(
    target: &Target<'_>,
    body: &[u8],
    format: Format,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let mut strict = Vec::new();
    let checked = match format {
        Format::Json => check(body, target.schema, target.root),
        Format::Yaml => {
            let yaml = parse_yaml(body).map_err(|message| unrecognized(target, body, &message))?;
            strict.extend(yaml.duplicate);
            check_value(yaml.value, target.schema, target.root)
        }
    };
    let Checked {
        mut value,
        strict: found,
    } = match checked {
        Ok(checked) => checked,
        Err(CheckError::Syntax(message)) => {
            let message = format!("couldn't get version/kind; json parse error: {message}");
            return Err(unrecognized(target, body, &message));
        }
        Err(CheckError::Type(message)) => {
            return Err(unreadable(target, &type_meta(body, format)?, &message));
        }
    };
    let meta: TypeMeta = TypeMeta::of(&value);
    meta.matches(target)?;
    strict.extend(found);
    strict.extend(target.prune(&mut value));
    if validation == FieldValidation::Strict && !strict.is_empty() {
        return Err(unreadable(
            target,
            &meta,
            &format!("strict decoding error: {}", strict.join(", ")),
        ));
    }
    value["apiVersion"] = target.api_version().into();
    value["kind"] = target.kind.into();
    let warnings = if validation == FieldValidation::Warn {
        strict
    } else {
        Vec::new()
    };
    Ok(Decoded { value, warnings })
}

#[derive(Debug, Default, Deserialize)]
struct TypeMeta {
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
}

impl TypeMeta {
    fn of(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
        }
    }

    /// The version without the group; the target's where the body says nothing.
    fn version<'a>(&'a self, target: &Target<'a>) -> &'a str {
        match self.api_version.as_deref() {
            None | Some("") => target.version,
            Some(text) => text.rsplit_once('/').map_or(text, |(_, version)| version),
        }
    }

    fn kind<'a>(&'a self, target: &Target<'a>) -> &'a str {
        self.kind
            .as_deref()
            .filter(|kind| !kind.is_empty())
            .unwrap_or(target.kind)
    }

    /// Whether the body is of the kind and version that the path says.
    fn matches(&self, target: &Target<'_>) -> ApiResult<()> {
        let expected = target.api_version();
        let version = self
            .api_version
            .as_deref()
            .filter(|version| !version.is_empty())
            .unwrap_or(&expected);
        let kind = self.kind(target);
        if kind == target.kind && version == expected {
            return Ok(());
        }
        if target.schema.is_custom() && kind != target.kind && version == expected {
            let error = FieldError::invalid(
                &Path::new("kind"),
                kind,
                &format!("must be {}", target.kind),
            );
            return Err(ApiError::invalid(target.group, target.kind, "", &[error]));
        }
        if target.schema.is_custom() {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({expected})"
            )));
        }
        let known = crate::table::known_kinds()
            .any(|other| other.kind == kind && other.api_version() == version);
        if !known {
            let message = format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            );
            return Err(unreadable(target, self, &message));
        }
        if kind != target.kind {
            let group = if target.group.is_empty() {
                "core"
            } else {
                target.group.split('.').next().unwrap_or_default()
            };
            let message = format!(
                "converting ({}.{kind}) to ({group}.{}): unknown conversion",
                self.version(target),
                target.kind
            );
            return Err(unreadable(target, self, &message));
        }
        Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )))
    }
}

/// Kind and version of a body that has other faults.
fn type_meta(body: &[u8], format: Format) -> ApiResult<TypeMeta> {
    Ok(match format {
        Format::Json => serde_json::from_slice(body).unwrap_or_default(),
        Format::Yaml => parse_yaml(body)
            .map(|yaml| TypeMeta::of(&yaml.value))
            .unwrap_or_default(),
    })
}

fn unreadable(target: &Target<'_>, meta: &TypeMeta, message: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {message}",
        meta.kind(target),
        meta.version(target),
        target.kind
    ))
}

fn unrecognized(target: &Target<'_>, body: &[u8], message: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {message} ({})",
        target.kind,
        summary(body)
    ))
}

/// The beginning of a body that could not be read.
fn summary(body: &[u8]) -> String {
    const LENGTH: usize = 30;
    let start = body.get(..LENGTH).unwrap_or(body);
    let text = match body.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned(),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if body.len() > LENGTH {
        format!("{text} ...")
    } else {
        text
    }
}

/// A YAML document as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Yaml {
    /// The document.
    pub value: Value,
    /// What upstream says about the first key that is there twice; of such keys the last counts.
    pub duplicate: Option<String>,
}

/// Reads one YAML document as upstream does: with the booleans and octal numbers of YAML 1.1.
///
/// # Errors
/// The message of the parser: the text is no YAML.
pub fn parse_yaml(text: &[u8]) -> Result<Yaml, String> {
    let options = |policy| {
        let mut options = serde_saphyr::Options::default();
        options.duplicate_keys = policy;
        options.legacy_octal_numbers = true;
        options.with_snippet = false;
        options
    };
    let text =
        std::str::from_utf8(text).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    let mut text = Cow::Borrowed(text);
    let mut again = REINDENTED / text.len().max(1);
    let mut mended = 0;
    loop {
        let message = |error| yaml_message(&error, &text);
        let error = match serde_saphyr::from_str_with_options::<Value>(
            &text,
            options(DuplicateKeyPolicy::Error),
        ) {
            Ok(value) => {
                let duplicate = None;
                return Ok(Yaml { value, duplicate });
            }
            Err(error) => error,
        };
        if again > 0
            && let Some((line, indented)) = reindented(&text, &error)
            // A line for which that did not help is wrong in another way.
            && line > mended
        {
            text = Cow::Owned(indented);
            again -= 1;
            mended = line;
            continue;
        }
        let value = serde_saphyr::from_str_with_options::<Value>(
            &text,
            options(DuplicateKeyPolicy::LastWins),
        )
        .map_err(message)?;
        // It was the policy that the first reading failed by.
        return Ok(Yaml {
            value,
            duplicate: Some(message(error)),
        });
    }
}

/// Reads a configuration file's text, YAML or JSON, as upstream does: by way of JSON, and with no key twice.
///
/// # Errors
/// What is wrong with it.
pub fn parse_configuration<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let yaml = parse_yaml(text)?;
    if let Some(duplicate) = yaml.duplicate {
        return Err(duplicate);
    }
    serde_json::from_value(yaml.value).map_err(|error| error.to_string())
}

/// How many bytes may be read anew because a line of a quoted scalar had to be indented.
const REINDENTED: usize = 8 << 20;

/// The text with the offending line (and its number) indented, if that is what is wrong with it.
///
/// Upstream's parser takes a quoted scalar's further lines however little they are indented; ours is strict. The
/// blanks before such a line are no part of the value.
fn reindented(text: &str, error: &serde_saphyr::Error) -> Option<(usize, String)> {
    if !error.to_string().contains(UNDERINDENTED) {
        return None;
    }
    let line = usize::try_from(error.location()?.line()).ok()?;
    let start = match line.checked_sub(1)? {
        0 => 0,
        before => line_ends(text).nth(before - 1)?,
    };
    let (head, tail) = text.split_at(start);
    Some((line, format!("{head}{INDENT}{tail}")))
}

/// Where lines end, as YAML has it: after a line feed, and after a carriage return that none follows.
fn line_ends(text: &str) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    text.match_indices(['\n', '\r'])
        .filter(|(at, found)| *found == "\n" || bytes.get(at + 1) != Some(&b'\n'))
        .map(|(at, _)| at + 1)
}

const UNDERINDENTED: &str = "invalid indentation in multiline quoted scalar";
/// Deeper than any block that the parser would accept is wide.
const INDENT: &str = "                                                                ";

fn yaml_message(error: &serde_saphyr::Error, text: &str) -> String {
    let line = error.location().map(|location| location.line());
    match (error, line) {
        (serde_saphyr::Error::DuplicateMappingKey { key, .. }, Some(line)) => {
            let key = key.clone().unwrap_or_default();
            format!("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map")
        }
        // Upstream's parser complains where the text ends.
        _ if error.to_string().starts_with("unclosed quote") => {
            let line = text.lines().count() + usize::from(text.ends_with('\n'));
            format!("yaml: line {line}: found unexpected end of stream")
        }
        (_, Some(line)) => {
            let message = error.to_string();
            let message = message
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned();
            format!("yaml: line {line}: {message}")
        }
        (_, None) => format!("yaml: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(body: &str, format: Format, validation: FieldValidation) -> ApiResult<Decoded> {
        let kind = crate::kinds()
            .iter()
            .find(|kind| kind.plural == "pods")
            .unwrap();
        decode(
            &Target::of(kind).unwrap(),
            body.as_bytes(),
            format,
            validation,
        )
    }

    #[test]
    fn unknown_fields_are_refused_warned_of_or_dropped() {
        let body = r#"{"spec":{"foo":1,"nodeName":"a","nodeName":"b"}}"#;
        let decoded = pod(body, Format::Json, FieldValidation::Warn).unwrap();
        assert_eq!(
            decoded.warnings,
            [
                r#"unknown field "spec.foo""#,
                r#"duplicate field "spec.nodeName""#
            ]
        );
        assert_eq!(
            decoded.value,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"nodeName": "b"}, "status": {}})
        );
        assert!(
            pod(body, Format::Json, FieldValidation::Ignore)
                .unwrap()
                .warnings
                .is_empty()
        );
        let error = pod(body, Format::Json, FieldValidation::Strict).unwrap_err();
        assert_eq!(error.code, 400);
        assert_eq!(
            error.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\", duplicate field \"spec.nodeName\""
        );
    }

    #[test]
    fn other_kinds_and_versions_are_refused() {
        let error = |body: &str| {
            pod(body, Format::Json, FieldValidation::Warn)
                .unwrap_err()
                .message
        };
        assert_eq!(
            error(r#"{"kind":"ConfigMap","apiVersion":"v1"}"#),
            "ConfigMap in version \"v1\" cannot be handled as a Pod: converting (v1.ConfigMap) to (core.Pod): unknown conversion"
        );
        assert!(error(r#"{"kind":"Cat","apiVersion":"pets/v2"}"#).starts_with(
            "Cat in version \"v2\" cannot be handled as a Pod: no kind \"Cat\" is registered for version \"pets/v2\""
        ));
        assert_eq!(
            error(r#"{"kind":"Pod","apiVersion":"v1","spec":[]}"#),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"
        );
        assert_eq!(
            error(r#"{"kind":"Pod""#),
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"kind\":\"Pod\")"
        );
        assert!(error("").ends_with("(<empty>)"));
    }

    #[test]
    fn yaml_is_read_with_the_booleans_of_version_1_1() {
        let body = "metadata:\n  name: a\n  labels: {x: \"yes\"}\nspec:\n  hostNetwork: yes\n  hostPID: On\n  terminationGracePeriodSeconds: 010\n  containers:\n  - name: c\n    args: [\"1\", \"true\"]\n";
        let decoded = pod(body, Format::Yaml, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.value["spec"]["hostNetwork"], true);
        assert_eq!(decoded.value["spec"]["hostPID"], true);
        assert_eq!(decoded.value["spec"]["terminationGracePeriodSeconds"], 8);
        assert_eq!(decoded.value["metadata"]["labels"]["x"], "yes");
    }

    #[test]
    fn yaml_with_a_key_twice_is_refused_only_when_strict() {
        let body = "metadata:\n  name: a\n  name: b\n";
        assert_eq!(
            pod(body, Format::Yaml, FieldValidation::Ignore)
                .unwrap()
                .value["metadata"]["name"],
            "b"
        );
        let warnings = pod(body, Format::Yaml, FieldValidation::Warn)
            .unwrap()
            .warnings;
        assert_eq!(
            warnings,
            ["yaml: unmarshal errors:\n  line 3: key \"name\" already set in map"]
        );
        assert_eq!(
            pod(body, Format::Yaml, FieldValidation::Strict)
                .unwrap_err()
                .code,
            400
        );
        let error = pod("a: b: c", Format::Yaml, FieldValidation::Ignore).unwrap_err();
        assert!(
            error.message.starts_with(
                "the object provided is unrecognized (must be of type Pod): yaml: line 1: "
            ),
            "{}",
            error.message
        );
    }
}
