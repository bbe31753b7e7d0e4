//! What every write shares: decoding a body, the guarded read-change-write loop, and the answer.

use std::borrow::Cow;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;
use skiff_api::schema::body::{self, FieldValidation};
use skiff_api::schema::openapi::custom::whole_numbers;
use skiff_api::validation::meta::{
    finalizer_groups, validate_object_meta, validate_object_meta_update,
};
use skiff_api::{ApiError, ApiResult, ErrorList, Object, ObjectExt, Path, WriteContext};
use skiff_store::StoreError;

use crate::admission::expressions::Checker;
use crate::admission::{self, AdmissionRequest, Given, Operation};
use crate::cache::Entry;
use crate::content;
use crate::query::WriteOptions;
use crate::read::{object_response, store_error};
use crate::registry::{Resource, ServedKind};
use crate::server::{ApiServer, Call};

/// How often a write is tried again when others write the same object.
const ATTEMPTS: usize = 64;
/// Upstream's words for a lost race.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// The object that a write is about.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub call: &'a Call,
    pub resource: &'a Resource,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
    pub options: &'a WriteOptions,
}

/// An object's state in the store.
pub(crate) struct Current {
    /// The bytes as stored, without resourceVersion.
    pub stored: Bytes,
    pub revision: u64,
    /// The same as JSON, in the stored version.
    pub value: Value,
    /// Typed, in the stored version, resourceVersion set.
    pub object: Box<dyn Object>,
}

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// Whatever the subresource's own code changes; it has checked it.
    Own,
}

/// What became of a write.
pub(crate) struct Written {
    /// The object with its resourceVersion, in the stored version.
    pub entry: Entry,
    pub created: bool,
}

impl Target<'_> {
    pub fn key(&self) -> String {
        self.resource.key(self.namespace, self.name)
    }

    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(
            &self.resource.kind.group,
            &self.resource.kind.plural,
            self.name,
        )
    }

    pub fn conflict(&self, why: &str) -> ApiError {
        ApiError::conflict(
            &self.resource.kind.group,
            &self.resource.kind.plural,
            self.name,
            why,
        )
    }

    pub fn invalid(&self, errors: &ErrorList) -> ApiError {
        ApiError::invalid(
            &self.resource.kind.group,
            &self.resource.kind.kind,
            self.name,
            errors,
        )
    }

    pub fn admission(&self, operation: Operation) -> AdmissionRequest<'_> {
        AdmissionRequest {
            call: self.call,
            operation,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            dry_run: self.options.dry_run,
            given: Given::default(),
            reinvocation: Default::default(),
            marks: Default::default(),
        }
    }

    pub fn context(&self) -> WriteContext {
        WriteContext {
            now: self.call.server.now(),
            user: self.call.user.name.clone(),
            uid: self.call.user.uid.clone(),
            groups: self.call.user.groups.clone(),
            extra: self.call.user.extra.clone(),
            subresource: self.subresource.to_owned(),
        }
    }

    /// Whether the object's bytes should be written again although nothing changed.
    async fn wants_rewrite(&self) -> ApiResult<bool> {
        let wanted = self.call.server.store.wants_rewrite(&self.key()).await;
        wanted.map_err(|error| store_error(&error))
    }

    /// An object of a custom resource in another version.
    async fn converted(&self, value: Value, version: &str) -> ApiResult<Value> {
        let Some(definition) = crate::crd::definition_of(&self.resource.kind) else {
            return Ok(value);
        };
        let server = &self.call.server;
        let made = crate::crd::convert(server, definition, vec![value], version).await?;
        Ok(made.into_iter().next().unwrap_or_default())
    }

    /// What is written for an object in the store's form: custom resources are stored in one version, whatever version
    /// they are written in.
    pub async fn stored_form(&self, bytes: &Bytes) -> ApiResult<Bytes> {
        match crate::crd::definition_of(&self.resource.kind) {
            Some(definition) if definition.storage_version() != self.resource.kind.version => {
                let value = serde_json::from_slice(bytes).map_err(ApiError::internal)?;
                let value = self.converted(value, definition.storage_version()).await?;
                let bytes = serde_json::to_vec(&value).map_err(ApiError::internal)?;
                Ok(bytes.into())
            }
            _ => Ok(bytes.clone()),
        }
    }

    /// The object's state now.
    pub async fn current(&self) -> ApiResult<Option<Current>> {
        let found = self.call.server.store.get(&self.key(), None).await;
        let Some(kv) = found.map_err(|error| store_error(&error))? else {
            return Ok(None);
        };
        let mut value: Value = serde_json::from_slice(&kv.value).map_err(ApiError::internal)?;
        if let Some(custom) = self.resource.kind.as_custom() {
            custom.definition().normalize(&mut value);
            if crate::crd::definition_of(&self.resource.kind).is_some() {
                value = self.converted(value, &self.resource.kind.version).await?;
            }
        }
        let mut object = self
            .resource
            .storage
            .ops
            .decode(Cow::Borrowed(&value))
            .map_err(ApiError::internal)?;
        object.metadata_mut().resource_version = Some(kv.mod_revision.to_string());
        Ok(Some(Current {
            stored: kv.value,
            revision: kv.mod_revision,
            value,
            object,
        }))
    }
}

impl Current {
    /// The object in the served version, resourceVersion set.
    pub fn served(&self, resource: &Resource) -> Value {
        let mut value = self.value.clone();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert(
                "resourceVersion".to_owned(),
                self.revision.to_string().into(),
            );
        }
        resource.served(value)
    }
}

impl ApiServer {
    /// The time of a write: whole seconds, as metadata has them.
    pub(crate) fn now(&self) -> Timestamp {
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    pub(crate) fn new_uid(&self) -> String {
        self.random.uuid()
    }
}

/// A request body as JSON in the served version, checked against the kind's schema.
pub(crate) fn parse_body(
    call: &Call,
    kind: &ServedKind,
    body: &Bytes,
    validation: FieldValidation,
) -> ApiResult<Value> {
    let (text, format) = content::body_text(call, body)?;
    let target = kind.target()?;
    let decoded = body::decode(&target, &text, format, validation)?;
    for warning in decoded.warnings {
        call.warn(warning);
    }
    Ok(decoded.value)
}

/// The typed, defaulted object of a kind.
pub(crate) fn decode_kind(kind: &ServedKind, value: Value) -> ApiResult<Box<dyn Object>> {
    let mut object = kind.ops.decode(Cow::Owned(value)).map_err(|error| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {}",
            kind.kind, kind.version, kind.kind, error.message
        ))
    })?;
    kind.ops.default(&mut *object);
    Ok(object)
}

/// The typed, defaulted object in the stored version, from JSON in the served one.
pub(crate) fn decode(resource: &Resource, value: Value) -> ApiResult<Box<dyn Object>> {
    let object = decode_kind(&resource.kind, value)?;
    match &resource.kind.conversion {
        Some(conversion) => decode_kind(
            &resource.storage,
            (conversion.to_storage)(object.to_value()),
        ),
        None => Ok(object),
    }
}

/// An object as JSON. The numbers in a definition's schema are written as they were, without a point.
pub(crate) fn json_of(object: &dyn Object) -> Value {
    let mut value = object.to_value();
    if object.downcast_ref::<CustomResourceDefinition>().is_some() {
        whole_numbers(&mut value);
    }
    value
}

/// An object in the store's form: without resourceVersion.
pub(crate) fn encode(object: &mut dyn Object) -> Bytes {
    object.metadata_mut().resource_version = None;
    if object.downcast_ref::<CustomResourceDefinition>().is_some() {
        return serde_json::to_vec(&json_of(object))
            .unwrap_or_default()
            .into();
    }
    object.to_bytes().into()
}

/// An object as it is shown and as it is stored. Where it would differ from the current one in nothing but the times of
/// its record of owners (`same_record`), the record stays, and nothing is written.
async fn encode_unless_same(
    target: &Target<'_>,
    new: &mut dyn Object,
    current: &Current,
    same_record: bool,
) -> ApiResult<(Bytes, Bytes)> {
    let shown = encode(new);
    let stored = target.stored_form(&shown).await?;
    if !same_record || stored == current.stored || stored.len() != current.stored.len() {
        return Ok((shown, stored));
    }
    new.metadata_mut()
        .managed_fields
        .clone_from(&current.object.metadata().managed_fields);
    let same = encode(new);
    let same_stored = target.stored_form(&same).await?;
    match same_stored == current.stored {
        true => Ok((same, same_stored)),
        false => Ok((shown, stored)),
    }
}

fn is_blank(text: Option<&String>) -> bool {
    text.is_none_or(|text| text.is_empty() || text == "0")
}

/// Reads an object, changes it and writes it, again when others wrote it meanwhile. `change` makes the new object of
/// the current one; a resourceVersion in it must be the current one's. `None`: the object was deleted by the change.
pub(crate) async fn update(
    target: &Target<'_>,
    part: Part,
    change: &mut (dyn FnMut(&Current) -> ApiResult<Box<dyn Object>> + Send),
) -> ApiResult<Written> {
    for _ in 0..ATTEMPTS {
        let current = target.current().await?.ok_or_else(|| target.not_found())?;
        let mut new = change(&current)?;
        check_version(target, part, &current, &mut *new)?;
        let same_record = crate::fields::record(target, Some(&current), &mut *new)?;
        let request = target.admission(Operation::Update);
        let admitted = !is_servers_own(target, part);
        if admitted {
            admission::mutate(&request, &mut new, Some(&*current.object)).await?;
        }
        crate::authz::escalation::check(target, &*new, Some(&*current.object)).await?;
        let allocation = match part {
            Part::Main => {
                crate::services::allocate(target, &mut *new, Some(&*current.object)).await?
            }
            Part::Status | Part::Own => None,
        };
        before_update(target, part, &mut *new, &*current.object)?;
        crate::authz::devices::check(target, &*new, Some(&*current.object)).await?;
        crate::admission::policy::access::check(target, &*new, Some(&*current.object)).await?;
        if admitted {
            admission::judge(&request, &mut *new, Some(&*current.object)).await?;
        }
        if crate::delete::deleted_by_update(target.resource, &*new, &*current.object) {
            match crate::delete::finish(target, &current, &mut *new).await? {
                Some(written) => return Ok(written),
                None => continue,
            }
        }
        let (shown, bytes) = encode_unless_same(target, &mut *new, &current, same_record).await?;
        if target.options.dry_run || (bytes == current.stored && !target.wants_rewrite().await?) {
            return Ok(Written {
                entry: entry(target, &shown, current.revision)?,
                created: false,
            });
        }
        if let Some(allocation) = &allocation {
            allocation.record(target).await?;
        }
        let outcome = target
            .call
            .server
            .store
            .update(&target.key(), bytes.clone(), current.revision, 0)
            .await;
        if let Some(allocation) = &allocation {
            allocation.settle(target.call, outcome.is_ok()).await;
        }
        match outcome {
            Ok(revision) => {
                return Ok(Written {
                    entry: entry(target, &shown, revision)?,
                    created: false,
                });
            }
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(store_error(&error)),
        }
    }
    Err(target.conflict(MODIFIED))
}

/// Whether an update is what the server makes of a binding or an eviction. These were admitted; it is not, again.
fn is_servers_own(target: &Target<'_>, part: Part) -> bool {
    part == Part::Own
        && (target.subresource == "binding" || target.call.info.subresource == "eviction")
}

/// The served form of what was written.
pub(crate) fn entry(target: &Target<'_>, bytes: &Bytes, revision: u64) -> ApiResult<Entry> {
    Entry::new(target.key().into(), bytes, revision)
        .ok_or_else(|| ApiError::internal("object has no metadata"))
}

fn check_version(
    target: &Target<'_>,
    part: Part,
    current: &Current,
    new: &mut dyn Object,
) -> ApiResult<()> {
    let meta = new.metadata_mut();
    let now = current.revision.to_string();
    if !is_blank(meta.uid.as_ref()) && meta.uid != current.object.metadata().uid {
        let text = |uid: Option<&String>| uid.cloned().unwrap_or_default();
        return Err(target.conflict(&format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            text(meta.uid.as_ref()),
            text(current.object.metadata().uid.as_ref())
        )));
    }
    if is_blank(meta.resource_version.as_ref()) {
        if part != Part::Own && !target.resource.storage.ops.allow_unconditional_update() {
            let path = Path::new("metadata").child("resourceVersion");
            let error =
                skiff_api::FieldError::invalid(&path, 0i64, "must be specified for an update");
            return Err(ApiError::invalid(
                &target.resource.kind.group,
                &target.resource.kind.plural,
                target.name,
                &[error],
            ));
        }
        meta.resource_version = Some(now);
    } else if meta.resource_version.as_ref() != Some(&now) {
        return Err(target.conflict(MODIFIED));
    }
    Ok(())
}

/// What upstream calls BeforeUpdate: what an update cannot change is taken from the old object, the kind's own rules
/// are applied, and the outcome is validated.
fn before_update(
    target: &Target<'_>,
    part: Part,
    new: &mut dyn Object,
    old: &dyn Object,
) -> ApiResult<()> {
    let ops = &*target.resource.storage.ops;
    let context = target.context();
    keep_system_fields(new.metadata_mut(), old.metadata());
    match part {
        Part::Main => ops.prepare_update(new, old, &context),
        Part::Status => {
            // Finalizers, owners and the like are not for the status to change.
            ops.prepare_status_update(new, old, &context);
        }
        Part::Own => {}
    }
    let generation = old.metadata().generation;
    new.metadata_mut().generation = match part {
        // Which node a pod runs on is no change of what was asked for.
        Part::Own if target.subresource == "binding" => generation,
        Part::Main | Part::Own
            if ops.has_generation()
                && ops
                    .is_new_generation(new, old)
                    .unwrap_or_else(|| changes_generation(new, old, ops.has_status())) =>
        {
            Some(generation.unwrap_or(0) + 1)
        }
        _ => generation,
    };
    let mut errors = ErrorList::new();
    if part != Part::Own {
        errors.extend(validate_object_meta_update(
            new.metadata(),
            old.metadata(),
            &Path::new("metadata"),
        ));
        errors.extend(finalizer_errors(target, new.metadata()));
    }
    let checker = Checker::default();
    errors.extend(match part {
        Part::Main => ops.validate_update_with(new, old, &checker),
        Part::Status => ops.validate_status_update_with(new, old, &checker),
        Part::Own => ErrorList::new(),
    });
    for warning in checker.into_warnings() {
        target.call.warn(warning);
    }
    if part == Part::Main {
        errors.extend(crate::crd::rule_errors(new, Some(old), errors.is_empty()));
    }
    if !errors.is_empty() {
        return Err(target.invalid(&errors));
    }
    let warnings = match part {
        Part::Main => ops.warnings(new, Some(old)),
        Part::Status => ops.status_warnings(new),
        Part::Own => Vec::new(),
    };
    for warning in warnings {
        target.call.warn(warning);
    }
    Ok(())
}

fn keep_system_fields(new: &mut ObjectMeta, old: &ObjectMeta) {
    if is_blank(new.uid.as_ref()) {
        new.uid.clone_from(&old.uid);
    }
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    new.self_link = None;
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if old.deletion_grace_period_seconds.is_some() && new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
}

/// Whether anything but the metadata and, where it is kept apart, the status differs.
fn changes_generation(new: &dyn Object, old: &dyn Object, has_status: bool) -> bool {
    let rest = |object: &dyn Object| {
        let mut value = object.to_value();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("metadata");
            if has_status {
                fields.remove("status");
            }
        }
        value
    };
    rest(new) != rest(old)
}

/// Finalizers of Kubernetes' own kinds are named with a group; others name theirs as they like.
fn finalizer_errors(target: &Target<'_>, meta: &ObjectMeta) -> ErrorList {
    let kind = &target.resource.kind;
    let free = matches!(
        &*kind.group,
        "apiextensions.k8s.io" | "apiregistration.k8s.io"
    );
    if free || kind.as_custom().is_some() {
        return ErrorList::new();
    }
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    finalizer_groups(finalizers, &Path::new("metadata").child("finalizers"))
}

/// Makes a new object: system fields, the kind's own rules, validation.
pub(crate) fn before_create(target: &Target<'_>, object: &mut dyn Object) -> ApiResult<()> {
    let ops = &*target.resource.storage.ops;
    let meta = object.metadata_mut();
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.generation = None;
    ops.prepare_create(object, &target.context());
    if ops.has_first_generation() {
        object.metadata_mut().generation = Some(1);
    }
    let rule = |name: &str, prefix: bool| ops.name_errors(name, prefix);
    let path = Path::new("metadata");
    let mut errors = validate_object_meta(
        object.metadata(),
        target.resource.namespaced(),
        &rule,
        &path,
    );
    errors.extend(finalizer_errors(target, object.metadata()));
    errors.extend(ops.validate_create_with(object, &Checker::default()));
    errors.extend(crate::crd::rule_errors(object, None, errors.is_empty()));
    if !errors.is_empty() {
        return Err(target.invalid(&errors));
    }
    for warning in ops.warnings(object, None) {
        target.call.warn(warning);
    }
    Ok(())
}

/// Sets what only the server sets on a new object.
pub(crate) fn fill_system_fields(server: &ApiServer, meta: &mut ObjectMeta) {
    meta.creation_timestamp = Some(Time(server.now()));
    meta.uid = Some(server.new_uid());
}

/// Brings the namespace of an object in line with the request's.
pub(crate) fn check_namespace(
    resource: &Resource,
    namespace: &str,
    meta: &mut ObjectMeta,
) -> ApiResult<()> {
    if !resource.namespaced() {
        meta.namespace = None;
        return Ok(());
    }
    match meta.namespace.as_deref() {
        None | Some("") => meta.namespace = Some(namespace.to_owned()),
        Some(same) if same == namespace => {}
        Some(_) => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// The answer to a write.
pub(crate) fn written_response(
    call: &Call,
    resource: &Resource,
    written: &Written,
) -> ApiResult<Response<Body>> {
    let accepted = content::negotiate(call, false)?;
    let code = if written.created { 201 } else { 200 };
    object_response(call, resource, accepted, code, &written.entry)
}
