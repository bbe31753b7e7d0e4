//! AlwaysPullImages: every pod's images are pulled at each start, so that nobody runs an image that he may not pull.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};

use super::{Admission, AdmissionRequest, Operation};

const ALWAYS: &str = "Always";

pub(crate) struct AlwaysPullImages;

/// Calls with the path, the image and the policy of every container.
fn each(spec: &mut PodSpec, visit: &mut dyn FnMut(Path, &str, &mut Option<String>)) {
    let path = Path::new("spec");
    macro_rules! visit_all {
        ($name:literal, $list:expr) => {
            for (index, one) in $list.enumerate() {
                let image = one.image.clone().unwrap_or_default();
                visit(
                    path.child($name).index(index),
                    &image,
                    &mut one.image_pull_policy,
                );
            }
        };
    }
    visit_all!("initContainers", spec.init_containers.iter_mut().flatten());
    visit_all!("containers", spec.containers.iter_mut());
    visit_all!(
        "ephemeralContainers",
        spec.ephemeral_containers.iter_mut().flatten()
    );
}

fn images(pod: &Pod) -> Vec<String> {
    let mut images = Vec::new();
    if let Some(mut spec) = pod.spec.clone() {
        each(&mut spec, &mut |_, image, _| images.push(image.to_owned()));
    }
    images
}

/// Whether the plugin has nothing to say: no pod, or an update without an image that the pod did not have.
fn ignores(request: &AdmissionRequest<'_>, pod: Option<&Pod>, old: Option<&dyn Object>) -> bool {
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    let (true, true, Some(pod)) = (written, request.is("", "pods"), pod) else {
        return true;
    };
    let Some(old) = old.and_then(|old| old.downcast_ref::<Pod>()) else {
        return false;
    };
    let had = images(old);
    images(pod).iter().all(|image| had.contains(image))
}

#[async_trait]
impl Admission for AlwaysPullImages {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if ignores(request, object.downcast_ref(), old) {
            return Ok(());
        }
        let pod = object.downcast_mut::<Pod>();
        if let Some(spec) = pod.and_then(|pod| pod.spec.as_mut()) {
            each(spec, &mut |_, _, policy| *policy = Some(ALWAYS.to_owned()));
            let volumes = spec.volumes.iter_mut().flatten();
            for image in volumes.filter_map(|volume| volume.image.as_mut()) {
                image.pull_policy = Some(ALWAYS.to_owned());
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let pod = object.and_then(|object| object.downcast_ref::<Pod>());
        if ignores(request, pod, old) {
            return Ok(());
        }
        let mut spec = pod.and_then(|pod| pod.spec.clone()).unwrap_or_default();
        let mut errors = Vec::new();
        let mut other = |path: &Path, policy: &Option<String>| {
            if policy.as_deref() != Some(ALWAYS) {
                let policy = policy.clone().unwrap_or_default();
                errors.push(FieldError::not_supported(path, policy, &[ALWAYS]));
            }
        };
        each(&mut spec, &mut |path, _, policy| {
            other(&path.child("imagePullPolicy"), policy);
        });
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            if let Some(image) = &volume.image {
                let path = Path::new("spec").child("volumes").index(index);
                other(&path.child("image").child("pullPolicy"), &image.pull_policy);
            }
        }
        let messages: Vec<String> = errors
            .iter()
            .map(|error| request.forbidden(&error.to_string()).message)
            .collect();
        match messages.as_slice() {
            [] => Ok(()),
            // Upstream makes one plain error of several, which is no API error.
            [one] => Err(ApiError::new(500, "", one.clone())),
            many => Err(ApiError::new(500, "", format!("[{}]", many.join(", ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_containers_are_visited() {
        let container = |name: &str| json!({"name": name, "image": name});
        let mut spec: PodSpec = serde_json::from_value(json!({"containers": [container("a")],
            "initContainers": [container("b")], "ephemeralContainers": [container("c")]}))
        .unwrap();
        let mut seen = Vec::new();
        each(&mut spec, &mut |path, image, policy| {
            seen.push(format!("{path} {image}"));
            *policy = Some(ALWAYS.to_owned());
        });
        assert_eq!(
            seen,
            [
                "spec.initContainers[0] b",
                "spec.containers[0] a",
                "spec.ephemeralContainers[0] c"
            ]
        );
        assert_eq!(
            spec.containers[0].image_pull_policy.as_deref(),
            Some(ALWAYS)
        );
    }
}
