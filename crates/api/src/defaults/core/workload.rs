//! Defaults of ReplicationControllers.

use k8s_openapi::api::core::v1::ReplicationController;

use super::pod::default_pod_template_spec;
use crate::validation::absent::{count, default_value};

/// A ReplicationController: its selector and labels are its template's where it has none.
pub fn default_replication_controller(controller: &mut ReplicationController) {
    let spec = controller.spec.get_or_insert_with(Default::default);
    let labels = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref())
        .and_then(|meta| meta.labels.clone());
    if let Some(labels) = labels {
        if count(&spec.selector) == 0 {
            spec.selector = Some(labels.clone());
        }
        if count(&controller.metadata.labels) == 0 {
            controller.metadata.labels = Some(labels);
        }
    }
    default_value(&mut spec.replicas, 1);
    if let Some(template) = &mut spec.template {
        default_pod_template_spec(template);
    }
    default_value(&mut controller.status, Default::default());
}
