//! Keys of service-account tokens: read from PEM, shown as JSON web keys, named by a hash of the public key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use p256::pkcs8::EncodePrivateKey as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::tokens::TokenError;

/// A key that signatures are checked with.
pub(crate) struct VerifyingKey {
    /// What tokens name it by.
    pub id: String,
    pub algorithm: Algorithm,
    pub decoding: DecodingKey,
    /// As it stands in the key set.
    pub jwk: Value,
}

/// A key that tokens are signed with.
pub(crate) struct SigningKey {
    pub public: VerifyingKey,
    pub encoding: EncodingKey,
}

fn wrong(error: impl std::fmt::Display) -> TokenError {
    TokenError::Key(error.to_string())
}

impl SigningKey {
    /// The first private key in PEM text: RSA, or on the curves P-256 and P-384.
    pub fn parse(pem: &str) -> Result<Self, TokenError> {
        let mut found = blocks(pem).filter_map(|block| private(&block));
        found
            .next()
            .unwrap_or_else(|| Err(wrong("there is no private key")))
    }
}

impl VerifyingKey {
    /// Every key in PEM text, public or private.
    pub fn parse_all(pem: &str) -> Result<Vec<Self>, TokenError> {
        let keys = blocks(pem).map(|block| match private(&block) {
            Some(key) => key.map(|key| key.public),
            None => public(&block),
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        match keys.is_empty() {
            true => Err(wrong(
                "data does not contain any valid RSA or ECDSA public keys",
            )),
            false => Ok(keys),
        }
    }

    fn new(mut jwk: Jwk) -> Result<Self, TokenError> {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {
                Algorithm::ES384
            }
            _ => return Err(wrong("neither an RSA key nor one on P-256 or P-384")),
        };
        let digest = Sha256::digest(public_key_info(&jwk.algorithm)?);
        let id = URL_SAFE_NO_PAD.encode(digest);
        jwk.common.key_id = Some(id.clone());
        jwk.common.key_algorithm = Some(algorithm.into());
        let decoding = DecodingKey::from_jwk(&jwk).map_err(wrong)?;
        let mut jwk = serde_json::to_value(&jwk).map_err(wrong)?;
        jwk["use"] = "sig".into();
        Ok(Self {
            id,
            algorithm,
            decoding,
            jwk,
        })
    }
}

/// The PEM blocks of a text, each with its frame.
fn blocks(pem: &str) -> impl Iterator<Item = String> + '_ {
    let parts = pem.split("-----BEGIN ").skip(1);
    parts.filter_map(|part| {
        let end = part.find("-----END ")?;
        let rest = part.get(end + 9..)?;
        let end = end + 9 + rest.find("-----")? + 5;
        Some(format!("-----BEGIN {}\n", part.get(..end)?))
    })
}

/// `None`: no private key.
fn private(block: &str) -> Option<Result<SigningKey, TokenError>> {
    let kind = block.strip_prefix("-----BEGIN ")?.split("-----").next()?;
    let block = match kind {
        "RSA PRIVATE KEY" | "PRIVATE KEY" => block.to_owned(),
        // The older form of keys on curves; P-256 is what upstream's tools write.
        "EC PRIVATE KEY" => match p256::SecretKey::from_sec1_pem(block) {
            Ok(key) => match key.to_pkcs8_pem(p256::pkcs8::LineEnding::LF) {
                Ok(pem) => pem.to_string(),
                Err(error) => return Some(Err(wrong(error))),
            },
            Err(error) => return Some(Err(wrong(error))),
        },
        _ => return None,
    };
    let bytes = block.as_bytes();
    let tries = [
        (EncodingKey::from_ec_pem(bytes), Algorithm::ES256),
        (EncodingKey::from_ec_pem(bytes), Algorithm::ES384),
        (EncodingKey::from_rsa_pem(bytes), Algorithm::RS256),
    ];
    for (encoding, algorithm) in tries {
        let Ok(encoding) = encoding else { continue };
        if let Ok(jwk) = Jwk::from_encoding_key(&encoding, algorithm) {
            return Some(VerifyingKey::new(jwk).map(|public| SigningKey { public, encoding }));
        }
    }
    Some(Err(wrong("neither an RSA key nor one on P-256 or P-384")))
}

fn public(block: &str) -> Result<VerifyingKey, TokenError> {
    let bytes = block.as_bytes();
    let tries = [
        (DecodingKey::from_ec_pem(bytes), Algorithm::ES256),
        (DecodingKey::from_rsa_pem(bytes), Algorithm::RS256),
    ];
    for (key, algorithm) in tries {
        let Ok(key) = key else { continue };
        if let Ok(jwk) = Jwk::from_decoding_key(&key, Some(algorithm)) {
            return VerifyingKey::new(jwk);
        }
    }
    Err(wrong(
        "data does not contain any valid RSA or ECDSA public keys",
    ))
}

/// The key as X.509 has it (SubjectPublicKeyInfo), DER: what upstream names keys by.
fn public_key_info(key: &AlgorithmParameters) -> Result<Vec<u8>, TokenError> {
    const EC: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P384: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 34];
    const RSA: &[u8] = &[
        0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 0x05, 0,
    ];
    let decode = |text: &String| URL_SAFE_NO_PAD.decode(text).map_err(wrong);
    let (algorithm, key) = match key {
        AlgorithmParameters::EllipticCurve(point) => {
            let curve = match point.curve {
                EllipticCurve::P256 => P256,
                _ => P384,
            };
            let key = [vec![4], decode(&point.x)?, decode(&point.y)?].concat();
            ([EC, curve].concat(), key)
        }
        AlgorithmParameters::RSA(key) => {
            let integers = [integer(decode(&key.n)?), integer(decode(&key.e)?)].concat();
            (RSA.to_vec(), tlv(0x30, &integers))
        }
        _ => return Err(wrong("a key of an unknown kind")),
    };
    let bits = [vec![0], key].concat();
    Ok(tlv(
        0x30,
        &[tlv(0x30, &algorithm), tlv(0x03, &bits)].concat(),
    ))
}

/// A positive ASN.1 integer.
fn integer(bytes: Vec<u8>) -> Vec<u8> {
    let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
    let sign = bytes.first().is_none_or(|byte| *byte > 127);
    tlv(0x02, &[vec![0; usize::from(sign)], bytes].concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ 0..=127) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
            out.push(0x82);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An RSA key made for these tests: nothing else is signed with it.
    pub(crate) const RSA_KEY: &str = include_str!("testdata/rsa.key");

    #[test]
    fn keys_are_named_by_what_x509_makes_of_them() {
        let key = rcgen::KeyPair::generate().unwrap();
        let parsed = SigningKey::parse(&key.serialize_pem()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(key.public_key_pem().as_bytes()).unwrap();
        let expected = Sha256::digest(pem.contents);
        assert_eq!(parsed.public.id, URL_SAFE_NO_PAD.encode(expected));
        assert_eq!(parsed.public.algorithm, Algorithm::ES256);
        assert_eq!(parsed.public.jwk["use"], "sig");
        // The public half alone has the same name; a file may hold several.
        let both = format!("{}{}", key.public_key_pem(), RSA_KEY);
        let keys = VerifyingKey::parse_all(&both).unwrap();
        assert_eq!(keys[0].id, parsed.public.id);
        assert_eq!(keys[1].algorithm, Algorithm::RS256);
        assert_eq!(keys[1].jwk["alg"], "RS256");
    }

    #[test]
    fn an_rsa_key_is_named_as_upstream_names_it() {
        // openssl pkey -pubout -outform DER | sha256sum | xxd -r -p | base64
        let key = SigningKey::parse(RSA_KEY).unwrap();
        assert_eq!(key.public.id, include_str!("testdata/rsa.id").trim());
    }

    #[test]
    fn older_keys_on_curves_are_read_and_others_refused() {
        let key = SigningKey::parse(include_str!("testdata/sec1.key")).unwrap();
        assert_eq!(key.public.algorithm, Algorithm::ES256);
        assert!(SigningKey::parse("nothing").is_err());
        assert!(VerifyingKey::parse_all("").is_err());
        let broken = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        assert!(VerifyingKey::parse_all(broken).is_err());
    }
}
