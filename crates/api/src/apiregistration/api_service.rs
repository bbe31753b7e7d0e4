//! `APIService` (apiregistration.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceStatus,
};
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext};
use crate::printing;
use crate::validation::absent::default_value;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "apiregistration.k8s.io",
    version: "v1",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status(
        "apiregistration.k8s.io",
        "v1",
        "APIService",
    )],
    storage: "/registry/apiregistration.k8s.io/apiservices",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    conversion: None,
    ops: &Typed::<APIServiceStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Service",
        "string",
        "The service that serves the API, or Local.",
    ),
    Column::new("Available", "string", "Whether the API answers."),
    Column::AGE,
];

/// What is special about this kind.
pub struct APIServiceStrategy;

impl Strategy for APIServiceStrategy {
    type Object = APIService;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut APIService) {
        let service = object.spec.as_mut().and_then(|spec| spec.service.as_mut());
        if let Some(service) = service {
            default_value(&mut service.port, 443);
        }
    }

    /// The core's own is called `v1.`.
    fn name_errors(name: &str, prefix: bool) -> Vec<String> {
        crate::validation::names::path_segment_name(name, prefix)
    }

    fn prepare_create(object: &mut APIService, context: &WriteContext) {
        let local = object
            .spec
            .as_ref()
            .is_none_or(|spec| spec.service.is_none());
        // What this server serves itself is there at once.
        let conditions = local.then(|| {
            vec![APIServiceCondition {
                type_: "Available".to_owned(),
                status: "True".to_owned(),
                reason: Some("Local".to_owned()),
                message: Some("Local APIServices are always available".to_owned()),
                last_transition_time: Some(Time(context.now)),
            }]
        });
        object.status = Some(APIServiceStatus { conditions });
    }

    crate::kind::keep_status!(update);

    fn validate_create(object: &APIService) -> ErrorList {
        crate::validation::apiregistration::validate_api_service(object)
    }

    fn validate_status_update(new: &APIService, _: &APIService) -> ErrorList {
        crate::validation::apiregistration::validate_api_service_status(new)
    }

    fn row(object: &APIService, now: Timestamp) -> Vec<Value> {
        let service = object
            .spec
            .as_ref()
            .and_then(|spec| spec.service.as_ref())
            .map_or_else(
                || "Local".to_owned(),
                |service| {
                    format!(
                        "{}/{}",
                        service.namespace.as_deref().unwrap_or_default(),
                        service.name.as_deref().unwrap_or_default()
                    )
                },
            );
        let conditions = object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let available = match conditions
            .iter()
            .find(|condition| condition.type_ == "Available")
        {
            None => "Unknown".to_owned(),
            Some(condition) if condition.status == "True" => "True".to_owned(),
            Some(condition) => {
                format!(
                    "{} ({})",
                    condition.status,
                    condition.reason.as_deref().unwrap_or_default()
                )
            }
        };
        vec![
            object.metadata.name.clone().into(),
            service.into(),
            available.into(),
            printing::age(&object.metadata, now),
        ]
    }
}
