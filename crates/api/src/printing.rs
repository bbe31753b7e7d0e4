//! What the cells of tables have in common: ages, selectors, lists of containers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, MicroTime, ObjectMeta, Time};
use serde_json::Value;

/// The age of an object, for example `5m`.
#[must_use]
pub fn age(metadata: &ObjectMeta, now: Timestamp) -> Value {
    since(metadata.creation_timestamp.as_ref(), now).into()
}

/// The cell of [`crate::Column::CREATED_AT`].
#[must_use]
pub fn created_at(metadata: &ObjectMeta) -> Value {
    metadata
        .creation_timestamp
        .as_ref()
        .map_or(Value::Null, |time| {
            // Seconds only, as timestamps of objects are.
            time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
        })
}

/// How long ago something was; `<unknown>` if it never was.
#[must_use]
pub fn since(time: Option<&Time>, now: Timestamp) -> String {
    time.map_or_else(
        || "<unknown>".to_owned(),
        |time| human_duration(now.duration_since(time.0).as_nanos()),
    )
}

/// The same for times with microseconds.
#[must_use]
pub fn since_micro(time: Option<&MicroTime>, now: Timestamp) -> String {
    time.map_or_else(
        || "<unknown>".to_owned(),
        |time| human_duration(now.duration_since(time.0).as_nanos()),
    )
}

/// A duration in nanoseconds as upstream shows it to people: two or three significant figures (`90s`, `3m5s`, `2d4h`).
#[must_use]
pub fn human_duration(nanoseconds: i128) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let two = |big: i128, unit: char, small: i128, sub: char| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{sub}")
        }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        // Clocks of machines differ a little: one second into the future is now.
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(days, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

/// `a=b,c=d`, `<none>` without labels.
#[must_use]
pub fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    match labels {
        Some(labels) if !labels.is_empty() => labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(","),
        _ => "<none>".to_owned(),
    }
}

/// The requirements of a selector as upstream's selectors print themselves, sorted by key; `None` if an operator is
/// unknown.
#[must_use]
pub fn selector_text(selector: &LabelSelector) -> Option<String> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        parts.push((key.clone(), format!("{key}={value}")));
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let key = &requirement.key;
        let mut values = requirement.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match requirement.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        };
        parts.push((key.clone(), text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    Some(
        parts
            .into_iter()
            .map(|(_, text)| text)
            .collect::<Vec<_>>()
            .join(","),
    )
}

/// The cell of a label selector: `<none>` if it is empty, `<error>` if it is wrong.
#[must_use]
pub fn selector(selector: Option<&LabelSelector>) -> String {
    // Upstream's selector of nothing prints as the empty string, which becomes `<none>`, too.
    match selector.map_or_else(|| Some(String::new()), selector_text) {
        None => "<error>".to_owned(),
        Some(text) if text.is_empty() => "<none>".to_owned(),
        Some(text) => text,
    }
}

/// The names and the images of containers, separated by commas.
#[must_use]
pub fn containers(containers: &[Container]) -> (Value, Value) {
    let names = containers
        .iter()
        .map(|container| container.name.as_str())
        .collect::<Vec<_>>();
    let images = containers
        .iter()
        .map(|container| container.image.as_deref().unwrap_or_default())
        .collect::<Vec<_>>();
    (names.join(",").into(), images.join(",").into())
}

/// The first three of a list, `<unset>` if there is none, `+ 2 more...` if there are more.
#[must_use]
pub fn first_three(mut list: Vec<String>) -> String {
    let count = list.len();
    list.truncate(3);
    match count {
        0 => "<unset>".to_owned(),
        1..=3 => list.join(","),
        _ => format!("{} + {} more...", list.join(","), count - 3),
    }
}

/// Text or a stand-in.
#[must_use]
pub fn text_or(text: Option<&String>, absent: &str) -> Value {
    text.filter(|text| !text.is_empty())
        .map_or(absent, String::as_str)
        .into()
}

/// `pod/web`: what an event is about.
#[must_use]
pub fn kind_and_name(kind: Option<&str>, name: Option<&str>) -> String {
    let kind = kind.unwrap_or_default().to_lowercase();
    match name {
        Some(name) if !name.is_empty() => format!("{kind}/{name}"),
        _ => kind,
    }
}

/// `kubelet, node-1`: who reported an event; of each pair the first that is not empty.
#[must_use]
pub fn event_source(component: [Option<&String>; 2], host: [Option<&String>; 2]) -> String {
    let first = |pair: [Option<&String>; 2]| {
        pair.into_iter()
            .flatten()
            .find(|text| !text.is_empty())
            .cloned()
    };
    let component = first(component).unwrap_or_default();
    match first(host) {
        Some(host) => format!("{component}, {host}"),
        None => component,
    }
}

/// The `storage` of resources, `0` if they name none.
#[must_use]
pub fn storage_size(resources: Option<&BTreeMap<String, Quantity>>) -> String {
    resources
        .and_then(|resources| resources.get("storage"))
        .map_or_else(|| "0".to_owned(), |size| size.0.clone())
}

/// Access modes, each once, in their short forms and upstream's order.
#[must_use]
pub fn access_modes(modes: Option<&[String]>) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| modes.unwrap_or_default().iter().any(|other| other == mode);
    known
        .iter()
        .filter(|(mode, _)| has(mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_upstreams_precision() {
        let (minute, hour, day) = (60, 3600, 86_400);
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (10 * minute + 5, "10m"),
            (179 * minute, "179m"),
            (3 * hour, "3h"),
            (7 * hour + 59 * minute, "7h59m"),
            (47 * hour, "47h"),
            (2 * day, "2d"),
            (7 * day + 23 * hour, "7d23h"),
            (8 * day + 1, "8d"),
            (2 * 365 * day + day, "2y1d"),
            (9 * 365 * day, "9y"),
        ] {
            assert_eq!(
                human_duration(i128::from(seconds) * 1_000_000_000),
                text,
                "{seconds}"
            );
        }
    }

    #[test]
    fn selectors_are_sorted_by_key() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"z": "1", "b": "2"},
            "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}],
        }))
        .unwrap();
        assert_eq!(selector_text(&selector).unwrap(), "a in (x,y),b=2,!c,z=1");
    }

    #[test]
    fn long_lists_are_cut() {
        let list = |n: usize| first_three((0..n).map(|i| i.to_string()).collect());
        assert_eq!(
            (list(0).as_str(), list(3).as_str(), list(5).as_str()),
            ("<unset>", "0,1,2", "0,1,2 + 2 more...")
        );
    }
}
