//! Acting as another: a user who may sends the other's name, groups, uid and extra as headers.
//!
//! There are five ways of being allowed to, tried in order. The constrained ones (`impersonate:<mode>` on whom, and
//! `impersonate-on:<mode>:<verb>` on what is done) name the kind of the other; the last one is the plain `impersonate`, which
//! is good for anybody and anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use skiff_api::{ApiError, ApiResult};

use crate::denied::denial;
use crate::request::{Attributes, RequestInfo, UserInfo, decode};
use crate::seam::Notes;
use crate::server::ApiServer;

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const EXTRA: &str = "impersonate-extra-";

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const MASTERS: &str = "system:masters";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// So many groups or values are worth one question about all of them.
const MANY: usize = 4;

/// A way of being allowed to act as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account acts as the node that its pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

const MODES: [Mode; 5] = [
    Mode::AssociatedNode,
    Mode::ArbitraryNode,
    Mode::ServiceAccount,
    Mode::UserInfo,
    Mode::Legacy,
];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn verb(self) -> String {
        match self {
            Self::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        }
    }

    /// Whether the mode is for this pair of users at all.
    fn applies(self, requestor: &UserInfo, wanted: &UserInfo) -> bool {
        let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_name(&wanted.name);
        let account = service_account(&wanted.name).is_some();
        match self {
            Self::AssociatedNode => {
                let own = requestor.extra.get(NODE_NAME).map(Vec::as_slice);
                bare && node.is_some()
                    && service_account(&requestor.name).is_some()
                    && matches!(own, Some([own]) if Some(own.as_str()) == node)
            }
            Self::ArbitraryNode => bare && node.is_some(),
            Self::ServiceAccount => bare && account,
            Self::UserInfo => node.is_none() && !account,
            Self::Legacy => true,
        }
    }
}

/// The user of a request, after it was seen whether it acts as another. The headers are taken out.
pub(crate) async fn resolve(
    server: &ApiServer,
    user: Arc<UserInfo>,
    info: &RequestInfo,
    parts: &mut http::request::Parts,
) -> ApiResult<Arc<UserInfo>> {
    let Some(wanted) = wanted(&parts.headers)? else {
        return Ok(user);
    };
    let names: Vec<HeaderName> = parts
        .headers
        .keys()
        .filter(|name| is_ours(name))
        .cloned()
        .collect();
    for name in names {
        parts.headers.remove(name);
    }
    let request = info.attributes(user.clone(), parts.uri.query());
    let mut refusal = None;
    for mode in MODES
        .into_iter()
        .filter(|mode| mode.applies(&user, &wanted))
    {
        match allowed(server, mode, &user, &wanted, &request).await {
            Ok(actual) => {
                tracing::debug!(user = user.name, as_user = actual.name, "impersonation");
                if let Some(notes) = parts.extensions.get::<Notes>()
                    && mode != Mode::Legacy
                {
                    notes.annotate(
                        "authentication.k8s.io/impersonation-constraint",
                        mode.verb(),
                    );
                }
                return Ok(Arc::new(actual));
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
}

fn is_ours(name: &HeaderName) -> bool {
    [USER, GROUP, UID].contains(name) || name.as_str().starts_with(EXTRA)
}

/// Whom the headers name, as they stand.
fn wanted(headers: &HeaderMap) -> ApiResult<Option<UserInfo>> {
    if !headers.keys().any(is_ours) {
        return Ok(None);
    }
    let texts = |name: &HeaderName| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    };
    let first = |name: &HeaderName| texts(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let values = extra.entry(decode(key)).or_default();
            values.extend(texts(header));
        }
    }
    let user = UserInfo {
        name: first(&USER),
        uid: first(&UID),
        groups: texts(&GROUP),
        extra,
    };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == UserInfo::default() {
        return Ok(None);
    }
    Err(ApiError::bad_request(format!(
        "requested {} without impersonating a user name",
        shown(&user)
    )))
}

/// A user as upstream prints the structure.
fn shown(user: &UserInfo) -> String {
    let list = |values: &[String]| {
        let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        match values.is_empty() {
            true => "[]string(nil)".to_owned(),
            false => format!("[]string{{{}}}", values.join(", ")),
        }
    };
    let extra: Vec<String> = user
        .extra
        .iter()
        .map(|(key, values)| format!("{key:?}:{}", list(values)))
        .collect();
    let extra = match extra.is_empty() {
        true => "map[string][]string(nil)".to_owned(),
        false => format!("map[string][]string{{{}}}", extra.join(", ")),
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{}, Extra:{extra}}}",
        user.name,
        user.uid,
        list(&user.groups)
    )
}

/// The user that the requestor acts as, when the mode allows it.
async fn allowed(
    server: &ApiServer,
    mode: Mode,
    requestor: &Arc<UserInfo>,
    wanted: &UserInfo,
    request: &Attributes,
) -> ApiResult<UserInfo> {
    let asking = Asking {
        server,
        mode,
        requestor: match mode {
            Mode::AssociatedNode => Arc::new(associated(requestor)),
            _ => requestor.clone(),
        },
    };
    if mode != Mode::Legacy {
        let on = Attributes {
            user: asking.requestor.clone(),
            verb: format!("impersonate-on:{}:{}", mode.name(), request.verb),
            ..request.clone()
        };
        server.check(&on).await?;
    }
    let mut actual = wanted.clone();
    asking.name(wanted, &mut actual).await?;
    if !wanted.uid.is_empty() {
        asking.check("uids", "", &wanted.uid).await?;
    }
    asking.groups(&wanted.groups).await?;
    asking.extra(&wanted.extra).await?;
    let standing = if actual.name == "system:anonymous" {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    if !actual.in_group(standing) && !actual.in_group(UNAUTHENTICATED) {
        actual.groups.push(standing.to_owned());
    }
    Ok(actual)
}

/// The account of a node's agent, as it is asked about: the same for the agents of all nodes.
fn associated(requestor: &UserInfo) -> UserInfo {
    let keys = requestor.extra.keys().cloned().collect();
    UserInfo {
        extra: BTreeMap::from([(
            "authentication.kubernetes.io/associated-node-keys".to_owned(),
            keys,
        )]),
        ..requestor.clone()
    }
}

/// The questions about one pair of users.
struct Asking<'a> {
    server: &'a ApiServer,
    mode: Mode,
    requestor: Arc<UserInfo>,
}

impl Asking<'_> {
    fn attributes(&self, resource: &str, subresource: &str, name: &str) -> Attributes {
        // Users, groups and accounts are of the core group to the plain right.
        let core = self.mode == Mode::Legacy && !matches!(resource, "uids" | "userextras");
        Attributes {
            user: self.requestor.clone(),
            verb: self.mode.verb(),
            group: if core { "" } else { "authentication.k8s.io" }.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    async fn check(&self, resource: &str, subresource: &str, name: &str) -> ApiResult<()> {
        let attributes = self.attributes(resource, subresource, name);
        self.server.check(&attributes).await
    }

    async fn name(&self, wanted: &UserInfo, actual: &mut UserInfo) -> ApiResult<()> {
        if let Some((namespace, name)) = service_account(&wanted.name) {
            if wanted.groups.is_empty() {
                actual.groups = vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                ];
            }
            let attributes = Attributes {
                namespace: namespace.to_owned(),
                ..self.attributes("serviceaccounts", "", name)
            };
            return self.server.check(&attributes).await;
        }
        match node_name(&wanted.name) {
            Some(node) if self.mode != Mode::Legacy => {
                actual.groups = vec!["system:nodes".to_owned()];
                let node = match self.mode {
                    // An agent may be any node that it runs on.
                    Mode::AssociatedNode => "*",
                    _ => node,
                };
                self.check("nodes", "", node).await
            }
            _ => self.check("users", "", &wanted.name).await,
        }
    }

    async fn groups(&self, groups: &[String]) -> ApiResult<()> {
        if self.mode != Mode::Legacy {
            let refuse =
                |name: &str, why: &str| Err(denial(&self.attributes("groups", "", name), why));
            if groups.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|group| group == MASTERS) {
                return refuse(
                    MASTERS,
                    "impersonating the system:masters group is not allowed",
                );
            }
            if groups.len() >= MANY && self.check("groups", "", "*").await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.check("groups", "", group).await?;
        }
        Ok(())
    }

    async fn extra(&self, extra: &BTreeMap<String, Vec<String>>) -> ApiResult<()> {
        if self.mode != Mode::Legacy && !extra.is_empty() {
            if let Err(why) = check_extra(extra) {
                return Err(denial(&self.attributes("userextras", "", ""), &why));
            }
            let values: usize = extra.values().map(Vec::len).sum();
            let many = extra.len() >= MANY || values >= MANY;
            if many && self.check("userextras", "*", "*").await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.check("userextras", key, value).await?;
            }
        }
        Ok(())
    }
}

/// What the constrained modes do not take as extra.
fn check_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        let why = if key.is_empty() {
            "impersonating the empty string key in extra is not allowed".to_owned()
        } else if key
            .split_once('/')
            .is_none_or(|(domain, path)| !is_subdomain(&domain.to_lowercase()) || path.is_empty())
        {
            format!(
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"
            )
        } else if *key != key.to_lowercase() {
            format!("impersonating a non-lowercase key in extra is not allowed: {key:?}")
        } else if values.is_empty() {
            "impersonating empty values in extra is not allowed".to_owned()
        } else if values.iter().any(String::is_empty) {
            "impersonating the empty string value in extra is not allowed".to_owned()
        } else {
            continue;
        };
        return Err(why);
    }
    Ok(())
}

pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    let label = |text: &str| is_subdomain(text) && !text.contains('.') && text.len() <= 63;
    (label(namespace) && is_subdomain(name)).then_some((namespace, name))
}

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:")
        .filter(|name| is_subdomain(name))
}

/// Whether a text is a DNS subdomain.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.iter().all(|c| inner(*c) || *c == b'-')
            && bytes.first().copied().is_some_and(inner)
            && bytes.last().copied().is_some_and(inner)
    };
    text.len() <= 253 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn headers_name_a_user() {
        assert_eq!(wanted(&headers(&[("accept", "*/*")])).unwrap(), None);
        let found = wanted(&headers(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "dev"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-a%2fb", "x"),
        ]))
        .unwrap()
        .unwrap();
        assert_eq!(found.groups, ["dev", "ops"]);
        assert_eq!(found.extra["a/b"], ["x"]);
        assert_eq!((found.name.as_str(), found.uid.as_str()), ("jane", "7"));
        let error = wanted(&headers(&[("Impersonate-Group", "dev")])).unwrap_err();
        assert_eq!(error.code, 400);
        assert_eq!(
            error.message,
            r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"dev"}, Extra:map[string][]string(nil)} without impersonating a user name"#
        );
    }

    #[test]
    fn each_mode_is_for_its_kind_of_user() {
        let agent = UserInfo {
            extra: BTreeMap::from([(NODE_NAME.to_owned(), vec!["n1".to_owned()])]),
            ..UserInfo::new("system:serviceaccount:a:agent", &[])
        };
        let modes = |name: &str, groups: &[&str]| -> Vec<Mode> {
            let wanted = UserInfo::new(name, groups);
            let all = MODES.into_iter();
            all.filter(|mode| mode.applies(&agent, &wanted)).collect()
        };
        assert_eq!(
            modes("system:node:n1", &[]),
            [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Legacy]
        );
        assert_eq!(
            modes("system:node:n2", &[]),
            [Mode::ArbitraryNode, Mode::Legacy]
        );
        assert_eq!(modes("system:node:n1", &["x"]), [Mode::Legacy]);
        assert_eq!(
            modes("system:serviceaccount:a:b", &[]),
            [Mode::ServiceAccount, Mode::Legacy]
        );
        assert_eq!(modes("jane", &["x"]), [Mode::UserInfo, Mode::Legacy]);
    }

    #[test]
    fn extra_of_the_constrained_modes_is_well_formed() {
        let extra = |key: &str, value: &str| {
            check_extra(&BTreeMap::from([(key.to_owned(), vec![value.to_owned()])]))
        };
        assert_eq!(extra("example.org/team", "a"), Ok(()));
        for (key, value) in [
            ("", "a"),
            ("team", "a"),
            ("example.org/Team", "a"),
            ("example.org/t", ""),
        ] {
            assert!(extra(key, value).is_err(), "{key}");
        }
    }
}
