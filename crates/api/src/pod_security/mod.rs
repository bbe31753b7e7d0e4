//! Pod security standards: which of the levels `privileged`, `baseline` and `restricted` a pod meets, and what a
//! namespace's labels ask of its pods.
//!
//! Pure: the admission plugin finds the namespace, and tells the outcome.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::PodSpec;

use crate::field::{ErrorList, FieldError, Path};

mod checks;
mod subject;
#[cfg(test)]
mod tests;

/// What the labels and the annotations of audit start with.
pub const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much a pod may do; the later, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Everything.
    Privileged,
    /// What leads to known ways out of a container is refused.
    Baseline,
    /// Hardened pods only.
    Restricted,
}

impl Level {
    /// Reads a level.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// As of which release a level is meant: its rules grow with the releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The rules of release 1.x.
    Minor(u32),
    /// The rules of this release.
    Latest,
}

impl Version {
    /// Reads `latest` or `v1.x`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "must be \"latest\" or \"v1.x\"";
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let digits = text.strip_prefix("v1.").ok_or(WRONG)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || digits.len() > 1 && digits.starts_with('0') {
            return Err(WRONG);
        }
        digits.parse().map(Self::Minor).map_err(|_| WRONG)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// A level as of a version, shown as `restricted:latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standard {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Version,
}

impl Standard {
    /// The standard that asks for nothing.
    pub const PRIVILEGED: Self = Self {
        level: Level::Privileged,
        version: Version::Latest,
    };

    fn equivalent(self, other: Self) -> bool {
        self == other || self.level == Level::Privileged && other.level == Level::Privileged
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What is asked of the pods of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What a pod must meet to be let in.
    pub enforce: Standard,
    /// What is written into the audit log when it is not met.
    pub audit: Standard,
    /// What the client is warned of when it is not met.
    pub warn: Standard,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enforce: Standard::PRIVILEGED,
            audit: Standard::PRIVILEGED,
            warn: Standard::PRIVILEGED,
        }
    }
}

impl Policy {
    /// Whether it asks for nothing at all.
    #[must_use]
    pub fn fully_privileged(&self) -> bool {
        self.equivalent(&Self::default())
    }

    fn equivalent(&self, other: &Self) -> bool {
        self.enforce.equivalent(other.enforce)
            && self.audit.equivalent(other.audit)
            && self.warn.equivalent(other.warn)
    }

    /// What the labels of a namespace say over `defaults`, and what is wrong with them. What enforces fails closed
    /// (`restricted:latest`), what only tells fails open.
    #[must_use]
    pub fn of_labels(labels: &BTreeMap<String, String>, defaults: Self) -> (Self, ErrorList) {
        let mut policy = defaults;
        let mut labels = Labels {
            labels,
            errors: ErrorList::new(),
        };
        let enforce = labels.level("enforce");
        if let Some(level) = enforce {
            policy.enforce.level = level.unwrap_or(Level::Restricted);
        }
        labels.version("enforce-version", &mut policy.enforce);
        if let Some(level) = labels.level("audit") {
            policy.audit.level = level.unwrap_or(Level::Privileged);
        }
        labels.version("audit-version", &mut policy.audit);
        let warn = labels.level("warn");
        if let Some(level) = warn {
            policy.warn.level = level.unwrap_or(Level::Privileged);
        }
        let warn_version = labels.version("warn-version", &mut policy.warn);
        // Whoever asks for more than the default warns of it too, unless told otherwise.
        if warn.is_none()
            && matches!(enforce, Some(Some(_)))
            && policy.enforce.level > policy.warn.level
        {
            policy.warn.level = policy.enforce.level;
            if !warn_version {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, labels.errors)
    }

    /// The warning about labels on a namespace that is exempt; `None` where they would change nothing.
    #[must_use]
    pub fn ignored_in(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        defaults: &Self,
    ) -> Option<String> {
        if self.fully_privileged() || self.equivalent(defaults) {
            return None;
        }
        let set = |mode: &str| {
            ["", "-version"]
                .iter()
                .any(|suffix| labels.contains_key(&format!("{PREFIX}{mode}{suffix}")))
        };
        let modes = [
            ("enforce", self.enforce),
            ("audit", self.audit),
            ("warn", self.warn),
        ];
        let told: Vec<String> = modes
            .iter()
            .filter(|(mode, standard)| standard.level != Level::Privileged && set(mode))
            .map(|(mode, standard)| format!("{mode}={standard}"))
            .collect();
        Some(format!(
            "namespace {namespace:?} is exempt from Pod Security, and the policy ({}) will be ignored",
            told.join(", ")
        ))
    }
}

/// The labels while they are read.
struct Labels<'a> {
    labels: &'a BTreeMap<String, String>,
    errors: ErrorList,
}

impl Labels<'_> {
    fn read<T>(
        &mut self,
        name: &str,
        parse: fn(&str) -> Result<T, &'static str>,
    ) -> Option<Option<T>> {
        let label = format!("{PREFIX}{name}");
        let value = self.labels.get(&label)?;
        Some(match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                let path = Path::new("metadata").child("labels").key(&label);
                self.errors.push(FieldError::invalid(&path, value, why));
                None
            }
        })
    }

    /// `None`: no such label; `Some(None)`: it is wrong.
    fn level(&mut self, name: &str) -> Option<Option<Level>> {
        self.read(name, Level::parse)
    }

    /// Whether there is such a label.
    fn version(&mut self, name: &str, standard: &mut Standard) -> bool {
        match self.read(name, Version::parse) {
            None => false,
            Some(version) => {
                standard.version = version.unwrap_or(Version::Latest);
                true
            }
        }
    }
}

/// One rule that a pod breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it is about, for example `hostPort`.
    pub reason: &'static str,
    /// Where it is, for example `container "a" uses hostPort 80`.
    pub detail: String,
}

/// The rules of a standard that a pod breaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// Whether the pod meets the standard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules without places.
    #[must_use]
    pub fn reasons(&self) -> String {
        let reasons: Vec<&str> = self.0.iter().map(|one| one.reason).collect();
        reasons.join(", ")
    }
}

/// The rules with the places where they are broken.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", one.reason)?;
            if !one.detail.is_empty() {
                write!(f, " ({})", one.detail)?;
            }
        }
        Ok(())
    }
}

/// Which rules of a standard a pod breaks; `annotations` are the pod's.
#[must_use]
pub fn evaluate(
    standard: Standard,
    annotations: Option<&BTreeMap<String, String>>,
    spec: &PodSpec,
) -> Violations {
    if standard.level == Level::Privileged {
        return Violations::default();
    }
    let subject = subject::Subject::new(annotations, spec);
    let rules = checks::rules(standard);
    Violations(rules.filter_map(|rule| rule(&subject)).collect())
}

/// What pods of a namespace are called in a warning: the first name, and how many more there are.
#[derive(Clone, Debug, Default)]
struct Offenders {
    first: String,
    count: usize,
}

/// The warnings about pods that a namespace's new standard would no longer let in. `pods` are names with what each
/// breaks, `unchecked` tells how many were left out.
#[must_use]
pub fn warnings_of_pods(
    namespace: &str,
    standard: Standard,
    pods: &[(String, Violations)],
    unchecked: usize,
) -> Vec<String> {
    let mut by_reason: BTreeMap<String, Offenders> = BTreeMap::new();
    for (name, violations) in pods.iter().filter(|(_, broken)| !broken.is_empty()) {
        let offenders = by_reason.entry(violations.reasons()).or_default();
        if offenders.count == 0 || *name < offenders.first {
            offenders.first.clone_from(name);
        }
        offenders.count += 1;
    }
    let mut warnings = Vec::new();
    if unchecked > 0 {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {} of {} existing pods",
            pods.len(),
            pods.len() + unchecked
        ));
    }
    if !by_reason.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = by_reason
        .into_iter()
        .map(|(reasons, offenders)| {
            let others = match offenders.count {
                1 => String::new(),
                2 => " (and 1 other pod)".to_owned(),
                count => format!(" (and {} other pods)", count - 1),
            };
            format!("{}{others}: {reasons}", offenders.first)
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}
