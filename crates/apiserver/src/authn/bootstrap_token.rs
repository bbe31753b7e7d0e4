//! Bootstrap tokens: secrets in `kube-system` that let a new node ask for its certificate.

use base64::Engine as _;
use serde_json::Value;
use skiff_base::SharedClock;
use skiff_store::Store;
use subtle::ConstantTimeEq as _;

use crate::request::UserInfo;

/// Whether a bearer token has the form `abcdef.0123456789abcdef`; then (id, secret).
#[must_use]
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let good = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    (good(id, 6) && good(secret, 16)).then_some((id, secret))
}

/// The user of a bootstrap token that is known, allowed for authentication and not expired.
pub async fn user(token: &str, store: &dyn Store, clock: &SharedClock) -> Option<UserInfo> {
    let (id, secret) = split(token)?;
    let found = store
        .get(
            &format!("/registry/secrets/kube-system/bootstrap-token-{id}"),
            None,
        )
        .await
        .ok()??;
    let object: Value = serde_json::from_slice(&found.value).ok()?;
    judge(
        &object,
        id,
        secret,
        jiff::Timestamp::try_from(clock.now()).ok()?,
    )
}

fn judge(object: &Value, id: &str, secret: &str, now: jiff::Timestamp) -> Option<UserInfo> {
    if object["type"] != "bootstrap.kubernetes.io/token"
        || object["metadata"]["deletionTimestamp"].is_string()
    {
        return None;
    }
    let field = |name: &str| {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(object["data"][name].as_str()?)
            .ok()?;
        String::from_utf8(bytes).ok()
    };
    let same = |a: &str, b: &str| bool::from(a.as_bytes().ct_eq(b.as_bytes()));
    let alive = match field("expiration") {
        None => true,
        Some(at) => at.parse::<jiff::Timestamp>().is_ok_and(|at| at > now),
    };
    if !same(&field("token-secret")?, secret)
        || field("token-id")? != id
        || field("usage-bootstrap-authentication")? != "true"
        || !alive
    {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for group in field("auth-extra-groups")
        .unwrap_or_default()
        .split(',')
        .filter(|group| !group.is_empty())
    {
        // A token never gives membership outside its own prefix.
        groups.push(
            group
                .strip_prefix("system:bootstrappers:")
                .map(|_| group.to_owned())?,
        );
    }
    Some(UserInfo {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..UserInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(expiration: &str, groups: &str) -> Value {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        json!({"metadata": {}, "type": "bootstrap.kubernetes.io/token", "data": {
            "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"), "expiration": encode(expiration),
            "usage-bootstrap-authentication": encode("true"), "auth-extra-groups": encode(groups)}})
    }

    #[test]
    fn expired_wrong_or_greedy_tokens_are_refused() {
        let now: jiff::Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let good = secret("2026-07-01T00:00:00Z", "system:bootstrappers:x");
        let user = judge(&good, "abcdef", "0123456789abcdef", now).unwrap();
        assert_eq!(
            user.groups,
            ["system:bootstrappers", "system:bootstrappers:x"]
        );
        assert_eq!(judge(&good, "abcdef", "0123456789abcdeX", now), None);
        assert_eq!(
            judge(
                &secret("2026-05-01T00:00:00Z", ""),
                "abcdef",
                "0123456789abcdef",
                now
            ),
            None
        );
        assert_eq!(
            judge(
                &secret("2026-07-01T00:00:00Z", "system:masters"),
                "abcdef",
                "0123456789abcdef",
                now
            ),
            None
        );
    }
}
