//! Acting as another: a user who may `impersonate` sends the other's name, groups, uid and extra as headers.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use skiff_api::{ApiError, ApiResult};

use crate::request::{Attributes, UserInfo, decode};
use crate::server::ApiServer;

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const EXTRA: &str = "impersonate-extra-";

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// What a request wants to act as.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    user: UserInfo,
    /// What must be allowed: resource, subresource, group, namespace, name.
    needs: Vec<[String; 5]>,
}

/// The user of a request, after it was seen whether it acts as another. The headers are taken out.
pub(crate) async fn resolve(
    server: &ApiServer,
    user: Arc<UserInfo>,
    headers: &mut HeaderMap,
) -> ApiResult<Arc<UserInfo>> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(user);
    };
    for [resource, subresource, group, namespace, name] in wanted.needs {
        let attributes = Attributes {
            user: user.clone(),
            verb: "impersonate".to_owned(),
            version: if group.is_empty() { "" } else { "v1" }.to_owned(),
            namespace,
            group,
            resource,
            subresource,
            name,
            is_resource: true,
            ..Attributes::default()
        };
        server.check(&attributes).await?;
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_ours(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
    tracing::debug!(
        user = user.name,
        as_user = wanted.user.name,
        "impersonation"
    );
    Ok(Arc::new(wanted.user))
}

fn is_ours(name: &HeaderName) -> bool {
    [USER, GROUP, UID].contains(name) || name.as_str().starts_with(EXTRA)
}

fn wanted(headers: &HeaderMap) -> ApiResult<Option<Wanted>> {
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
    let need = |resource: &str, subresource: &str, namespace: &str, name: &str| {
        let group = match resource {
            "userextras" | "uids" => "authentication.k8s.io",
            _ => "",
        };
        [resource, subresource, group, namespace, name].map(str::to_owned)
    };
    let name = first(&USER);
    let uid = first(&UID);
    let mut needs = Vec::new();
    let mut groups = texts(&GROUP);
    match service_account(&name) {
        Some((namespace, account)) => {
            needs.push(need("serviceaccounts", "", namespace, account));
            if groups.is_empty() {
                groups = vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                ];
            } else {
                needs.extend(groups.iter().map(|group| need("groups", "", "", group)));
            }
        }
        None => {
            if !name.is_empty() {
                needs.push(need("users", "", "", &name));
            }
            needs.extend(groups.iter().map(|group| need("groups", "", "", group)));
        }
    }
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        let Some(key) = header.as_str().strip_prefix(EXTRA) else {
            continue;
        };
        let key = decode(key);
        for value in texts(header) {
            needs.push(need("userextras", &key, "", &value));
            extra.entry(key.clone()).or_default().push(value);
        }
    }
    if !uid.is_empty() {
        needs.push(need("uids", "", "", &uid));
    }
    if name.is_empty() {
        if needs.is_empty() {
            return Ok(None);
        }
        let named: Vec<&str> = needs
            .iter()
            .map(|[resource, ..]| resource.as_str())
            .collect();
        return Err(ApiError::bad_request(format!(
            "requested [{}] without impersonating a user",
            named.join(" ")
        )));
    }
    let standing = if name == "system:anonymous" {
        UNAUTHENTICATED
    } else {
        AUTHENTICATED
    };
    let stands = groups
        .iter()
        .any(|group| group == standing || group == UNAUTHENTICATED);
    if !stands {
        groups.push(standing.to_owned());
    }
    let user = UserInfo {
        name,
        uid,
        groups,
        extra,
    };
    Ok(Some(Wanted { user, needs }))
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
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
    fn headers_name_a_user_and_what_must_be_allowed() {
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
        assert_eq!(found.user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(found.user.extra["a/b"], ["x"]);
        let needs: Vec<String> = found.needs.iter().map(|need| need.join(",")).collect();
        assert_eq!(
            needs,
            [
                "users,,,,jane",
                "groups,,,,dev",
                "groups,,,,ops",
                "userextras,a/b,authentication.k8s.io,,x",
                "uids,,authentication.k8s.io,,7"
            ]
        );
        let found = wanted(&headers(&[(
            "Impersonate-User",
            "system:serviceaccount:a:b",
        )]))
        .unwrap()
        .unwrap();
        assert_eq!(found.needs[0].join(","), "serviceaccounts,,,a,b");
        assert_eq!(
            found.user.groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:a",
                "system:authenticated"
            ]
        );
        let found = wanted(&headers(&[("Impersonate-User", "system:anonymous")]));
        assert_eq!(
            found.unwrap().unwrap().user.groups,
            ["system:unauthenticated"]
        );
        let error = wanted(&headers(&[("Impersonate-Group", "dev")])).unwrap_err();
        assert_eq!(error.code, 400);
    }
}
