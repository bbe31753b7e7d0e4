//! The structured authentication configuration: whose tokens are believed, and what is made of them.

use std::collections::BTreeSet;

use serde::Deserialize;
use skiff_api::{ErrorList, FieldError, Path};

use super::Anonymous;
use super::expression::{About, Expression};

/// The versions of the configuration that are read; they say the same.
const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];
const MOST: usize = 64;

/// `AuthenticationConfiguration`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthenticationConfiguration {
    api_version: String,
    kind: String,
    /// The issuers of tokens.
    pub jwt: Vec<JwtIssuer>,
    /// Who may come without credentials; `None`: the flag says.
    pub anonymous: Option<AnonymousConfig>,
}

/// Who may come without credentials.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnonymousConfig {
    enabled: bool,
    conditions: Vec<AnonymousCondition>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct AnonymousCondition {
    path: String,
}

impl From<&AnonymousConfig> for Anonymous {
    fn from(config: &AnonymousConfig) -> Self {
        let conditions = config.conditions.iter();
        Self {
            enabled: config.enabled,
            paths: conditions.map(|condition| condition.path.clone()).collect(),
        }
    }
}

/// An issuer of tokens, and how they are read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JwtIssuer {
    /// Who issues.
    pub issuer: Issuer,
    /// What must hold for the claims.
    pub claim_validation_rules: Vec<ClaimRule>,
    /// Whom the claims stand for.
    pub claim_mappings: ClaimMappings,
    /// What must hold for the user.
    pub user_validation_rules: Vec<UserRule>,
    /// The algorithms that tokens may be signed with; empty: all that are known. Flags alone set it.
    #[serde(skip)]
    pub algorithms: Vec<String>,
}

/// Who issues tokens.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

/// A claim that must have a value, or an expression that must hold.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

/// Whom claims stand for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct ClaimMappings {
    pub username: Mapping,
    pub groups: Mapping,
    pub uid: Mapping,
    pub extra: Vec<ExtraMapping>,
}

/// A claim with a prefix, or an expression.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct Mapping {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

/// An extra of the user.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct ExtraMapping {
    pub key: String,
    pub value_expression: String,
}

/// An expression on the user that must hold.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

impl AuthenticationConfiguration {
    /// Reads YAML or JSON; unknown fields are refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = skiff_api::schema::body::parse_configuration(text.as_bytes())?;
        if config.kind != "AuthenticationConfiguration"
            || !VERSIONS.contains(&config.api_version.as_str())
        {
            return Err(format!(
                "no kind {:?} is registered for version {:?}",
                config.kind, config.api_version
            ));
        }
        Ok(config)
    }

    /// A configuration of these issuers.
    #[must_use]
    pub fn of(jwt: Vec<JwtIssuer>) -> Self {
        Self {
            jwt,
            ..Self::default()
        }
    }

    /// What is wrong with the configuration. `ours`: the issuers of our own tokens, which nobody else may be.
    #[must_use]
    pub fn validate(&self, ours: &[String]) -> ErrorList {
        let root = Path::new("jwt");
        let mut errors = ErrorList::new();
        if self.jwt.len() > MOST {
            errors.push(FieldError::too_many(&root, self.jwt.len(), MOST));
            return errors;
        }
        let (mut issuers, mut discoveries) = (BTreeSet::new(), BTreeSet::new());
        for (index, jwt) in self.jwt.iter().enumerate() {
            let path = root.index(index);
            errors.extend(jwt.validate(&path, ours));
            let issuer = &jwt.issuer;
            let path = path.child("issuer");
            if !issuers.insert(&issuer.url) {
                errors.push(FieldError::duplicate(&path.child("url"), &issuer.url));
            }
            if !issuer.discovery_url.is_empty() && !discoveries.insert(&issuer.discovery_url) {
                let path = path.child("discoveryURL");
                errors.push(FieldError::duplicate(&path, &issuer.discovery_url));
            }
        }
        if let Some(anonymous) = &self.anonymous
            && !anonymous.enabled
            && !anonymous.conditions.is_empty()
        {
            let path = Path::new("anonymous").child("conditions");
            let why = "enabled should be set to true when conditions are defined";
            errors.push(FieldError::invalid(&path, "", why));
        }
        errors
    }
}

impl JwtIssuer {
    fn validate(&self, path: &Path, ours: &[String]) -> ErrorList {
        let mut errors = self.issuer.validate(&path.child("issuer"), ours);
        errors.extend(self.claim_rules(&path.child("claimValidationRules")));
        errors.extend(self.mappings(&path.child("claimMappings")));
        errors.extend(self.user_rules(&path.child("userValidationRules")));
        errors
    }

    fn claim_rules(&self, root: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
        for (index, rule) in self.claim_validation_rules.iter().enumerate() {
            let path = root.index(index);
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, false) => {
                    let why = "claim and expression can't both be set";
                    errors.push(FieldError::invalid(&path, &rule.claim, why));
                }
                (true, true) => {
                    let why = "claim or expression is required";
                    errors.push(FieldError::required(&path, why));
                }
                (false, true) => {
                    if !rule.message.is_empty() {
                        let (path, why) = (
                            path.child("message"),
                            "may not be specified when claim is set",
                        );
                        errors.push(FieldError::invalid(&path, &rule.message, why));
                    }
                    if !claims.insert(&rule.claim) {
                        errors.push(FieldError::duplicate(&path.child("claim"), &rule.claim));
                    }
                }
                (true, false) => {
                    if !rule.required_value.is_empty() {
                        let path = path.child("requiredValue");
                        let why = "may not be specified when expression is set";
                        errors.push(FieldError::invalid(&path, &rule.required_value, why));
                    }
                    let path = path.child("expression");
                    if expressions.insert(&rule.expression) {
                        errors.extend(compiled(&rule.expression, About::ClaimsRule, &path));
                    } else {
                        errors.push(FieldError::duplicate(&path, &rule.expression));
                    }
                }
            }
        }
        errors
    }

    fn mappings(&self, path: &Path) -> ErrorList {
        let mappings = &self.claim_mappings;
        let mut errors = prefixed(&mappings.username, &path.child("username"), true);
        errors.extend(prefixed(&mappings.groups, &path.child("groups"), false));
        let uid = &mappings.uid;
        if !uid.claim.is_empty() && !uid.expression.is_empty() {
            let why = "claim and expression can't both be set";
            errors.push(FieldError::invalid(&path.child("uid"), "", why));
        } else if !uid.expression.is_empty() {
            let path = path.child("uid").child("expression");
            errors.extend(compiled(&uid.expression, About::Claims, &path));
        }
        let mut keys = BTreeSet::new();
        for (index, extra) in mappings.extra.iter().enumerate() {
            let path = path.child("extra").index(index);
            errors.extend(extra_key(&extra.key, &path.child("key")));
            if !keys.insert(&extra.key) {
                errors.push(FieldError::duplicate(&path.child("key"), &extra.key));
                continue;
            }
            let path = path.child("valueExpression");
            if extra.value_expression.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                errors.extend(compiled(&extra.value_expression, About::Claims, &path));
            }
        }
        if self.reads_unverified_mail() {
            let path = path.child("username").child("expression");
            let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
            errors.push(FieldError::invalid(
                &path,
                &mappings.username.expression,
                why,
            ));
        }
        errors
    }

    /// Whether the user's name is made of an e-mail address, and nothing looks whether it is verified.
    fn reads_unverified_mail(&self) -> bool {
        let mappings = &self.claim_mappings;
        let rules = self.claim_validation_rules.iter();
        let extra = mappings.extra.iter();
        let mut all = std::iter::once(&mappings.username.expression)
            .chain(extra.map(|extra| &extra.value_expression))
            .chain(rules.map(|rule| &rule.expression));
        selects(&mappings.username.expression, "email")
            && !all.any(|expression| selects(expression, "email_verified"))
    }

    fn user_rules(&self, root: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut seen = BTreeSet::new();
        for (index, rule) in self.user_validation_rules.iter().enumerate() {
            let path = root.index(index).child("expression");
            if rule.expression.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else if seen.insert(&rule.expression) {
                errors.extend(compiled(&rule.expression, About::UserRule, &path));
            } else {
                errors.push(FieldError::duplicate(&path, &rule.expression));
            }
        }
        errors
    }
}

impl Issuer {
    fn validate(&self, path: &Path, ours: &[String]) -> ErrorList {
        let mut errors = ErrorList::new();
        if self.url.is_empty() {
            errors.push(FieldError::required(&path.child("url"), ""));
        } else {
            errors.extend(https(&self.url, ours, &path.child("url")));
        }
        if !self.discovery_url.is_empty() {
            let path = path.child("discoveryURL");
            let same = self.url.trim_end_matches('/') == self.discovery_url.trim_end_matches('/');
            if same {
                let why = "discoveryURL must be different from URL";
                errors.push(FieldError::invalid(&path, &self.discovery_url, why));
            }
            errors.extend(https(&self.discovery_url, &[], &path));
        }
        errors.extend(self.check_audiences(path));
        if !self.certificate_authority.is_empty()
            && let Err(why) = crate::webhook::check_bundle(self.certificate_authority.as_bytes())
        {
            let path = path.child("certificateAuthority");
            errors.push(FieldError::invalid(&path, "<omitted>", &why));
        }
        let egress = &self.egress_selector_type;
        if !matches!(egress.as_str(), "" | "controlplane" | "cluster") {
            let path = path.child("egressSelectorType");
            let why = "egress selector must be either controlplane or cluster";
            errors.push(FieldError::invalid(&path, egress, why));
        }
        errors
    }

    fn check_audiences(&self, root: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = root.child("audiences");
        if self.audiences.is_empty() {
            let why = format!("at least one {path} is required");
            errors.push(FieldError::required(&path, &why));
            return errors;
        }
        let mut seen = BTreeSet::new();
        for (index, audience) in self.audiences.iter().enumerate() {
            if audience.is_empty() {
                errors.push(FieldError::required(&path.index(index), ""));
            }
            if !seen.insert(audience) {
                errors.push(FieldError::duplicate(&path.index(index), audience));
            }
        }
        let (policy, path) = (
            &self.audience_match_policy,
            root.child("audienceMatchPolicy"),
        );
        let any = policy == "MatchAny";
        if self.audiences.len() > 1 && !any {
            let why = "audienceMatchPolicy must be MatchAny for multiple audiences";
            errors.push(FieldError::invalid(&path, policy, why));
        }
        if self.audiences.len() == 1 && !any && !policy.is_empty() {
            let why = "audienceMatchPolicy must be empty or MatchAny for single audience";
            errors.push(FieldError::invalid(&path, policy, why));
        }
        errors
    }
}

fn https(text: &str, ours: &[String], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut wrong = |why: &str| errors.push(FieldError::invalid(path, text, why));
    if ours.iter().any(|own| own == text) {
        wrong(&format!(
            "URL must not overlap with disallowed issuers: [{}]",
            ours.join(" ")
        ));
    }
    match url::Url::parse(text) {
        Err(error) => wrong(&error.to_string()),
        Ok(url) => {
            if url.scheme() != "https" {
                wrong("URL scheme must be https");
            }
            if !url.username().is_empty() || url.password().is_some() {
                wrong("URL must not contain a username or password");
            }
            if url.query().is_some_and(|query| !query.is_empty()) {
                wrong("URL must not contain a query");
            }
            if url.fragment().is_some_and(|fragment| !fragment.is_empty()) {
                wrong("URL must not contain a fragment");
            }
        }
    }
    errors
}

fn prefixed(mapping: &Mapping, path: &Path, required: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
        (false, false) => {
            let why = "claim and expression can't both be set";
            errors.push(FieldError::invalid(path, "", why));
        }
        (true, true) if required => {
            errors.push(FieldError::required(
                path,
                "claim or expression is required",
            ));
        }
        (true, true) => {}
        (true, false) => {
            if let Some(prefix) = &mapping.prefix {
                let path = path.child("prefix");
                let why = "may not be specified when expression is set";
                errors.push(FieldError::invalid(&path, prefix, why));
            }
            let path = path.child("expression");
            errors.extend(compiled(&mapping.expression, About::Claims, &path));
        }
        (false, true) => {
            if mapping.prefix.is_none() {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(FieldError::required(&path.child("prefix"), why));
            }
        }
    }
    errors
}

fn extra_key(key: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    if key.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if domain.is_empty() || key.ends_with('/') {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(path, key, why));
    }
    if key != key.to_lowercase() {
        errors.push(FieldError::invalid(path, key, "must be lowercase"));
    }
    let reserved = ["kubernetes.io", "k8s.io"].iter().any(|own| {
        let rest = domain.strip_suffix(own);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    if reserved {
        let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
        errors.push(FieldError::invalid(path, key, why));
    }
    errors
}

fn compiled(expression: &str, about: About, path: &Path) -> ErrorList {
    match Expression::compile(expression, about) {
        Ok(_) => ErrorList::new(),
        Err(why) => [FieldError::invalid(path, expression, &why)]
            .into_iter()
            .collect(),
    }
}

/// Whether an expression selects a claim: `claims.email`, `claims.?email`.
fn selects(expression: &str, claim: &str) -> bool {
    let dense: String = expression.chars().filter(|c| !c.is_whitespace()).collect();
    ["claims.", "claims.?"].iter().any(|of| {
        let wanted = format!("{of}{claim}");
        dense.match_indices(&wanted).any(|(at, found)| {
            let next = dense[at + found.len()..].chars().next();
            let before = dense[..at].chars().next_back();
            let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            !next.is_some_and(part) && !before.is_some_and(|c| part(c) || c == '.')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(yaml: &str) -> Vec<String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        let config = AuthenticationConfiguration::parse(&format!("{head}{yaml}")).unwrap();
        let ours = ["https://ours".to_owned()];
        config
            .validate(&ours)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_good_configuration_passes() {
        let yaml = "
jwt:
- issuer:
    url: https://issuer.example
    discoveryURL: https://other.example/.well-known/openid-configuration
    audiences: [a, b]
    audienceMatchPolicy: MatchAny
  claimValidationRules:
  - claim: hd
    requiredValue: example.com
  claimMappings:
    username: {claim: sub, prefix: 'oidc:'}
    groups: {claim: groups, prefix: ''}
    uid: {claim: sub}
anonymous:
  enabled: true
  conditions: [{path: /livez}]
";
        assert_eq!(texts(yaml), [""; 0]);
        let unknown =
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwts: []";
        assert!(AuthenticationConfiguration::parse(unknown).is_err());
        let other = "apiVersion: v1\nkind: AuthenticationConfiguration";
        assert_eq!(
            AuthenticationConfiguration::parse(other),
            Err(
                "no kind \"AuthenticationConfiguration\" is registered for version \"v1\""
                    .to_owned()
            )
        );
    }

    #[test]
    fn mistakes_are_told_by_their_path() {
        let yaml = "
jwt:
- issuer: {url: 'http://u:p@issuer?q#f', audiences: []}
  claimMappings:
    username: {claim: sub}
- issuer: {url: https://ours, discoveryURL: 'https://ours/', audiences: [a, a]}
  claimValidationRules:
  - {claim: a, message: m}
  - {}
  claimMappings:
    username: {claim: sub, expression: claims.sub, prefix: ''}
    extra:
    - {key: a.kubernetes.io/X}
anonymous: {enabled: false, conditions: [{path: /a}]}
";
        assert_eq!(
            texts(yaml),
            [
                "jwt[0].issuer.url: Invalid value: \"http://u:p@issuer?q#f\": URL scheme must be https",
                "jwt[0].issuer.url: Invalid value: \"http://u:p@issuer?q#f\": URL must not contain a username or password",
                "jwt[0].issuer.url: Invalid value: \"http://u:p@issuer?q#f\": URL must not contain a query",
                "jwt[0].issuer.url: Invalid value: \"http://u:p@issuer?q#f\": URL must not contain a fragment",
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
                "jwt[1].issuer.url: Invalid value: \"https://ours\": URL must not overlap with disallowed issuers: [https://ours]",
                "jwt[1].issuer.discoveryURL: Invalid value: \"https://ours/\": discoveryURL must be different from URL",
                "jwt[1].issuer.audiences[1]: Duplicate value: \"a\"",
                "jwt[1].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
                "jwt[1].claimValidationRules[0].message: Invalid value: \"m\": may not be specified when claim is set",
                "jwt[1].claimValidationRules[1]: Required value: claim or expression is required",
                "jwt[1].claimMappings.username: Invalid value: \"\": claim and expression can't both be set",
                "jwt[1].claimMappings.extra[0].key: Invalid value: \"a.kubernetes.io/X\": must be lowercase",
                "jwt[1].claimMappings.extra[0].key: Invalid value: \"a.kubernetes.io/X\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
                "jwt[1].claimMappings.extra[0].valueExpression: Required value",
                "anonymous.conditions: Invalid value: \"\": enabled should be set to true when conditions are defined",
            ]
        );
    }

    #[test]
    fn an_address_as_name_must_be_verified() {
        assert!(selects("claims.email + 'x'", "email"));
        assert!(selects("claims.?email.orValue('')", "email"));
        assert!(!selects("claims.email_verified", "email"));
        assert!(!selects("user.claims.email", "email"));
    }
}
