//! Reports to people what happened, as Event objects, without ever holding up the one who reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::{core::v1 as core, events::v1 as events};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Resource;
use kube::{Client, Error};
use serde_json::json;
use skiff_base::{Random, SharedClock};
use tokio::sync::mpsc;

use crate::correlate::{Correlator, Occurrence, Record, Verdict, event_name};
use crate::failure::{is_already_exists, is_not_found};

/// So many events wait to be written; more are dropped.
const WAITING: usize = 1000;
/// An event that cannot be written because the server is away is tried this often.
const TRIES: u32 = 12;
/// A series that nothing was added to for this long has ended.
const SERIES_ENDS: Duration = Duration::from_secs(360);

/// Whether all went as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// It did.
    Normal,
    /// It did not.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Which of the two Event kinds a component writes. They are two views of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStyle {
    /// `v1`, with counts: controllers and the kubelet.
    Core,
    /// `events.k8s.io/v1`, with series: the scheduler.
    Series,
}

struct Report {
    occurrence: Occurrence,
    related: Option<ObjectReference>,
    action: String,
    at: Timestamp,
}

/// Writes events in a task of its own. Clones share it; the task ends with the last clone.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Report>,
    clock: SharedClock,
}

impl EventRecorder {
    /// A recorder for `component` on `host` (empty where the component is not bound to one).
    #[must_use]
    pub fn new(
        client: Client,
        component: &str,
        host: &str,
        style: EventStyle,
        clock: SharedClock,
        random: Random,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            clock: clock.clone(),
            random,
        };
        match style {
            EventStyle::Core => tokio::spawn(writer.write_counted(receiver)),
            EventStyle::Series => tokio::spawn(writer.write_series(receiver)),
        };
        Self { sender, clock }
    }

    /// A recorder whose events go nowhere, for tests.
    #[must_use]
    pub fn silent(clock: SharedClock) -> Self {
        let (sender, _) = mpsc::channel(1);
        Self { sender, clock }
    }

    /// Reports that something happened to `regarding`.
    pub fn record(
        &self,
        regarding: ObjectReference,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record_action(regarding, None, event_type, reason, "", message);
    }

    /// The same for an object of a kind known at compile time.
    pub fn about<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(reference(object), event_type, reason, message);
    }

    /// The same with what was being done and to what else, which only [`EventStyle::Series`] carries.
    pub fn record_action(
        &self,
        regarding: ObjectReference,
        related: Option<ObjectReference>,
        event_type: EventType,
        reason: &str,
        action: &str,
        message: impl Into<String>,
    ) {
        let report = Report {
            occurrence: Occurrence {
                regarding,
                event_type: event_type.as_str(),
                reason: reason.to_owned(),
                message: message.into(),
            },
            related,
            action: action.to_owned(),
            at: Timestamp::try_from(self.clock.now()).unwrap_or_default(),
        };
        if let Err(mpsc::error::TrySendError::Full(report)) = self.sender.try_send(report) {
            tracing::debug!(
                reason = report.occurrence.reason,
                message = report.occurrence.message,
                "too many events wait; one is dropped"
            );
        }
    }
}

/// A reference to an object as events carry it: with its uid and resource version.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        resource_version: object.meta().resource_version.clone(),
        ..object.object_ref(&())
    }
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    clock: SharedClock,
    random: Random,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    uid: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    kind: Option<String>,
    event_type: &'static str,
    reason: String,
    action: String,
}

struct Series {
    name: String,
    count: i32,
    last: Timestamp,
}

fn namespace_of(regarding: &ObjectReference) -> String {
    match regarding.namespace.as_deref() {
        None | Some("") => "default".to_owned(),
        Some(namespace) => namespace.to_owned(),
    }
}

impl Writer {
    async fn write_counted(self, mut reports: mpsc::Receiver<Report>) {
        let mut correlator = Correlator::default();
        while let Some(report) = reports.recv().await {
            let verdict = correlator.observe(&report.occurrence, report.at);
            let api: Api<core::Event> = Api::namespaced(
                self.client.clone(),
                &namespace_of(&report.occurrence.regarding),
            );
            let (record, raise) = match verdict {
                Verdict::Drop => continue,
                Verdict::Create(record) => (record, false),
                Verdict::Raise(record) => (record, true),
            };
            let event = self.counted_event(&report, &record);
            let patch = raise.then(|| {
                json!({
                    "count": record.count,
                    "lastTimestamp": Time(record.last),
                    "message": record.message,
                })
            });
            self.persist(&api, &record.name, event, patch).await;
        }
    }

    fn counted_event(&self, report: &Report, record: &Record) -> core::Event {
        let occurrence = &report.occurrence;
        let whole_seconds =
            |at: Timestamp| Time(Timestamp::from_second(at.as_second()).unwrap_or_default());
        core::Event {
            metadata: ObjectMeta {
                name: Some(record.name.clone()),
                namespace: Some(namespace_of(&occurrence.regarding)),
                ..ObjectMeta::default()
            },
            involved_object: occurrence.regarding.clone(),
            type_: Some(occurrence.event_type.to_owned()),
            reason: Some(occurrence.reason.clone()),
            message: Some(record.message.clone()),
            count: Some(record.count),
            first_timestamp: Some(whole_seconds(record.first)),
            last_timestamp: Some(whole_seconds(record.last)),
            source: Some(core::EventSource {
                component: Some(self.component.clone()),
                host: (!self.host.is_empty()).then(|| self.host.clone()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..core::Event::default()
        }
    }

    async fn write_series(self, mut reports: mpsc::Receiver<Report>) {
        let mut series: HashMap<SeriesKey, Series> = HashMap::new();
        while let Some(report) = reports.recv().await {
            let occurrence = &report.occurrence;
            let ended = |last: Timestamp| {
                report.at.duration_since(last) > SERIES_ENDS.try_into().unwrap_or_default()
            };
            series.retain(|_, series| !ended(series.last));
            let key = SeriesKey {
                uid: occurrence.regarding.uid.clone(),
                name: occurrence.regarding.name.clone(),
                namespace: occurrence.regarding.namespace.clone(),
                kind: occurrence.regarding.kind.clone(),
                event_type: occurrence.event_type,
                reason: occurrence.reason.clone(),
                action: report.action.clone(),
            };
            let entry = series.entry(key).or_insert_with(|| Series {
                name: event_name(&occurrence.regarding, report.at),
                count: 0,
                last: report.at,
            });
            entry.count = entry.count.saturating_add(1);
            entry.last = report.at;
            let state = (entry.count > 1).then_some(events::EventSeries {
                count: entry.count,
                last_observed_time: MicroTime(report.at),
            });
            // As upstream: the second occurrence makes the series; more are told at its end, here with
            // ever longer pauses so that a pod that cannot be scheduled costs few writes.
            if entry.count > 2 && !(entry.count as u32).is_power_of_two() {
                continue;
            }
            let name = entry.name.clone();
            let api: Api<events::Event> =
                Api::namespaced(self.client.clone(), &namespace_of(&occurrence.regarding));
            let patch = state.as_ref().map(|state| json!({"series": state}));
            let event = self.series_event(&report, &name, state);
            self.persist(&api, &name, event, patch).await;
        }
    }

    fn series_event(
        &self,
        report: &Report,
        name: &str,
        series: Option<events::EventSeries>,
    ) -> events::Event {
        let occurrence = &report.occurrence;
        let instance = if self.host.is_empty() {
            self.component.clone()
        } else {
            format!("{}-{}", self.component, self.host)
        };
        events::Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace_of(&occurrence.regarding)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(report.at)),
            series,
            reporting_controller: Some(self.component.clone()),
            reporting_instance: Some(instance),
            action: Some(report.action.clone()),
            reason: Some(occurrence.reason.clone()),
            regarding: Some(occurrence.regarding.clone()),
            related: report.related.clone(),
            note: Some(occurrence.message.clone()),
            type_: Some(occurrence.event_type.to_owned()),
            ..events::Event::default()
        }
    }

    /// Patches the event, or creates it where there is nothing to patch; waits while the server is away.
    async fn persist<E>(&self, api: &Api<E>, name: &str, event: E, patch: Option<serde_json::Value>)
    where
        E: Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
    {
        for _ in 0..TRIES {
            let mut outcome = Err(Error::Api(
                kube::core::Status::failure("", "NotFound")
                    .with_code(404)
                    .boxed(),
            ));
            if let Some(patch) = &patch {
                let parameters = PatchParams::default();
                outcome = api.patch(name, &parameters, &Patch::Strategic(patch)).await;
            }
            if matches!(&outcome, Err(error) if is_not_found(error)) {
                outcome = api.create(&PostParams::default(), &event).await;
            }
            match outcome {
                Ok(_) => return,
                Err(error) if is_already_exists(&error) && patch.is_some() => {}
                // The server has looked at it and does not want it.
                Err(Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    tracing::debug!(event = name, error = status.message, "event was refused");
                    return;
                }
                Err(error) => tracing::debug!(event = name, %error, "event could not be written"),
            }
            let delay = Duration::from_secs(10).mul_f64(0.75 + 0.5 * self.random.fraction());
            self.clock.sleep(delay).await;
        }
        tracing::warn!(event = name, "event was given up");
    }
}

/// A recorder that several controllers share.
pub type SharedRecorder = Arc<EventRecorder>;
