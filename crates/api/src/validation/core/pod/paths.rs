//! File paths in pods: relative ones that stay below their root.

use crate::field::{ErrorList, FieldError, Path};

/// What upstream says of file modes.
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// No `..` between slashes.
pub(crate) fn no_backsteps(errors: &mut ErrorList, target: &str, path: &Path) {
    if target.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, target, "must not contain '..'"));
    }
}

/// Relative, and no `..`.
pub(crate) fn descending(errors: &mut ErrorList, target: &str, path: &Path) {
    if target.starts_with('/') {
        errors.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(errors, target, path);
}

/// Relative, no `..`, and not beginning with two dots, which the kubelet keeps for itself.
pub(crate) fn not_reserved(errors: &mut ErrorList, target: &str, path: &Path) {
    descending(errors, target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(FieldError::invalid(
            path,
            target,
            "must not start with '..'",
        ));
    }
}

/// Permission bits, where there are any.
pub(crate) fn file_mode(errors: &mut ErrorList, mode: Option<i32>, path: &Path) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(FieldError::invalid(path, mode, MODE));
    }
}
