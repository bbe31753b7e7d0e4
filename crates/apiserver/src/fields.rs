//! Who manages which field of an object.

use skiff_api::Object;

use crate::write::Target;

/// Records in `managedFields` what a write changed.
pub(crate) fn track(_target: &Target<'_>, _new: &mut dyn Object, _old: Option<&dyn Object>) {}
