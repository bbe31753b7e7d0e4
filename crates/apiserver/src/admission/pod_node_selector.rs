//! PodNodeSelector: a namespace says on which nodes its pods run.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::namespace_presence::selector_map;
use super::{Admission, AdmissionRequest, Operation};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const DEFAULT: &str = "clusterDefaultNodeSelector";

/// The selectors of the configuration: the default, and what is allowed at most per namespace.
pub(crate) struct PodNodeSelector {
    selectors: BTreeMap<String, String>,
}

type Labels = BTreeMap<String, String>;

#[derive(Deserialize, Default)]
struct Configuration {
    #[serde(default, rename = "podNodeSelectorPluginConfig")]
    selectors: Labels,
}

impl PodNodeSelector {
    pub fn new(configuration: &Value) -> Result<Self, String> {
        let read = match configuration {
            Value::Null => Configuration::default(),
            given => Configuration::deserialize(given).map_err(|error| error.to_string())?,
        };
        Ok(Self {
            selectors: read.selectors,
        })
    }

    /// The selector of a namespace.
    fn of_namespace(&self, annotations: &Labels) -> ApiResult<Labels> {
        match annotations.get(ANNOTATION) {
            Some(own) => selector_map(own),
            None => selector_map(self.selectors.get(DEFAULT).map_or("", String::as_str)),
        }
    }

    /// Why a pod's selector does not go with that of its namespace; `None` when it does.
    fn conflict(&self, namespace: &str, wanted: &Labels, own: &Labels) -> ApiResult<Option<&str>> {
        let differs =
            |(key, value): (&String, &String)| own.get(key).is_some_and(|own| own != value);
        if wanted.iter().any(differs) {
            return Ok(Some(
                "pod node label selector conflicts with its namespace node label selector",
            ));
        }
        let allowed = selector_map(self.selectors.get(namespace).map_or("", String::as_str))?;
        let within = allowed.is_empty()
            || own
                .iter()
                .all(|(key, value)| allowed.get(key) == Some(value));
        Ok((!within)
            .then_some("pod node label selector labels conflict with its namespace whitelist"))
    }

    async fn judge(&self, request: &AdmissionRequest<'_>, own: &mut Labels) -> ApiResult<()> {
        let annotations = request.namespace_annotations().await?;
        let wanted = self.of_namespace(&annotations)?;
        let mut merged = wanted.clone();
        merged.extend(own.clone());
        match self.conflict(request.namespace, &wanted, &merged)? {
            Some(why) => Err(refused(request, why)),
            None => {
                *own = merged;
                Ok(())
            }
        }
    }
}

fn refused(request: &AdmissionRequest<'_>, why: &str) -> ApiError {
    request.forbidden(why)
}

#[async_trait]
impl Admission for PodNodeSelector {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation == Operation::Create
            && request.is("", "pods")
            && let Some(pod) = object.downcast_mut::<Pod>()
        {
            let spec = pod.spec.get_or_insert_default();
            let mut own = spec.node_selector.take().unwrap_or_default();
            self.judge(request, &mut own).await?;
            spec.node_selector = Some(own).filter(|own| !own.is_empty());
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let pod = object.and_then(|object| object.downcast_ref::<Pod>());
        if request.operation == Operation::Create
            && request.is("", "pods")
            && let Some(spec) = pod.and_then(|pod| pod.spec.as_ref())
        {
            let mut own = spec.node_selector.clone().unwrap_or_default();
            self.judge(request, &mut own).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_namespace_selector_and_what_is_allowed() {
        let labels = |text: &str| selector_map(text).unwrap();
        let plugin = PodNodeSelector::new(&json!({"podNodeSelectorPluginConfig":
            {"clusterDefaultNodeSelector": "disk=slow", "web": "zone=a,disk=fast"}}))
        .unwrap();
        assert_eq!(plugin.of_namespace(&Labels::new()), Ok(labels("disk=slow")));
        let annotated = Labels::from([(ANNOTATION.to_owned(), "zone=a".to_owned())]);
        assert_eq!(plugin.of_namespace(&annotated), Ok(labels("zone=a")));
        for (namespace, wanted, own, refused) in [
            ("other", "zone=a", "zone=a,disk=odd", None),
            ("other", "zone=a", "zone=b", Some("node label selector")),
            ("web", "zone=a", "zone=a,disk=fast", None),
            ("web", "", "disk=slow", Some("whitelist")),
        ] {
            let why = plugin
                .conflict(namespace, &labels(wanted), &labels(own))
                .unwrap();
            assert_eq!(why.is_some(), refused.is_some(), "{own}");
            assert!(
                why.unwrap_or_default()
                    .contains(refused.unwrap_or_default())
            );
        }
        assert!(selector_map("a").is_err());
    }
}
