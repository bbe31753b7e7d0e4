//! When an image is pulled if its user does not say.

/// `Always` for the tag `latest` (also when it is implied), else `IfNotPresent`; also for what is no image name.
pub(super) fn pull_policy(image: &str) -> &'static str {
    match tag(image).as_deref() {
        Some("latest") => "Always",
        _ => "IfNotPresent",
    }
}

fn tag(image: &str) -> Option<String> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return None;
    }
    // A colon before the last slash belongs to the registry's port.
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match name.get(path..)?.find(':') {
        Some(colon) => (name.get(..path + colon)?, name.get(path + colon + 1..)),
        None => (name, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) || !is_name(name) {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => Some(String::new()),
        (None, None) => Some("latest".to_owned()),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return false,
        };
        hex.len() == length && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_name(name: &str) -> bool {
    if name.len() == 64 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return false;
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("", name),
    };
    let components = |path: &str| path.split('/').all(is_component);
    is_domain(domain) && components(path) || components(name)
}

fn is_domain(domain: &str) -> bool {
    if domain.is_empty() {
        return true;
    }
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (domain, "0"),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    !port.is_empty()
        && port.bytes().all(|c| c.is_ascii_digit())
        && (host.starts_with('[') && host.ends_with(']') || host.split('.').all(label))
}

fn is_component(component: &str) -> bool {
    // Runs of separators: one dot, one or two underscores, any number of dashes.
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(word)
        && component.ends_with(word)
        && component
            .split(word)
            .all(|run| matches!(run, "" | "." | "_" | "__") || run.chars().all(|c| c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let digest = format!("web@sha256:{}", "0".repeat(64));
        for (image, policy) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("registry.local:5000/team/web", "Always"),
            ("registry.local:5000/team/web:1.0", "IfNotPresent"),
            ("web:1.0", "IfNotPresent"),
            (digest.as_str(), "IfNotPresent"),
            ("Web", "IfNotPresent"),
            ("web:", "IfNotPresent"),
            ("", "IfNotPresent"),
            ("a--b__c.d/e", "Always"),
            ("a..b", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
