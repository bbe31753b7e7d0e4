//! The ciphers of encryption at rest: how one value becomes bytes that nobody reads without the key.
//!
//! The layouts are upstream's, so that either side reads what the other wrote.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};

use super::EncryptionError;

/// The length of an initialisation vector of AES-CBC.
const IV: usize = 16;
/// The length of a nonce of XSalsa20-Poly1305.
const BOX_NONCE: usize = 24;
/// The length of what tells one derived key from another.
const INFO: usize = 32;
/// The least length of a seed that keys are derived from.
pub(super) const SEED: usize = 32;

/// A cipher with its key.
pub(super) enum Cipher {
    /// Nonce, ciphertext, tag; the object's key in the store is authenticated with it.
    Gcm(Box<LessSafeKey>),
    /// Initialisation vector, ciphertext. Nothing is authenticated.
    Cbc(Vec<u8>),
    /// Nonce, tag, ciphertext (XSalsa20 and Poly1305).
    SecretBox(Box<crypto_secretbox::XSalsa20Poly1305>),
    /// The part of a derived key's name, then as `Gcm` under the key derived for this value alone.
    Derived(hkdf::Prk),
}

/// Random bytes that an attacker cannot guess: never from the seeded numbers of a simulation.
pub(super) fn random<const N: usize>() -> Result<[u8; N], EncryptionError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| EncryptionError::new("the system has no random numbers"))?;
    Ok(bytes)
}

struct DerivedLength;

impl hkdf::KeyType for DerivedLength {
    fn len(&self) -> usize {
        32
    }
}

impl Cipher {
    /// AES-GCM with a key of 16 or 32 bytes.
    pub fn gcm(key: &[u8]) -> Result<Self, EncryptionError> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            other => {
                return Err(EncryptionError::new(format!(
                    "AES-GCM keys of {other} bytes are not supported, only of 16 or 32"
                )));
            }
        };
        UnboundKey::new(algorithm, key)
            .map(|key| Self::Gcm(Box::new(LessSafeKey::new(key))))
            .map_err(|_| EncryptionError::new("bad AES-GCM key"))
    }

    /// AES-CBC with a key of 16, 24 or 32 bytes.
    pub fn cbc(key: &[u8]) -> Result<Self, EncryptionError> {
        match key.len() {
            16 | 24 | 32 => Ok(Self::Cbc(key.to_vec())),
            other => Err(EncryptionError::new(format!(
                "crypto/aes: invalid key size {other}"
            ))),
        }
    }

    /// NaCl's secretbox with a key of 32 bytes.
    pub fn secret_box(key: &[u8]) -> Result<Self, EncryptionError> {
        let key: [u8; 32] = key.try_into().map_err(|_| {
            EncryptionError::new(format!(
                "expected key size 32 for secretbox provider, got {}",
                key.len()
            ))
        })?;
        Ok(Self::SecretBox(Box::new(
            crypto_secretbox::XSalsa20Poly1305::new(&key.into()),
        )))
    }

    /// AES-GCM with a key of its own for each value, derived from a seed.
    pub fn derived(seed: &[u8]) -> Result<Self, EncryptionError> {
        if seed.len() < SEED {
            return Err(EncryptionError::new(format!(
                "invalid seed length {} used for key generation",
                seed.len()
            )));
        }
        Ok(Self::Derived(hkdf::Prk::new_less_safe(
            hkdf::HKDF_SHA256,
            seed,
        )))
    }

    /// Encrypts a value, appending to `out`. `place` is the key in the store.
    pub fn seal(
        &self,
        out: &mut Vec<u8>,
        plain: &[u8],
        place: &str,
    ) -> Result<(), EncryptionError> {
        match self {
            Self::Gcm(key) => seal_gcm(key, out, plain, place),
            Self::Derived(seed) => {
                let info = random::<INFO>()?;
                let key = derive(seed, &info)?;
                out.extend_from_slice(&info);
                seal_gcm(&key, out, plain, place)
            }
            Self::Cbc(key) => {
                let iv = random::<IV>()?;
                out.extend_from_slice(&iv);
                out.extend(seal_cbc(key, &iv, plain)?);
                Ok(())
            }
            Self::SecretBox(cipher) => {
                let nonce = random::<BOX_NONCE>()?;
                out.extend_from_slice(&nonce);
                out.extend(
                    cipher
                        .encrypt(&nonce.into(), plain)
                        .map_err(|_| EncryptionError::new("encryption failed"))?,
                );
                Ok(())
            }
        }
    }

    /// Decrypts what [`Cipher::seal`] made for the same place.
    pub fn open(&self, data: &[u8], place: &str) -> Result<Vec<u8>, EncryptionError> {
        let short = || EncryptionError::new("the stored data was shorter than the required size");
        match self {
            Self::Gcm(key) => open_gcm(key, data, place),
            Self::Derived(seed) => {
                let (info, rest) = data.split_at_checked(INFO).ok_or_else(short)?;
                open_gcm(&derive(seed, info)?, rest, place)
            }
            Self::Cbc(key) => {
                let (iv, rest) = data.split_at_checked(IV).ok_or_else(short)?;
                open_cbc(key, iv, rest)
            }
            Self::SecretBox(cipher) => {
                let (nonce, rest) = data.split_at_checked(BOX_NONCE).ok_or_else(short)?;
                let nonce: [u8; BOX_NONCE] = nonce.try_into().map_err(|_| short())?;
                cipher.decrypt(&nonce.into(), rest).map_err(|_| {
                    EncryptionError::new("output array was not large enough for encryption")
                })
            }
        }
    }
}

fn derive(seed: &hkdf::Prk, info: &[u8]) -> Result<LessSafeKey, EncryptionError> {
    let failed = |_| EncryptionError::new("failed to derive a key");
    let mut key = [0; 32];
    seed.expand(&[info], DerivedLength)
        .and_then(|okm| okm.fill(&mut key))
        .map_err(failed)?;
    UnboundKey::new(&AES_256_GCM, &key)
        .map(LessSafeKey::new)
        .map_err(failed)
}

fn seal_gcm(
    key: &LessSafeKey,
    out: &mut Vec<u8>,
    plain: &[u8],
    place: &str,
) -> Result<(), EncryptionError> {
    let nonce = random::<NONCE_LEN>()?;
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.as_bytes()),
            &mut out[start..],
        )
        .map_err(|_| EncryptionError::new("encryption failed"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

fn open_gcm(key: &LessSafeKey, data: &[u8], place: &str) -> Result<Vec<u8>, EncryptionError> {
    let short = || EncryptionError::new("the stored data was shorter than the required size");
    let (nonce, rest) = data.split_at_checked(NONCE_LEN).ok_or_else(short)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| short())?;
    let mut plain = rest.to_vec();
    let length = key
        .open_in_place(nonce, Aad::from(place.as_bytes()), &mut plain)
        .map_err(|_| EncryptionError::new("cipher: message authentication failed"))?
        .len();
    plain.truncate(length);
    Ok(plain)
}

macro_rules! by_key_length {
    ($key:ident, $iv:ident, $mode:ident, $cipher:ident => $work:expr) => {
        match $key.len() {
            16 => cbc::$mode::<aes::Aes128>::new_from_slices($key, $iv).map(|$cipher| $work),
            24 => cbc::$mode::<aes::Aes192>::new_from_slices($key, $iv).map(|$cipher| $work),
            _ => cbc::$mode::<aes::Aes256>::new_from_slices($key, $iv).map(|$cipher| $work),
        }
        .map_err(|_| EncryptionError::new("bad AES-CBC key"))
    };
}

fn seal_cbc(key: &[u8], iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, EncryptionError> {
    by_key_length!(key, iv, Encryptor, cipher => cipher.encrypt_padded_vec_mut::<Pkcs7>(plain))
}

fn open_cbc(key: &[u8], iv: &[u8], data: &[u8]) -> Result<Vec<u8>, EncryptionError> {
    by_key_length!(key, iv, Decryptor, cipher => cipher.decrypt_padded_vec_mut::<Pkcs7>(data))?
        .map_err(|_| EncryptionError::new("invalid padding on input"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_opens_what_it_sealed_and_nothing_else() {
        let ciphers = [
            Cipher::gcm(&[7; 16]),
            Cipher::gcm(&[7; 32]),
            Cipher::cbc(&[7; 16]),
            Cipher::cbc(&[7; 24]),
            Cipher::cbc(&[7; 32]),
            Cipher::secret_box(&[7; 32]),
            Cipher::derived(&[7; 32]),
        ];
        for (at, cipher) in ciphers.into_iter().enumerate() {
            let cipher = cipher.unwrap();
            for plain in [&b""[..], b"x", b"exactly 16 bytes", &[9; 1000]] {
                let mut sealed = b"head".to_vec();
                cipher
                    .seal(&mut sealed, plain, "/registry/secrets/a/b")
                    .unwrap();
                let sealed = &sealed[4..];
                assert_eq!(
                    cipher.open(sealed, "/registry/secrets/a/b").unwrap(),
                    plain,
                    "{at}"
                );
                let authenticated = !matches!(cipher, Cipher::Cbc(_));
                if authenticated {
                    let mut bent = sealed.to_vec();
                    *bent.last_mut().unwrap() ^= 1;
                    assert!(cipher.open(&bent, "/registry/secrets/a/b").is_err());
                }
                if matches!(cipher, Cipher::Gcm(_) | Cipher::Derived(_)) {
                    assert!(cipher.open(sealed, "/registry/secrets/a/c").is_err());
                }
            }
            for short in 0..64 {
                let _ = cipher.open(&vec![0; short], "x");
            }
        }
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        assert!(Cipher::gcm(&[0; 24]).is_err() && Cipher::gcm(&[0; 5]).is_err());
        assert!(Cipher::cbc(&[0; 20]).is_err());
        assert!(Cipher::secret_box(&[0; 16]).is_err());
        assert!(Cipher::derived(&[0; 31]).is_err());
    }

    #[test]
    fn secretbox_is_nacls() {
        // The test vector of NaCl's paper: key, nonce and message give this box.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2)
                .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
                .collect()
        };
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let mut stored = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        stored.extend(hex(concat!(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a",
            "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
            "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74",
            "e355a5"
        )));
        let cipher = Cipher::secret_box(&key).unwrap();
        let message = cipher.open(&stored, "").unwrap();
        assert_eq!(message.len(), 131);
        assert_eq!(message[..8], hex("be075fc53c81f2d5")[..]);
    }
}
