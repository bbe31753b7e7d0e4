//! What each of an autoscaler's metrics asks for.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus,
    HorizontalPodAutoscaler, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::validation::quantity::Amount;

use crate::disruption_plan::shown_selector;
use crate::hpa_readings::MetricsReader;
use crate::hpa_replicas::{
    Proposal, Question, Tolerances, by_average, by_share, by_utilization, by_value,
};
use crate::seen_pod::Pod;

/// An autoscaler and its target.
pub(crate) struct Asked<'a> {
    pub reader: &'a MetricsReader,
    pub object: &'a HorizontalPodAutoscaler,
    pub pods: &'a [Arc<Pod>],
    /// The selector of the pods.
    pub selector: &'a str,
    /// How many replicas are wanted now.
    pub replicas: i32,
    /// How many there are.
    pub counted: i32,
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

/// A metric of which nothing is known.
pub(crate) struct Invalid {
    /// Of the event and the condition.
    pub reason: &'static str,
    pub error: String,
    /// The error with what was being done.
    pub context: String,
}

/// What all metrics ask for.
pub(crate) struct Answer {
    pub replicas: i32,
    /// The metric that asks for the most.
    pub metric: String,
    pub statuses: Vec<MetricStatus>,
    pub invalid: Vec<Invalid>,
}

/// What one metric says: what it asks for, its name, and its status.
type Said = (Proposal, String, MetricStatus);

/// Asks all metrics; the highest count wins.
pub(crate) async fn ask(asked: &Asked<'_>) -> Answer {
    let mut answer = Answer {
        replicas: 0,
        metric: String::new(),
        statuses: Vec::new(),
        invalid: Vec::new(),
    };
    for spec in asked.object.spec.metrics.iter().flatten() {
        match asked.one(spec).await {
            Ok((proposal, metric, status)) => {
                if answer.replicas == 0 || proposal.replicas > answer.replicas {
                    (answer.replicas, answer.metric) = (proposal.replicas, metric);
                }
                answer.statuses.push(status);
            }
            Err(invalid) => {
                answer.statuses.push(MetricStatus::default());
                answer.invalid.push(invalid);
            }
        }
    }
    answer
}

fn thousandths(quantity: &Quantity) -> i64 {
    Amount::of(quantity).milli_value()
}

fn quantity(value: i64, binary: bool) -> Quantity {
    Quantity(Amount::thousandths(value, binary).canonical())
}

fn average_status(usage: i64) -> MetricValueStatus {
    MetricValueStatus {
        average_value: Some(quantity(usage, false)),
        ..MetricValueStatus::default()
    }
}

fn value_status(usage: i64) -> MetricValueStatus {
    MetricValueStatus {
        value: Some(quantity(usage, false)),
        ..MetricValueStatus::default()
    }
}

fn invalid(reason: &'static str, what: &str) -> impl Fn(String) -> Invalid {
    let what = what.to_owned();
    move |error| Invalid {
        reason,
        context: format!("failed to get {what} metric value: {error}"),
        error,
    }
}

fn external_name(metric: &MetricIdentifier) -> String {
    let selector = match &metric.selector {
        None => "nil".to_owned(),
        some => shown_selector(some.as_ref()),
    };
    format!("external metric {}({selector})", metric.name)
}

impl Asked<'_> {
    fn question(&self) -> Question<'_> {
        Question {
            pods: self.pods,
            current: self.replicas,
            tolerances: self.tolerances,
            now: self.now,
        }
    }

    fn namespace(&self) -> &str {
        let namespace = self.object.metadata.namespace.as_deref();
        namespace.unwrap_or_default()
    }

    async fn one(&self, spec: &MetricSpec) -> Result<Said, Invalid> {
        let missing = |reason, what: &str| {
            let error = format!("invalid {what} metric source: it is missing");
            invalid(reason, what)(error)
        };
        match spec.type_.as_str() {
            "Resource" => {
                let reason = "FailedGetResourceMetric";
                let source = spec.resource.as_ref();
                let source = source.ok_or_else(|| missing(reason, "resource"))?;
                let said = self.resource(&source.name, None, &source.target).await;
                let what = format!("{} resource", source.name);
                let (proposal, metric, current) = said.map_err(invalid(reason, &what))?;
                let status = MetricStatus {
                    type_: spec.type_.clone(),
                    resource: Some(ResourceMetricStatus {
                        name: source.name.clone(),
                        current,
                    }),
                    ..MetricStatus::default()
                };
                Ok((proposal, metric, status))
            }
            "ContainerResource" => {
                let reason = "FailedGetContainerResourceMetric";
                let source = spec.container_resource.as_ref();
                let source = source.ok_or_else(|| missing(reason, "container"))?;
                let said = self
                    .resource(&source.name, Some(&source.container), &source.target)
                    .await;
                let what = format!("{} container", source.container);
                let (proposal, metric, current) = said.map_err(invalid(reason, &what))?;
                let status = MetricStatus {
                    type_: spec.type_.clone(),
                    container_resource: Some(ContainerResourceMetricStatus {
                        name: source.name.clone(),
                        container: source.container.clone(),
                        current,
                    }),
                    ..MetricStatus::default()
                };
                Ok((proposal, metric, status))
            }
            "Pods" => {
                let reason = "FailedGetPodsMetric";
                let source = spec.pods.as_ref();
                let source = source.ok_or_else(|| missing(reason, "pods"))?;
                self.of_pods(source).await.map_err(invalid(reason, "pods"))
            }
            "Object" => {
                let reason = "FailedGetObjectMetric";
                let source = spec.object.as_ref();
                let source = source.ok_or_else(|| missing(reason, "object"))?;
                self.of_object(source)
                    .await
                    .map_err(invalid(reason, "object"))
            }
            "External" => {
                let reason = "FailedGetExternalMetric";
                let source = spec.external.as_ref();
                let source = source.ok_or_else(|| missing(reason, "external"))?;
                let what = format!("{} external", source.metric.name);
                self.external(source).await.map_err(invalid(reason, &what))
            }
            other => {
                let error = format!("unknown metric source type {other:?}");
                Err(Invalid {
                    reason: "InvalidMetricSourceType",
                    context: error.clone(),
                    error,
                })
            }
        }
    }

    async fn resource(
        &self,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(Proposal, String, MetricValueStatus), String> {
        let kind = if target.average_value.is_some() {
            "usage"
        } else {
            "utilization"
        };
        if target.average_value.is_none() && target.average_utilization.is_none() {
            return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned());
        }
        let failed = |why: String| format!("failed to get {resource} {kind}: {why}");
        let readings = self
            .reader
            .resource(self.namespace(), self.selector, resource, container)
            .await
            .map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))
            .map_err(failed)?;
        let question = self.question();
        let proposal = match (&target.average_value, target.average_utilization) {
            (Some(average), _) => by_average(&question, readings, resource, thousandths(average)),
            (None, percent) => by_utilization(
                &question,
                readings,
                resource,
                container,
                percent.unwrap_or(0),
            ),
        };
        let proposal = proposal.map_err(failed)?;
        let metric = match (kind, container) {
            ("usage", _) => format!("{resource} resource"),
            (_, None) => format!("{resource} resource utilization (percentage of request)"),
            (_, Some(_)) => {
                format!("{resource} container resource utilization (percentage of request)")
            }
        };
        let current = MetricValueStatus {
            average_utilization: proposal.utilization,
            average_value: Some(quantity(proposal.usage, resource == "memory")),
            value: None,
        };
        Ok((proposal, metric, current))
    }

    async fn of_pods(&self, source: &PodsMetricSource) -> Result<Said, String> {
        let name = &source.metric.name;
        let readings = self
            .reader
            .of_pods(self.namespace(), self.selector, &source.metric)
            .await
            .map_err(|why| format!("unable to get metric {name}: {why}"))?;
        let target = source.target.average_value.as_ref().map_or(0, thousandths);
        let proposal = by_average(&self.question(), readings, "", target)?;
        let status = MetricStatus {
            type_: "Pods".to_owned(),
            pods: Some(PodsMetricStatus {
                metric: source.metric.clone(),
                current: average_status(proposal.usage),
            }),
            ..MetricStatus::default()
        };
        Ok((proposal, format!("pods metric {name}"), status))
    }

    async fn of_object(&self, source: &ObjectMetricSource) -> Result<Said, String> {
        let (metric, object) = (&source.metric, &source.described_object);
        let usage = || async {
            let usage = self.reader.of_object(self.namespace(), object, metric);
            usage.await.map_err(|why| {
                let (namespace, kind, name) = (self.namespace(), &object.kind, &object.name);
                format!(
                    "unable to get metric {}: {kind} on {namespace} {name}/{why}",
                    metric.name
                )
            })
        };
        let target = &source.target;
        let (proposal, name, current) = match (&target.value, &target.average_value) {
            (Some(value), _) if target.type_ == "Value" => {
                let proposal = by_value(&self.question(), usage().await?, thousandths(value))?;
                let name = format!("{} metric {}", object.kind, metric.name);
                (proposal, name, value_status(proposal.usage))
            }
            (_, Some(average)) if target.type_ == "AverageValue" => {
                let usage = usage().await.map_err(|why| {
                    format!("failed to get {} object metric: {why}", metric.name)
                })?;
                let target = thousandths(average);
                let proposal = by_share(self.tolerances, self.counted, usage, target);
                (proposal, external_name(metric), average_status(proposal.usage))
            }
            _ => return Err("invalid object metric source: neither a value target nor an average value target was set".to_owned()),
        };
        let status = MetricStatus {
            type_: "Object".to_owned(),
            object: Some(ObjectMetricStatus {
                described_object: object.clone(),
                metric: metric.clone(),
                current,
            }),
            ..MetricStatus::default()
        };
        Ok((proposal, name, status))
    }

    async fn external(&self, source: &ExternalMetricSource) -> Result<Said, String> {
        let (metric, target) = (&source.metric, &source.target);
        let usage = || async {
            let values = self.reader.external(self.namespace(), metric).await;
            let values = values.map_err(|why| {
                let (namespace, name) = (self.namespace(), &metric.name);
                let selector = shown_selector(metric.selector.as_ref());
                format!("unable to get external metric {namespace}/{name}/{selector}: {why}")
            })?;
            Ok::<i64, String>(values.into_iter().fold(0, i64::saturating_add))
        };
        let (proposal, current) = match (&target.average_value, &target.value) {
            (Some(average), _) => {
                let usage = usage()
                    .await
                    .map_err(|why| format!("failed to get {} external metric: {why}", metric.name))?;
                let target = thousandths(average);
                let proposal = by_share(self.tolerances, self.counted, usage, target);
                (proposal, average_status(proposal.usage))
            }
            (None, Some(value)) => {
                let usage = usage()
                    .await
                    .map_err(|why| format!("failed to get external metric {}: {why}", metric.name))?;
                let proposal = by_value(&self.question(), usage, thousandths(value))?;
                (proposal, value_status(proposal.usage))
            }
            (None, None) => return Err("invalid external metric source: neither a value target nor an average value target was set".to_owned()),
        };
        let status = MetricStatus {
            type_: "External".to_owned(),
            external: Some(ExternalMetricStatus {
                metric: metric.clone(),
                current,
            }),
            ..MetricStatus::default()
        };
        Ok((proposal, external_name(metric), status))
    }
}
