//! Server-side apply, and the record of who owns which field (`metadata.managedFields`).
//!
//! [`apply`] merges what a manager wants into an object: what the manager no longer names goes, what others own and
//! the manager wants otherwise is a conflict. [`record_update`] writes down what any other write changed.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fieldset::{FieldSet, Fields};
use crate::schema::body::Target;
use crate::schema::check::check_value;
use crate::status::{ApiError, ApiResult};

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The field manager's name, at most 128 characters.
    pub name: &'a str,
    /// The version of the object in which it writes (`apps/v1`).
    pub api_version: &'a str,
    /// The subresource it writes to, empty for the object itself.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
}

/// Upstream keeps this many managers of updates apart and throws the oldest together.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    applied: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    set: FieldSet,
}

impl Entry {
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let applied = match value.get("operation")?.as_str()? {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            applied,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value.get("time").and_then(Value::as_str).map(str::to_owned),
            set: FieldSet::from_fields_v1(value.get("fieldsV1").unwrap_or(&Value::Null)),
        })
    }

    fn write(&self) -> Value {
        let mut value = json!({
            "manager": self.manager,
            "operation": if self.applied { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_fields_v1(),
        });
        if let Some(time) = &self.time {
            value["time"] = time.clone().into();
        }
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.clone().into();
        }
        value
    }

    fn is_of(&self, manager: &Manager<'_>, applied: bool) -> bool {
        self.applied == applied
            && self.manager == manager.name
            && self.subresource == manager.subresource
            // An applier that changes its version stays the same applier.
            && (applied || self.api_version == manager.api_version)
    }

    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        if self.applied {
            return text;
        }
        match &self.time {
            Some(time) => format!("{text} using {} at {time}", self.api_version),
            None => format!("{text} using {}", self.api_version),
        }
    }
}

fn read_entries(object: &Value) -> Vec<Entry> {
    let entries = object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .filter_map(Entry::read)
        .collect()
}

fn write_entries(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    merge_oldest(&mut entries);
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| {
            (
                !entry.applied,
                entry.time.clone(),
                entry.manager.clone(),
                entry.api_version.clone(),
                entry.subresource.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    metadata.remove("managedFields");
    if !entries.is_empty() {
        let entries: Vec<Value> = entries.iter().map(Entry::write).collect();
        metadata.insert("managedFields".to_owned(), entries.into());
    }
}

fn merge_oldest(entries: &mut Vec<Entry>) {
    loop {
        let mut updates: Vec<usize> = (0..entries.len())
            .filter(|index| {
                entries
                    .get(*index)
                    .is_some_and(|entry| !entry.applied && entry.subresource.is_empty())
            })
            .collect();
        if updates.len() <= MAX_UPDATE_MANAGERS {
            return;
        }
        updates.sort_by_key(|index| entries.get(*index).and_then(|entry| entry.time.clone()));
        let (Some(&first), Some(&second)) = (updates.first(), updates.get(1)) else {
            return;
        };
        let (low, high) = (first.min(second), first.max(second));
        let (other, mut kept) = (entries.remove(high), entries.remove(low));
        kept.set = kept.set.union(&other.set);
        kept.time = kept.time.max(other.time);
        kept.manager = ANCIENT.to_owned();
        entries.push(kept);
    }
}

/// Fields that nobody owns: the server's, and those that say what the object is.
fn owned_by_none() -> FieldSet {
    let mut set = FieldSet::default();
    for name in ["apiVersion", "kind"] {
        *set.step(format!("f:{name}")) = FieldSet::leaf();
    }
    let metadata = set.step("f:metadata".to_owned());
    let names = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    for name in names {
        *metadata.step(format!("f:{name}")) = FieldSet::leaf();
    }
    set
}

fn without_record(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

fn now_text(manager: &Manager<'_>) -> String {
    manager.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sets `managedFields` of `new`, which a create, update or patch makes of `old`.
pub fn record_update(
    target: &Target<'_>,
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager<'_>,
) {
    let fields = Fields::new(target.schema, target.root);
    // A client that sets an empty list wants to start over.
    let reset = new
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty);
    let mut entries = if reset {
        Vec::new()
    } else {
        old.map(read_entries).unwrap_or_default()
    };
    let empty = Value::Object(target.schema.empty(target.root));
    let before = old.map_or(empty, without_record);
    let (changed, removed) = fields.compare(&before, &without_record(new));
    let none = owned_by_none();
    let (changed, removed) = (changed.without_trees(&none), removed.without_trees(&none));
    if changed.is_empty() && removed.is_empty() && !reset {
        write_entries(new, entries);
        return;
    }
    for entry in &mut entries {
        entry.set = entry.set.without_trees(&removed);
        if !entry.is_of(manager, false) {
            entry.set = entry.set.difference(&changed);
        }
    }
    if !changed.is_empty() {
        let mine = entries.iter().position(|entry| entry.is_of(manager, false));
        let mut entry =
            mine.map_or_else(|| new_entry(manager, false), |index| entries.remove(index));
        entry.set = entry.set.union(&changed);
        entry.time = Some(now_text(manager));
        entries.push(entry);
    }
    write_entries(new, entries);
}

fn new_entry(manager: &Manager<'_>, applied: bool) -> Entry {
    Entry {
        manager: manager.name.to_owned(),
        applied,
        api_version: manager.api_version.to_owned(),
        subresource: manager.subresource.to_owned(),
        time: None,
        set: FieldSet::default(),
    }
}

/// The object after `config` was applied to `live` (`None`: it is made), `managedFields` included. Where nothing
/// changes, the record's times stay, so that the result equals `live`.
///
/// # Errors
/// 400: `config` has `managedFields`, or is no object of the kind; 409: others own what it changes, unless `force`.
pub fn apply(
    target: &Target<'_>,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> ApiResult<Value> {
    if config
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let unusable = |message: &str| {
        let text = |pointer: &str| {
            config
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        ApiError::bad_request(format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {message}",
            text("/metadata/namespace"),
            text("/metadata/name"),
            manager.api_version,
            target.kind
        ))
    };
    // Checked for its types and unknown fields only: applied are the fields as they were given.
    let checked = check_value(config.clone(), target.schema, target.root)
        .map_err(|error| unusable(&error.to_string()))?;
    if let Some(unknown) = checked.strict.first() {
        let path = unknown.split('"').nth(1).unwrap_or_default();
        return Err(unusable(&format!(".{path}: field not declared in schema")));
    }
    let config = without_nulls(config);
    let fields = Fields::new(target.schema, target.root);
    let none = owned_by_none();
    let empty = json!({"apiVersion": manager.api_version, "kind": target.kind, "metadata": {}});
    let before = live.map_or(empty, without_record);
    let mut entries = live.map(read_entries).unwrap_or_default();
    let wanted = fields.of(&config).without_trees(&none);

    let merged = fields.merge(&before, &config);
    let (changed, _) = fields.compare(&before, &merged);
    let mine = entries.iter().position(|entry| entry.is_of(manager, true));
    let last = mine.map(|index| entries.remove(index));
    let mut conflicts: Vec<(String, Vec<String>)> = Vec::new();
    for entry in &mut entries {
        let both = entry.set.intersection(&changed);
        if both.is_empty() {
            continue;
        }
        if force {
            entry.set = entry.set.difference(&both);
        } else {
            conflicts.push((entry.shown(), both.paths()));
        }
    }
    if !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    // What was applied before, is not any more, and belongs to no other.
    let kept = entries
        .iter()
        .fold(wanted.clone(), |kept, entry| kept.union(&entry.set));
    let last_set = last
        .as_ref()
        .map(|last| last.set.clone())
        .unwrap_or_default();
    let gone = last_set.difference(&kept).unless_above(&kept);
    let merged = fields.without(&merged, &gone);
    let merged = check_value(merged, target.schema, target.root)
        .map_err(|error| unusable(&error.to_string()))?;
    let mut result = merged.value;
    result["apiVersion"] = manager.api_version.into();
    result["kind"] = target.kind.into();

    let mut entry = new_entry(manager, true);
    entry.set = wanted;
    let same = last
        .as_ref()
        .is_some_and(|last| last.set == entry.set && last.api_version == entry.api_version);
    entry.time = match last {
        Some(last) if same && live.is_some_and(|live| without_record(live) == result) => last.time,
        _ => Some(now_text(manager)),
    };
    entries.push(entry);
    write_entries(&mut result, entries);
    Ok(result)
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(key, value)| (key.clone(), without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// 409 with a cause per field.
fn conflict(conflicts: &[(String, Vec<String>)]) -> ApiError {
    let mut sorted = conflicts.to_vec();
    sorted.sort();
    let all = || {
        conflicts
            .iter()
            .flat_map(|(manager, paths)| paths.iter().map(move |path| (manager, path)))
    };
    let causes: Vec<Value> = all()
        .map(|(manager, path)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": path})
        })
        .collect();
    let message = match all().count() {
        1 => all()
            .map(|(manager, path)| {
                format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
            })
            .collect(),
        count => {
            let lines: Vec<String> = sorted
                .iter()
                .flat_map(|(manager, paths)| {
                    std::iter::once(format!("conflicts with {manager}:"))
                        .chain(paths.iter().map(|path| format!("- {path}")))
                })
                .collect();
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    ApiError {
        details: Some(json!({"causes": causes})),
        ..ApiError::new(409, "Conflict", message)
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
