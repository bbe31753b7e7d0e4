//! Server-side apply, and the record of who owns which field (`metadata.managedFields`).
//!
//! [`apply`] merges what a manager wants into an object: what the manager no longer names goes, what others own and
//! the manager wants otherwise is a conflict. [`record_update`] writes down what any other write changed.

use std::cmp::Ordering;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use serde_json::{Value, json};

use super::fieldset::{FieldSet, Fields, covers, touches};
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
    /// The places that a write of this kind does not change, whatever it says: they get no owner by it.
    pub ignored: &'a [&'a [&'a str]],
}

/// Upstream keeps this many managers of updates apart and throws the oldest together.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Who owns what was there before the first apply to an object without a record.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One entry of `managedFields`. Its fields stay JSON until they must change.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    applied: bool,
    api_version: String,
    subresource: String,
    time: Option<Timestamp>,
    fields: Value,
}

impl Entry {
    fn read(entry: ManagedFieldsEntry) -> Option<Self> {
        let applied = match entry.operation.as_deref()? {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        let fields = entry.fields_v1.map(|fields| fields.0);
        Some(Self {
            manager: entry.manager.unwrap_or_default(),
            applied,
            api_version: entry.api_version.unwrap_or_default(),
            subresource: entry.subresource.unwrap_or_default(),
            time: entry.time.map(|time| time.0),
            fields: fields.unwrap_or_else(|| json!({})),
        })
    }

    fn write(self) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(self.manager),
            operation: Some(if self.applied { "Apply" } else { "Update" }.to_owned()),
            api_version: Some(self.api_version),
            fields_type: Some("FieldsV1".to_owned()),
            fields_v1: Some(FieldsV1(self.fields)),
            time: self.time.map(Time),
            subresource: Some(self.subresource).filter(|text| !text.is_empty()),
        }
    }

    fn new(manager: &Manager<'_>, applied: bool) -> Self {
        Self {
            manager: if manager.name.is_empty() {
                "unknown".to_owned()
            } else {
                manager.name.to_owned()
            },
            applied,
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: None,
            fields: json!({}),
        }
    }

    fn is_empty(&self) -> bool {
        self.fields
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    }

    fn set(&self) -> FieldSet {
        if self.is_empty() {
            return FieldSet::default();
        }
        FieldSet::from_fields_v1(&self.fields)
    }

    fn put(&mut self, set: &FieldSet) {
        self.fields = set.to_fields_v1();
    }

    fn same_manager(&self, other: &Self) -> bool {
        self.applied == other.applied
            && self.manager == other.manager
            && self.subresource == other.subresource
            // An applier that changes its version stays the same applier.
            && (self.applied || self.api_version == other.api_version)
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
            Some(time) => format!(
                "{text} using {} at {}",
                self.api_version,
                written_time(*time)
            ),
            None => format!("{text} using {}", self.api_version),
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| (!entry.applied, entry.time);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.manager.cmp(&other.manager))
            .then_with(|| self.api_version.cmp(&other.api_version))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }
}

fn written_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn read_entries(entries: Vec<ManagedFieldsEntry>) -> Vec<Entry> {
    entries.into_iter().filter_map(Entry::read).collect()
}

fn write_entries(mut entries: Vec<Entry>) -> Vec<ManagedFieldsEntry> {
    entries.retain(|entry| !entry.is_empty());
    entries.sort_by(Entry::order);
    entries.into_iter().map(Entry::write).collect()
}

/// Throws the oldest updaters of a version together until there are few enough.
fn merge_oldest(entries: &mut Vec<Entry>) {
    loop {
        let mut updates: Vec<usize> = (0..entries.len())
            .filter(|index| entries.get(*index).is_some_and(|entry| !entry.applied))
            .collect();
        if updates.len() <= MAX_UPDATE_MANAGERS {
            return;
        }
        updates.sort_by(|a, b| match (entries.get(*a), entries.get(*b)) {
            (Some(a), Some(b)) => a.order(b),
            _ => Ordering::Equal,
        });
        let version = |index: usize| entries.get(index).map(|entry| entry.api_version.as_str());
        let pair = updates.iter().enumerate().find_map(|(at, &older)| {
            let mut rest = updates.iter().skip(at + 1);
            let newer = rest.find(|&&newer| version(newer) == version(older))?;
            Some((older, *newer))
        });
        let Some((older, newer)) = pair else { return };
        let (low, high) = (older.min(newer), older.max(newer));
        let (other, mut kept) = (entries.remove(high), entries.remove(low));
        kept.put(&kept.set().union(&other.set()));
        kept.time = kept.time.max(other.time);
        kept.manager = ANCIENT.to_owned();
        kept.subresource = String::new();
        entries.push(kept);
    }
}

/// Fields that nobody owns: the server's, and those that say what the object is.
fn owned_by_none() -> &'static FieldSet {
    static NONE: std::sync::LazyLock<FieldSet> = std::sync::LazyLock::new(|| {
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
    });
    &NONE
}

/// Takes out the places that the write does not change.
fn strip(value: &mut Value, ignored: &[&[&str]]) {
    for path in ignored {
        let Some((last, parents)) = path.split_last() else {
            continue;
        };
        let parent = parents
            .iter()
            .try_fold(&mut *value, |value, name| value.get_mut(*name));
        if let Some(Value::Object(map)) = parent {
            map.remove(*last);
        }
    }
}

fn strip_record(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// What `managedFields` becomes by a create (`old` is `None`), update or patch that makes `new` of `old`; `entries` is
/// the record so far. The records within the objects are not looked at. An object whose record was emptied gets none
/// until it is applied to.
#[must_use]
pub fn record_update(
    target: &Target<'_>,
    old: Option<&Value>,
    new: &Value,
    entries: Vec<ManagedFieldsEntry>,
    manager: &Manager<'_>,
) -> Vec<ManagedFieldsEntry> {
    let mut entries = read_entries(entries);
    if entries.is_empty() && old.is_some() {
        return Vec::new();
    }
    let fields = Fields::new(target.schema, target.root);
    let nothing = match old {
        Some(_) => Value::Null,
        None => Value::Object(target.schema.empty(target.root)),
    };
    let (changed, removed) = fields.compare(old.unwrap_or(&nothing), new);
    let ignored = FieldSet::of_paths(manager.ignored);
    let (changed, removed) = (
        changed.without_trees(&ignored),
        removed.without_trees(&ignored),
    );
    update_entries(&mut entries, &changed, &removed, manager);
    write_entries(entries)
}

fn update_entries(
    entries: &mut Vec<Entry>,
    changed: &FieldSet,
    removed: &FieldSet,
    manager: &Manager<'_>,
) {
    let none = owned_by_none();
    let (changed, removed) = (changed.without_trees(none), removed.without_trees(none));
    if changed.is_empty() && removed.is_empty() {
        return;
    }
    let mut mine = Entry::new(manager, false);
    for entry in &mut *entries {
        let theirs = !entry.same_manager(&mine);
        if touches(&removed, &entry.fields, true) {
            entry.put(&entry.set().without_trees(&removed));
        }
        if theirs && touches(&changed, &entry.fields, false) {
            entry.put(&entry.set().difference(&changed));
        }
    }
    if changed.is_empty() {
        return;
    }
    let had = entries.iter().position(|entry| entry.same_manager(&mine));
    if let Some(index) = had {
        mine = entries.remove(index);
    }
    if !covers(&mine.fields, &changed) {
        mine.put(&mine.set().union(&changed));
    }
    mine.time = Some(manager.now);
    entries.push(mine);
    merge_oldest(entries);
}

/// The object after `config` was applied to `live` (`None`: it is made), `managedFields` included. Where nothing
/// changes, the record's times stay, so that the result equals `live`.
///
/// # Errors
/// 400: `config` has `managedFields`, or is of another kind; 409: others own what it changes, unless `force`; 500, as
/// upstream has it: `config` does not fit the kind's schema.
pub fn apply(
    target: &Target<'_>,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> ApiResult<Value> {
    let (config, applied) = checked_config(target, config, manager)?;
    let empty = json!({"apiVersion": manager.api_version, "kind": target.kind, "metadata": {}});
    let mut before = live.cloned().unwrap_or(empty);
    let record = before
        .pointer_mut("/metadata/managedFields")
        .map(Value::take);
    strip_record(&mut before);
    let record: Vec<ManagedFieldsEntry> = record
        .and_then(|record| serde_json::from_value(record).ok())
        .unwrap_or_default();
    let mut entries = read_entries(record);
    let fields = Fields::new(target.schema, target.root);
    if entries.is_empty() && live.is_some() {
        let first = Manager {
            name: BEFORE_FIRST_APPLY,
            ..*manager
        };
        let nothing = Value::Object(target.schema.empty(target.root));
        let (all, _) = fields.compare(&nothing, &before);
        update_entries(&mut entries, &all, &FieldSet::default(), &first);
    }
    let mut merge = Merge {
        fields,
        before,
        config,
        entries,
    };
    let mut result = merge.run(target, manager, force)?;
    if manager.name == "kubectl"
        && let Some(text) = result
            .pointer_mut("/metadata/annotations")
            .and_then(|annotations| annotations.get_mut(LAST_APPLIED))
    {
        *text = last_applied(&applied).into();
    }
    let mut entry = Entry::new(manager, true);
    let wanted = merge
        .fields
        .of(&merge.config)
        .without_trees(owned_by_none());
    let had = merge
        .entries
        .iter()
        .position(|other| other.same_manager(&entry));
    let last = had.map(|index| merge.entries.remove(index));
    let same = last
        .as_ref()
        .is_some_and(|last| last.api_version == entry.api_version && last.set() == wanted);
    entry.put(&wanted);
    entry.time = match last {
        Some(last) if same && live.is_some() && merge.before == result => last.time,
        _ => Some(manager.now),
    };
    merge.entries.push(entry);
    let record = write_entries(merge.entries);
    if !record.is_empty()
        && let Some(metadata) = result.get_mut("metadata").and_then(Value::as_object_mut)
    {
        let record = serde_json::to_value(record).map_err(ApiError::internal)?;
        metadata.insert("managedFields".to_owned(), record);
    }
    Ok(result)
}

/// The configuration without what it cannot own, and as it was sent.
fn checked_config(
    target: &Target<'_>,
    config: &Value,
    manager: &Manager<'_>,
) -> ApiResult<(Value, Value)> {
    let text = |pointer: &str| {
        config
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    if version != manager.api_version || kind != target.kind {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {version}, Kind={kind}"
        )));
    }
    if config
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    // Checked for its types and unknown fields only: applied are the fields as they were given.
    let checked = check_value(config.clone(), target.schema, target.root)
        .map_err(|error| unusable(target, config, &error.to_string()))?;
    if let Some(unknown) = checked.strict.first() {
        let path = unknown.split('"').nth(1).unwrap_or_default();
        let message = format!(".{path}: field not declared in schema");
        return Err(unusable(target, config, &message));
    }
    let mut stripped = without_nulls(config);
    strip(&mut stripped, manager.ignored);
    Ok((stripped, config.clone()))
}

/// Upstream answers these as an unexpected error of its own.
fn unusable(target: &Target<'_>, config: &Value, message: &str) -> ApiError {
    let text = |pointer: &str| {
        config
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    ApiError::new(
        500,
        "",
        format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {message}",
            text("/metadata/namespace"),
            text("/metadata/name"),
            text("/apiVersion"),
            target.kind
        ),
    )
}

/// The text of the annotation that client-side apply goes by.
fn last_applied(config: &Value) -> String {
    let mut config = config.clone();
    if let Some(annotations) = config
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    format!("{config}\n")
}

/// An apply under way.
struct Merge<'s> {
    fields: Fields<'s>,
    /// The live object without its record.
    before: Value,
    config: Value,
    entries: Vec<Entry>,
}

impl Merge<'_> {
    /// The object after the apply; the entries of others lose what they are forced to give.
    fn run(&mut self, target: &Target<'_>, manager: &Manager<'_>, force: bool) -> ApiResult<Value> {
        let wanted = self.fields.of(&self.config).without_trees(owned_by_none());
        let merged = self.fields.merge(&self.before, &self.config);
        let (changed, _) = self.fields.compare(&self.before, &merged);
        let mine = Entry::new(manager, true);
        self.settle(&changed, &mine, force)?;
        // What was applied before, is not any more, and belongs to no other.
        let mut last = FieldSet::default();
        let mut kept = wanted;
        for entry in &self.entries {
            if entry.same_manager(&mine) {
                last = entry.set();
            } else {
                kept = kept.union(&entry.set());
            }
        }
        let gone = last.difference(&kept).unless_above(&kept);
        let merged = self.fields.without(&merged, &gone);
        let as_is = target.schema.is_custom().then(|| merged.clone());
        let checked = check_value(merged, target.schema, target.root)
            .map_err(|error| unusable(target, &self.config, &error.to_string()))?;
        // What was written to a custom resource stays as it is; its own schema is asked later.
        let mut result = match as_is {
            Some(merged) => merged,
            None => checked.value,
        };
        result["apiVersion"] = manager.api_version.into();
        result["kind"] = target.kind.into();
        Ok(result)
    }

    /// Finds what others own of the changes: refuses it, or takes it over.
    fn settle(&mut self, changed: &FieldSet, mine: &Entry, force: bool) -> ApiResult<()> {
        let mut conflicts: Vec<(usize, FieldSet)> = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if !entry.same_manager(mine) && touches(changed, &entry.fields, false) {
                conflicts.push((index, entry.set().intersection(changed)));
            }
        }
        if !force && !conflicts.is_empty() {
            let allowed = (mine.manager == "kubectl")
                .then(|| self.client_side_applied(mine))
                .flatten()
                .unwrap_or_default();
            let refused: Vec<(String, Vec<String>)> = conflicts
                .iter()
                .map(|(index, both)| (index, both.difference(&allowed)))
                .filter(|(_, both)| !both.is_empty())
                .filter_map(|(index, both)| Some((self.entries.get(*index)?.shown(), both.paths())))
                .collect();
            if !refused.is_empty() {
                return Err(conflict(&refused));
            }
        }
        for (index, both) in conflicts {
            if let Some(entry) = self.entries.get_mut(index) {
                entry.put(&entry.set().difference(&both));
            }
        }
        Ok(())
    }

    /// What kubectl's client-side apply set and nobody changed since: kubectl's server-side apply takes it over.
    fn client_side_applied(&self, mine: &Entry) -> Option<FieldSet> {
        let annotations = self.before.pointer("/metadata/annotations")?;
        let text = annotations.get(LAST_APPLIED)?.as_str()?;
        let last: Value = serde_json::from_str(text).ok()?;
        if last.get("apiVersion")?.as_str()? != mine.api_version {
            return None;
        }
        let last = without_nulls(&last);
        let (changed, removed) = self.fields.compare(&last, &self.before);
        let set = self.fields.of(&last);
        Some(set.difference(&changed).without_trees(&removed))
    }
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
