//! The table of every kind that is built in, in the order in which discovery shows them.

use crate::kind::Kind;

/// Every built-in resource, in discovery's order. `autoscaling` and the core and `events.k8s.io` events have two
/// entries over one storage prefix; [`Kind::conversion`] says which of them is stored.
#[must_use]
pub fn kinds() -> &'static [Kind] {
    KINDS
}

/// Kinds that are no resources of their own: what subresources read and write.
#[must_use]
pub fn subresource_kinds() -> &'static [Kind] {
    SUBRESOURCE_KINDS
}

/// Every kind of every version, served by default or not.
pub(crate) fn known_kinds() -> impl Iterator<Item = &'static Kind> {
    let usual = SUBRESOURCE_KINDS.iter().chain(KINDS);
    usual.chain(crate::runtime_config::optional())
}

static SUBRESOURCE_KINDS: &[Kind] = &[
    crate::autoscaling::scale::KIND,
    crate::policy::eviction::KIND,
    crate::authentication::token_request::KIND,
];

static KINDS: &[Kind] = &[
    crate::core::binding::KIND,
    crate::core::component_status::KIND,
    crate::core::config_map::KIND,
    crate::core::endpoints::KIND,
    crate::core::event::KIND,
    crate::core::limit_range::KIND,
    crate::core::namespace::KIND,
    crate::core::node::KIND,
    crate::core::persistent_volume_claim::KIND,
    crate::core::persistent_volume::KIND,
    crate::core::pod::KIND,
    crate::core::pod_template::KIND,
    crate::core::replication_controller::KIND,
    crate::core::resource_quota::KIND,
    crate::core::secret::KIND,
    crate::core::service_account::KIND,
    crate::core::service::KIND,
    crate::apiregistration::api_service::KIND,
    crate::apps::controller_revision::KIND,
    crate::apps::daemon_set::KIND,
    crate::apps::deployment::KIND,
    crate::apps::replica_set::KIND,
    crate::apps::stateful_set::KIND,
    crate::events::event::KIND,
    crate::authentication::self_subject_review::KIND,
    crate::authentication::token_review::KIND,
    crate::authorization::local_subject_access_review::KIND,
    crate::authorization::self_subject_access_review::KIND,
    crate::authorization::self_subject_rules_review::KIND,
    crate::authorization::subject_access_review::KIND,
    crate::autoscaling::horizontal_pod_autoscaler::KIND,
    crate::autoscaling::horizontal_pod_autoscaler_v1::KIND,
    crate::batch::cron_job::KIND,
    crate::batch::job::KIND,
    crate::certificates::certificate_signing_request::KIND,
    crate::networking::ingress_class::KIND,
    crate::networking::ingress::KIND,
    crate::networking::ip_address::KIND,
    crate::networking::network_policy::KIND,
    crate::networking::service_cidr::KIND,
    crate::policy::pod_disruption_budget::KIND,
    crate::rbac::cluster_role_binding::KIND,
    crate::rbac::cluster_role::KIND,
    crate::rbac::role_binding::KIND,
    crate::rbac::role::KIND,
    crate::storage::csi_driver::KIND,
    crate::storage::csi_node::KIND,
    crate::storage::csi_storage_capacity::KIND,
    crate::storage::storage_class::KIND,
    crate::storage::volume_attachment::KIND,
    crate::storage::volume_attributes_class::KIND,
    crate::admissionregistration::mutating_admission_policy::KIND,
    crate::admissionregistration::mutating_admission_policy_binding::KIND,
    crate::admissionregistration::mutating_webhook_configuration::KIND,
    crate::admissionregistration::validating_admission_policy::KIND,
    crate::admissionregistration::validating_admission_policy_binding::KIND,
    crate::admissionregistration::validating_webhook_configuration::KIND,
    crate::apiextensions::custom_resource_definition::KIND,
    crate::scheduling::priority_class::KIND,
    crate::coordination::lease::KIND,
    crate::node::runtime_class::KIND,
    crate::discovery::endpoint_slice::KIND,
    crate::resource::device_class::KIND,
    crate::resource::resource_claim::KIND,
    crate::resource::resource_claim_template::KIND,
    crate::resource::resource_slice::KIND,
    crate::flowcontrol::flow_schema::KIND,
    crate::flowcontrol::priority_level_configuration::KIND,
];

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::kind::Verb;

    #[test]
    fn every_kind_is_there_once_and_served_in_one_group_after_the_other() {
        let mut seen = BTreeSet::new();
        let mut groups: Vec<&str> = Vec::new();
        for kind in kinds() {
            assert!(
                seen.insert((kind.group, kind.version, kind.plural)),
                "{} twice",
                kind.plural
            );
            if groups.last() != Some(&kind.group) {
                assert!(
                    !groups.contains(&kind.group),
                    "{} is torn apart",
                    kind.group
                );
                groups.push(kind.group);
            }
        }
        assert_eq!(groups.len(), 21);
    }

    #[test]
    fn a_storage_prefix_belongs_to_one_stored_kind() {
        let stored: Vec<&str> = kinds()
            .iter()
            .filter(|kind| kind.is_stored() && kind.conversion.is_none())
            .map(|kind| kind.storage)
            .collect();
        assert_eq!(stored.len(), stored.iter().collect::<BTreeSet<_>>().len());
        for kind in kinds().iter().filter(|kind| kind.conversion.is_some()) {
            assert!(
                stored.contains(&kind.storage),
                "{} is stored by none",
                kind.kind
            );
        }
        for kind in kinds() {
            assert_eq!(
                kind.is_stored(),
                kind.verbs.contains(&Verb::Update),
                "{}",
                kind.kind
            );
        }
    }

    #[test]
    fn rows_have_a_cell_for_each_column() {
        for kind in kinds().iter().chain(subresource_kinds()) {
            let object = kind
                .ops
                .decode(Cow::Owned(json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "a"}})))
                .unwrap();
            let row = kind.ops.row(&*object, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(row.len(), kind.columns.len(), "{}", kind.kind);
            let name = kind
                .columns
                .iter()
                .position(|column| column.name == "Name")
                .unwrap();
            assert_eq!(row[name], "a", "{}", kind.kind);
        }
    }

    #[test]
    fn absent_fields_read_as_zero_values() {
        let pods = kinds().iter().find(|kind| kind.plural == "pods").unwrap();
        let values = pods.field_values(&json!({"spec": {"nodeName": "n"}}));
        assert!(values.contains(&("spec.nodeName", "n".to_owned())));
        assert!(values.contains(&("spec.hostNetwork", "false".to_owned())));
        assert!(values.contains(&("status.podIP", String::new())));
    }
}
