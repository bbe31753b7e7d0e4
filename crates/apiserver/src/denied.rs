//! The words in which a request is refused for lack of rights.

use skiff_api::ApiError;

use crate::request::Attributes;

/// The 403 for attributes that no authorizer allowed.
#[must_use]
pub fn denial(attributes: &Attributes, reason: &str) -> ApiError {
    let user = &attributes.user.name;
    let mut why = if attributes.is_resource {
        let mut resource = attributes.resource.clone();
        if !attributes.subresource.is_empty() {
            resource = format!("{resource}/{}", attributes.subresource);
        }
        let place = if attributes.namespace.is_empty()
            || attributes.resource == "namespaces" && attributes.name.is_empty()
        {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", attributes.namespace)
        };
        format!(
            "User {user:?} cannot {} resource {resource:?} in API group {:?} {place}",
            attributes.verb, attributes.group
        )
    } else {
        format!(
            "User {user:?} cannot {} path {:?}",
            attributes.verb, attributes.path
        )
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    ApiError::forbidden(
        &attributes.group,
        &attributes.resource,
        &attributes.name,
        &why,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserInfo;
    use std::sync::Arc;

    #[test]
    fn names_user_verb_and_place() {
        let mut attributes = Attributes {
            user: Arc::new(UserInfo::new("jane", &[])),
            verb: "list".into(),
            namespace: "default".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            is_resource: true,
            ..Attributes::default()
        };
        assert_eq!(
            denial(&attributes, "").message,
            r#"deployments.apps is forbidden: User "jane" cannot list resource "deployments" in API group "apps" in the namespace "default""#
        );
        attributes.namespace.clear();
        attributes.name = "web".into();
        assert_eq!(
            denial(&attributes, "because").message,
            r#"deployments.apps "web" is forbidden: User "jane" cannot list resource "deployments" in API group "apps" at the cluster scope: because"#
        );
        let path = Attributes {
            path: "/metrics".into(),
            verb: "get".into(),
            user: attributes.user,
            ..Attributes::default()
        };
        assert_eq!(
            denial(&path, "").message,
            r#"forbidden: User "jane" cannot get path "/metrics""#
        );
    }
}
