//! Which providers a key of the store is under.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skiff_base::SharedClock;

use super::EncryptionError;
use super::ciphers::Cipher;
use super::configuration::{EncryptionConfiguration, Keys, Pattern, ProviderConfiguration};
use super::kms::KmsProvider;

/// What every encrypted value starts with.
pub(super) const MARK: &[u8] = b"k8s:enc:";

/// One provider.
pub(super) enum Provider {
    /// No encryption.
    Identity,
    /// Named keys; the first writes. `prefix` is `k8s:enc:<cipher>:v1:`.
    Keyed {
        prefix: &'static str,
        keys: Vec<(String, Cipher)>,
    },
    /// A key management service; the text is `k8s:enc:kms:v2:<name>:`.
    Kms(String, Arc<KmsProvider>),
}

/// The providers of a resource: the first writes, all read.
pub(super) type Providers = Vec<Arc<Provider>>;

/// What is decrypted, and whether it would be written otherwise now.
pub(super) struct Opened {
    pub plain: Vec<u8>,
    pub stale: bool,
}

/// Which providers a key of the store is under.
pub(super) struct Rules {
    by_pattern: HashMap<Pattern, Providers>,
    /// Providers by storage prefix (`/registry/secrets`) of the built-in kinds that a rule is about.
    by_prefix: HashMap<&'static str, Providers>,
    /// Whether a rule may be about custom resources.
    custom: bool,
    /// Whether some rule does not let plain text be read.
    strict: bool,
    services: Vec<Arc<KmsProvider>>,
}

impl Rules {
    pub async fn new(
        configuration: &EncryptionConfiguration,
        clock: &SharedClock,
    ) -> Result<Self, EncryptionError> {
        let mut by_pattern: HashMap<Pattern, Providers> = HashMap::new();
        let mut services = Vec::new();
        for rule in &configuration.resources {
            let mut providers = Providers::new();
            for provider in &rule.providers {
                let provider = provider.make(clock).await?;
                if let Provider::Kms(_, service) = &provider {
                    services.push(service.clone());
                }
                providers.push(Arc::new(provider));
            }
            for text in &rule.resources {
                let pattern = Pattern::parse(text);
                for wider in [
                    Pattern {
                        resource: "*".to_owned(),
                        ..pattern.clone()
                    },
                    Pattern::any(),
                ] {
                    if by_pattern.contains_key(&wider) {
                        return Err(EncryptionError::new(format!(
                            "resource {:?} is masked by earlier rule {:?}",
                            pattern.text(),
                            wider.text()
                        )));
                    }
                }
                by_pattern
                    .entry(pattern)
                    .or_default()
                    .extend(providers.iter().cloned());
            }
        }
        let identity = |provider: &Arc<Provider>| matches!(**provider, Provider::Identity);
        let mut rules = Self {
            strict: by_pattern.values().any(|list| !list.iter().any(identity)),
            custom: by_pattern
                .keys()
                .any(|pattern| pattern.group.contains('.') || pattern.group == "*"),
            by_prefix: HashMap::new(),
            by_pattern,
            services,
        };
        for kind in skiff_api::kinds().iter().filter(|kind| kind.is_stored()) {
            let group = match kind.group {
                "events.k8s.io" => "",
                group => group,
            };
            if let Some(providers) = rules.find(group, kind.plural) {
                rules.by_prefix.insert(kind.storage, providers.clone());
            }
        }
        Ok(rules)
    }

    fn find(&self, group: &str, resource: &str) -> Option<&Providers> {
        let pattern = |group: &str, resource: &str| {
            self.by_pattern.get(&Pattern {
                group: group.to_owned(),
                resource: resource.to_owned(),
            })
        };
        pattern(group, resource)
            .or_else(|| pattern(group, "*"))
            .or_else(|| pattern("*", "*"))
    }

    /// The providers of a key of the store; `None`: it is under no rule.
    fn of(&self, key: &str) -> Option<&Providers> {
        let mut slashes = key.match_indices('/').map(|(at, _)| at).skip(2);
        let (two, three) = (slashes.next()?, slashes.next());
        let prefix = |end: usize| key.get(..end);
        let built_in = prefix(two)
            .and_then(|prefix| self.by_prefix.get(prefix))
            .or_else(|| self.by_prefix.get(prefix(three?)?));
        if built_in.is_some() || !self.custom {
            return built_in;
        }
        // Custom resources lie under /registry/<group>/<plural>/; their groups have a dot, no built-in plural has.
        let mut segments = key.split('/').skip(2);
        let (group, plural) = (segments.next()?, segments.next()?);
        let known = skiff_api::kinds()
            .iter()
            .any(|kind| kind.group == group && kind.plural == plural);
        if !group.contains('.') || known {
            return None;
        }
        self.find(group, plural)
    }

    /// Whether a value is what it seems, and needs no look at the rules.
    pub fn passes(&self, value: &[u8]) -> bool {
        !self.strict && !value.starts_with(MARK)
    }

    /// The providers that a value of this key is written with; `None`: as it is.
    pub fn writers(&self, key: &str) -> Option<&Providers> {
        self.of(key).filter(|list| {
            list.first()
                .is_some_and(|first| !matches!(**first, Provider::Identity))
        })
    }

    /// Decrypts a value.
    pub async fn open(&self, key: &str, value: &[u8]) -> Result<Opened, EncryptionError> {
        let mut failure = EncryptionError::new("no matching prefix found");
        let providers = self.of(key);
        let Some(providers) = providers else {
            if value.starts_with(MARK) {
                return Err(EncryptionError::new(
                    "identity transformer tried to read encrypted data",
                ));
            }
            return Ok(Opened {
                plain: value.to_vec(),
                stale: false,
            });
        };
        for (at, provider) in providers.iter().enumerate() {
            match provider.open(key, value).await {
                None => {}
                Some(Ok(opened)) => {
                    return Ok(Opened {
                        stale: opened.stale || at != 0,
                        ..opened
                    });
                }
                // Another provider of the same kind may have the key.
                Some(Err(error)) => failure = error,
            }
        }
        Err(failure)
    }

    /// What is wrong with the key management services.
    pub fn ailment(&self) -> Option<String> {
        self.services.iter().find_map(|service| service.ailment())
    }

    /// Whether a key management service is asked.
    pub fn has_services(&self) -> bool {
        !self.services.is_empty()
    }
}

impl Provider {
    async fn open(&self, key: &str, value: &[u8]) -> Option<Result<Opened, EncryptionError>> {
        match self {
            // Encrypted values are for the others.
            Self::Identity => (!value.starts_with(MARK)).then(|| {
                Ok(Opened {
                    plain: value.to_vec(),
                    stale: false,
                })
            }),
            Self::Keyed { prefix, keys } => {
                let rest = value.strip_prefix(prefix.as_bytes())?;
                let mut failure = None;
                for (at, (name, cipher)) in keys.iter().enumerate() {
                    let Some(data) = rest
                        .strip_prefix(name.as_bytes())
                        .and_then(|rest| rest.strip_prefix(b":"))
                    else {
                        continue;
                    };
                    match cipher.open(data, key) {
                        Ok(plain) => {
                            let stale = at != 0;
                            return Some(Ok(Opened { plain, stale }));
                        }
                        Err(error) => failure = Some(error),
                    }
                }
                Some(Err(failure.unwrap_or_else(|| {
                    EncryptionError::new(if *prefix == SECRETBOX {
                        "no matching key was found for the provided Secretbox transformer"
                    } else {
                        "no matching key was found for the provided AES transformer"
                    })
                })))
            }
            Self::Kms(prefix, service) => {
                let data = value.strip_prefix(prefix.as_bytes())?;
                Some(service.open(key, data).await)
            }
        }
    }

    /// Encrypts a value.
    pub async fn seal(&self, key: &str, plain: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let mut out = Vec::with_capacity(plain.len() + 128);
        match self {
            Self::Identity => out.extend_from_slice(plain),
            Self::Keyed { prefix, keys } => {
                let (name, cipher) = keys.first().ok_or_else(|| EncryptionError::new("no key"))?;
                out.extend_from_slice(prefix.as_bytes());
                out.extend_from_slice(name.as_bytes());
                out.push(b':');
                cipher.seal(&mut out, plain, key)?;
            }
            Self::Kms(prefix, service) => {
                out.extend_from_slice(prefix.as_bytes());
                service.seal(&mut out, key, plain).await?;
            }
        }
        Ok(out)
    }
}

const SECRETBOX: &str = "k8s:enc:secretbox:v1:";

type MakeCipher = fn(&[u8]) -> Result<Cipher, EncryptionError>;

fn keyed(prefix: &'static str, keys: &Keys, make: MakeCipher) -> Result<Provider, EncryptionError> {
    let keys = keys.keys.iter().map(|key| {
        let secret = STANDARD.decode(&key.secret).map_err(|error| {
            EncryptionError::new(format!(
                "could not obtain secret for named key {}: {error}",
                key.name
            ))
        })?;
        let cipher = make(&secret).map_err(|error| {
            EncryptionError::new(format!(
                "error while creating cipher for named key {}: {error}",
                key.name
            ))
        })?;
        Ok((key.name.clone(), cipher))
    });
    Ok(Provider::Keyed {
        prefix,
        keys: keys.collect::<Result<_, EncryptionError>>()?,
    })
}

impl ProviderConfiguration {
    async fn make(&self, clock: &SharedClock) -> Result<Provider, EncryptionError> {
        if let Some(keys) = &self.aesgcm {
            return keyed("k8s:enc:aesgcm:v1:", keys, Cipher::gcm);
        }
        if let Some(keys) = &self.aescbc {
            return keyed("k8s:enc:aescbc:v1:", keys, Cipher::cbc);
        }
        if let Some(keys) = &self.secretbox {
            return keyed(SECRETBOX, keys, Cipher::secret_box);
        }
        let Some(kms) = &self.kms else {
            return Ok(Provider::Identity);
        };
        if kms.version() != "v2" {
            return Err(EncryptionError::new(
                "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature.",
            ));
        }
        let service = KmsProvider::start(kms, clock.clone()).await?;
        Ok(Provider::Kms(
            format!("k8s:enc:kms:v2:{}:", kms.name),
            service,
        ))
    }
}
