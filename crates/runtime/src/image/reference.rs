//! Image names as people write them (`nginx`, `ghcr.io/a/b:1`, `x@sha256:...`) and in full.

use std::fmt;
use std::str::FromStr;

/// The registry of names that do not start with one.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// An image name in full: registry, repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    /// Host, with a port where it is not the default.
    pub registry: String,
    /// Path in the registry.
    pub repository: String,
    /// Tag; `latest` when the name has neither tag nor digest.
    pub tag: Option<String>,
    /// Digest of the manifest.
    pub digest: Option<String>,
}

/// Why a text is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not have the form of one.
    #[error("couldn't parse image name {0:?}: invalid reference format")]
    Format(String),
    /// It has capital letters in the repository.
    #[error(
        "couldn't parse image name {0:?}: invalid reference format: repository name must be lowercase"
    )]
    Uppercase(String),
    /// It is too long.
    #[error(
        "couldn't parse image name {0:?}: repository name must not be more than 255 characters"
    )]
    TooLong(String),
    /// It could be the id of an image.
    #[error(
        "couldn't parse image name {0:?}: invalid repository name, cannot specify 64-byte hexadecimal strings"
    )]
    LooksLikeId(String),
}

impl ImageReference {
    /// `registry/repository`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository@digest`.
    #[must_use]
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }

    /// `registry/repository:tag`, when there is a tag.
    #[must_use]
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}:{tag}", self.name()))
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = || ReferenceError::Format(text.to_owned());
        if is_hex(text, 64) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(bad()),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it is part of the host.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                if !is_tag(tag) {
                    return Err(bad());
                }
                (name, Some(tag.to_owned()))
            }
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if is_host_like(host) => (host, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = match registry {
            "index.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if !is_host(registry) || path.is_empty() {
            return Err(bad());
        }
        if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(text.to_owned()));
        }
        if !repository.split('/').all(is_component) {
            return Err(bad());
        }
        if registry.len() + 1 + repository.len() > 255 {
            return Err(ReferenceError::TooLong(text.to_owned()));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

/// Whether `text` is the digest of a blob: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| is_hex(hex, 64))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether the first part of a name is a registry and not a folder of the default one.
fn is_host_like(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let host_fits = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !label.is_empty()
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    port_fits && host_fits
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Letters and digits, with single separators (`.`, `_`, `__`, any number of `-`) between them.
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    let mut any = false;
    for byte in text.bytes() {
        if alphanumeric(byte) {
            let fits = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|b| b == b'-');
            if !fits || (!any && !separator.is_empty()) {
                return false;
            }
            separator.clear();
            any = true;
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    any && separator.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed() {
        let table = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("a/b", "docker.io/a/b:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/a/b:1", "docker.io/a/b:1"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("ghcr.io/x/y-z/a_b", "ghcr.io/x/y-z/a_b:latest"),
            ("skiff.local/demo", "skiff.local/demo:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ];
        for (text, full) in table {
            let reference: ImageReference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
        }
        let reference: ImageReference = format!("nginx@{DIGEST}").parse().unwrap();
        assert_eq!(reference.tag, None);
        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/nginx@{DIGEST}")
        );
        let reference: ImageReference = format!("nginx:1@{DIGEST}").parse().unwrap();
        assert_eq!(reference.tag.as_deref(), Some("1"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            ":",
            "nginx:",
            "nginx@",
            "nginx@sha256:12",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "nginx:-1",
            "a b",
            "ex ample.com/a",
            "example.com:x/a",
            "../a",
            "a/../b",
            "example.com/",
            "nginx:1:2",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text:?}");
        }
        assert_eq!(
            "Nginx".parse::<ImageReference>(),
            Err(ReferenceError::Uppercase("Nginx".into()))
        );
        assert!(matches!(
            DIGEST[7..].parse::<ImageReference>(),
            Err(ReferenceError::LooksLikeId(_))
        ));
        assert!(matches!(
            "a".repeat(256).parse::<ImageReference>(),
            Err(ReferenceError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn the_full_name_stays_itself(text in "[a-z0-9./:_@-]{0,40}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                let full = reference.to_string();
                prop_assert_eq!(full.parse::<ImageReference>(), Ok(reference));
            }
        }

        #[test]
        fn any_text_is_answered(text in ".{0,300}") {
            let _ = text.parse::<ImageReference>();
        }
    }
}
