//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or unreachable.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const SECONDS: i64 = 300;
const KEYS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

pub(crate) struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if writes
            && request.is("", "pods")
            && let Some(pod) = object.downcast_mut::<Pod>()
        {
            tolerate(pod);
        }
        Ok(())
    }
}

fn tolerate(pod: &mut Pod) {
    let tolerations = pod
        .spec
        .get_or_insert_default()
        .tolerations
        .get_or_insert_default();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    for key in KEYS {
        let tolerated = tolerations.iter().any(|toleration| {
            let for_key =
                matches!(text(&toleration.key).as_str(), "") || text(&toleration.key) == key;
            for_key && matches!(text(&toleration.effect).as_str(), "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(SECONDS),
                ..Toleration::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn adds_what_is_not_said() {
        let table = [
            (json!([]), 2),
            (json!([{"operator": "Exists"}]), 1),
            (
                json!([{"key": KEYS[0], "operator": "Exists", "effect": "NoExecute"}]),
                2,
            ),
            (
                json!([{"key": KEYS[0], "operator": "Exists", "effect": "NoSchedule"}]),
                3,
            ),
        ];
        for (have, count) in table {
            let mut pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"tolerations": have, "containers": []}}),
            )
            .unwrap();
            tolerate(&mut pod);
            tolerate(&mut pod);
            assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), count);
        }
    }
}
