//! The hash of a pod template that names ReplicaSets and revisions: short, stable, and in upstream's form.
//!
//! Upstream hashes a dump of its in-memory structures, which nobody else can reproduce; ours hashes the
//! template's JSON. A ReplicaSet made by upstream is still found, since templates are compared, not hashes.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The letters of the encoded hash.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The label that carries the hash.
pub const LABEL: &str = "pod-template-hash";

fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Digits and letters mapped onto letters that make no words.
#[must_use]
pub fn encode(number: u32) -> String {
    let letter = |digit: u8| ALPHABET[usize::from(digit) % ALPHABET.len()] as char;
    number.to_string().bytes().map(letter).collect()
}

/// The hash of some bytes in the form of a template's.
#[must_use]
pub fn of_bytes(bytes: impl IntoIterator<Item = u8>) -> String {
    encode(fnv1a(bytes))
}

/// The hash of a template; `collisions` makes another one of the same template.
#[must_use]
pub fn of(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let json = serde_json::to_vec(template).unwrap_or_default();
    let salt = collisions.map(i32::to_le_bytes).unwrap_or_default();
    let salt = salt.into_iter().filter(|_| collisions.is_some());
    encode(fnv1a(json.into_iter().chain(salt)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stable_and_of_upstreams_form() {
        let template: PodTemplateSpec = serde_json::from_str(
            r#"{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
        )
        .unwrap();
        let hash = of(&template, None);
        // Changing this value would roll every Deployment of every user on upgrade.
        assert_eq!(hash, "77657c567c");
        assert!((8..=10).contains(&hash.len()));
        assert_ne!(hash, of(&template, Some(0)));
        assert_ne!(of(&template, Some(1)), of(&template, Some(0)));
    }

    #[test]
    fn known_vectors() {
        assert_eq!(fnv1a(*b""), 0x811c_9dc5);
        assert_eq!(fnv1a(*b"foobar"), 0xbf9c_f968);
        assert_eq!(encode(1_234_567_890), "56789bcdf4"); // '1' is byte 49, 49 % 27 = 22, the letter '5'
    }
}
