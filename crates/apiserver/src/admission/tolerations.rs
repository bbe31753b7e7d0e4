//! Which tolerations include others.

use k8s_openapi::api::core::v1::Toleration;

/// The tolerations without those that another one includes.
pub(super) fn widest(all: &[Toleration]) -> Vec<Toleration> {
    let mut kept: Vec<Toleration> = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let later = all.iter().skip(index + 1);
        let included = kept.iter().any(|other| includes(other, one))
            || later
                .into_iter()
                .any(|other| other != one && includes(other, one));
        if !included {
            kept.push(one.clone());
        }
    }
    kept
}

/// Whether the first tolerates all that the second does.
pub(super) fn includes(wide: &Toleration, narrow: &Toleration) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let any_key = text(&wide.key).is_empty();
    let any_effect = text(&wide.effect).is_empty();
    if wide == narrow {
        return true;
    }
    if !any_key && text(&wide.key) != text(&narrow.key)
        || !any_effect && text(&wide.effect) != text(&narrow.effect)
    {
        return false;
    }
    if text(&wide.effect) == "NoExecute"
        && let Some(seconds) = wide.toleration_seconds
        && narrow
            .toleration_seconds
            .is_none_or(|other| other > seconds)
    {
        return false;
    }
    match text(&wide.operator).as_str() {
        "" | "Equal" => {
            text(&narrow.operator) == "Equal" && text(&wide.value) == text(&narrow.value)
        }
        operator => operator == "Exists",
    }
}
