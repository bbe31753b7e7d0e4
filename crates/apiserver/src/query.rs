//! Query parameters, and the options of lists and writes read from them.

pub use skiff_api::schema::body::FieldValidation;
use skiff_api::{ApiError, ApiResult, FieldError, Path};

use crate::request::{is_true, query_pairs};

/// A request's query parameters, decoded, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    #[must_use]
    pub fn parse(query: Option<&str>) -> Self {
        Self(query_pairs(query).collect())
    }

    /// The first value of a parameter; empty when it is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A boolean parameter; `false` when it is not there.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .is_some_and(|(_, value)| is_true(value))
    }

    /// A number; 400 when it is none.
    pub fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }
}

/// What `resourceVersion` and `resourceVersionMatch` ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing said: the newest state.
    Newest,
    /// `0`: any state that is at hand.
    Any,
    /// That revision or a newer one.
    NotOlderThan(u64),
    /// Exactly that revision.
    Exact(u64),
}

/// The options of a list or watch.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Which state.
    pub freshness: Freshness,
    /// At most so many objects; 0: all.
    pub limit: usize,
    /// Where the page before ended; empty for the first.
    pub continue_token: String,
    /// How long a watch shall last, in seconds.
    pub timeout_seconds: Option<u64>,
    /// Whether the watcher takes bookmarks.
    pub bookmarks: bool,
    /// Whether a watch begins with the state; `None`: not said.
    pub send_initial_events: Option<bool>,
}

/// A resourceVersion as clients send it. What an answer makes of the error depends on the verb, as upstream.
pub fn parse_revision(text: &str) -> Result<u64, FieldError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        let why = if digits {
            "value out of range"
        } else {
            "invalid syntax"
        };
        FieldError::invalid(
            &Path::new("resourceVersion"),
            text,
            &format!("strconv.ParseUint: parsing {text:?}: {why}"),
        )
    })
}

/// Whose options are read: errors differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A list's.
    List,
    /// A watch's.
    Watch,
}

impl Reading {
    fn bad_revision(self, error: &FieldError) -> ApiError {
        match self {
            Self::List => ApiError::bad_request(format!("invalid resource version: {error}")),
            // Upstream lets its storage's error through, which makes it a 500.
            Self::Watch => ApiError::new(500, "", error.to_string()),
        }
    }
}

impl ListOptions {
    /// Reads and checks the options.
    pub fn parse(query: &Query, reading: Reading) -> ApiResult<Self> {
        let watch = reading == Reading::Watch;
        let version = query.get("resourceVersion");
        let matching = query.get("resourceVersionMatch");
        let initial = query
            .has("sendInitialEvents")
            .then(|| query.flag("sendInitialEvents"));
        let continue_token = query.get("continue").to_owned();
        let limit = query.number("limit")?.unwrap_or(0);
        let timeout = query.number("timeoutSeconds")?;
        let errors = if watch {
            watch_errors(matching, initial, &continue_token)
        } else {
            list_errors(version, matching, initial, &continue_token)
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors));
        }
        // A continuation says itself which state it goes on with.
        let freshness = if !watch && !continue_token.is_empty() && version.is_empty() {
            Freshness::Newest
        } else {
            let parsed = || parse_revision(version).map_err(|error| reading.bad_revision(&error));
            match (version, matching) {
                ("", _) => Freshness::Newest,
                _ if parsed()? == 0 => Freshness::Any,
                (_, "Exact") => Freshness::Exact(parsed()?),
                // Upstream's rule for a limit without a match: exact, a continuation of what was read before.
                (_, "") if !watch && limit > 0 => Freshness::Exact(parsed()?),
                _ => Freshness::NotOlderThan(parsed()?),
            }
        };
        Ok(Self {
            freshness,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token,
            timeout_seconds: timeout
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|s| *s > 0),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: initial,
        })
    }
}

fn match_error(text: &str) -> FieldError {
    FieldError::forbidden(&Path::new("resourceVersionMatch"), text)
}

fn unsupported_match(matching: &str, supported: &[&str]) -> FieldError {
    FieldError::not_supported(&Path::new("resourceVersionMatch"), matching, supported)
}

const MATCH_AND_CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";

fn watch_errors(matching: &str, initial: Option<bool>, token: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if initial.is_some() && matching != "NotOlderThan" {
        errors.push(match_error(
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if matching.is_empty() {
        return errors;
    }
    if initial.is_none() {
        errors.push(match_error(
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    if matching != "NotOlderThan" {
        errors.push(unsupported_match(matching, &["NotOlderThan"]));
    }
    if !token.is_empty() {
        errors.push(match_error(MATCH_AND_CONTINUE));
    }
    errors
}

fn list_errors(
    version: &str,
    matching: &str,
    initial: Option<bool>,
    token: &str,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !matching.is_empty() {
        if version.is_empty() {
            errors.push(match_error(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !token.is_empty() {
            errors.push(match_error(MATCH_AND_CONTINUE));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(unsupported_match(matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && version == "0" {
            errors.push(match_error(
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    if initial.is_some() {
        errors.push(FieldError::forbidden(
            &Path::new("sendInitialEvents"),
            "sendInitialEvents is forbidden for list",
        ));
    }
    errors
}

/// The options of a create, update or patch.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Everything but the write itself.
    pub dry_run: bool,
    /// Who owns the fields written.
    pub field_manager: String,
    /// What is done with unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// Whether an apply takes fields over from others.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// Reads and checks the options of `kind` (`CreateOptions`, `UpdateOptions`, `PatchOptions`).
    pub fn parse(query: &Query, kind: &str) -> ApiResult<Self> {
        let wanted = query.get("fieldValidation");
        let field_validation = FieldValidation::parse(wanted).ok_or_else(|| {
            let path = skiff_api::Path::new("fieldValidation");
            let supported = ["Ignore", "Strict", "Warn", ""];
            let error = skiff_api::FieldError::not_supported(&path, wanted, &supported);
            ApiError::invalid("meta.k8s.io", kind, "", &[error])
        })?;
        let field_manager = query.get("fieldManager").to_owned();
        if field_manager.len() > 128 {
            let error = skiff_api::FieldError::too_long(&skiff_api::Path::new("fieldManager"), 128);
            return Err(ApiError::invalid("meta.k8s.io", kind, "", &[error]));
        }
        Ok(Self {
            dry_run: dry_run(query.all("dryRun"), kind)?,
            field_manager,
            field_validation,
            force: query.has("force").then(|| query.flag("force")),
        })
    }
}

/// Whether a dry run is asked for.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, kind: &str) -> ApiResult<bool> {
    let mut dry = false;
    for value in values {
        if value != "All" {
            let path = skiff_api::Path::new("dryRun");
            let error = skiff_api::FieldError::not_supported(&path, value, &["All"]);
            return Err(ApiError::invalid("meta.k8s.io", kind, "", &[error]));
        }
        dry = true;
    }
    Ok(dry)
}
