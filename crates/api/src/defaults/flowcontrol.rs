//! Defaults of the flowcontrol.apiserver.k8s.io group.

use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};

use crate::validation::absent::{default_number, default_value};

/// A FlowSchema.
pub fn default_flow_schema(schema: &mut FlowSchema) {
    let spec = schema.spec.get_or_insert_with(Default::default);
    default_number(&mut spec.matching_precedence, 1000);
    default_value(&mut schema.status, Default::default());
}

/// A PriorityLevelConfiguration.
pub fn default_priority_level_configuration(level: &mut PriorityLevelConfiguration) {
    let spec = level.spec.get_or_insert_with(Default::default);
    if let Some(exempt) = &mut spec.exempt {
        default_value(&mut exempt.nominal_concurrency_shares, 0);
        default_value(&mut exempt.lendable_percent, 0);
    }
    if let Some(limited) = &mut spec.limited {
        default_value(&mut limited.nominal_concurrency_shares, 30);
        default_value(&mut limited.lendable_percent, 0);
        let response = limited.limit_response.get_or_insert_with(Default::default);
        if let Some(queuing) = &mut response.queuing {
            default_number(&mut queuing.hand_size, 8);
            default_number(&mut queuing.queues, 64);
            default_number(&mut queuing.queue_length_limit, 50);
        }
    }
    default_value(&mut level.status, Default::default());
}
