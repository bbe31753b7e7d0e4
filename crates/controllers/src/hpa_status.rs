//! What an autoscaler says of itself. Pure.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::validation::quantity::Amount;

use crate::hpa_replicas::Tolerances;

/// How far off a target is near enough, where the autoscaler does not say.
const TOLERANCE: f64 = 0.1;

/// The tolerances of an autoscaler.
pub(crate) fn tolerances(object: &HorizontalPodAutoscaler) -> Tolerances {
    let behavior = object.spec.behavior.as_ref();
    let of = |rules: Option<&HPAScalingRules>| {
        let tolerance = rules.and_then(|rules| rules.tolerance.as_ref());
        let tolerance = tolerance.map(|found| Amount::of(found).milli_value() as f64 / 1000.0);
        tolerance.unwrap_or(TOLERANCE)
    };
    Tolerances {
        down: of(behavior.and_then(|both| both.scale_down.as_ref())),
        up: of(behavior.and_then(|both| both.scale_up.as_ref())),
    }
}

/// Sets a condition; its time is that of the last change of its status.
pub(crate) fn set_condition(
    status: &mut HorizontalPodAutoscalerStatus,
    type_: &str,
    truth: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter_mut().find(|found| found.type_ == type_);
    let since = known
        .as_ref()
        .filter(|known| known.status == truth)
        .and_then(|known| known.last_transition_time.clone());
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or_default());
    let condition = HorizontalPodAutoscalerCondition {
        type_: type_.to_owned(),
        status: truth.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(since.unwrap_or(now)),
    };
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}
