//! `projected`: Secrets, ConfigMaps, fields and service-account tokens in one directory in memory.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ServiceAccountTokenProjection, Volume, VolumeProjection};

use crate::cluster::TokenWish;
use crate::container::environment::RefKind;
use crate::pod::spec;
use crate::volumes::payload::{self, DEFAULT_MODE, File, Payload, Selection};
use crate::volumes::secret::in_memory;
use crate::volumes::{
    Ready, SetUp, VolumeError, VolumePlugin, atomic, common_user, downward_api, fs_group,
};

/// How long a token is valid when the volume says nothing.
const TOKEN_SECONDS: i64 = 3600;

/// The type.
pub struct Projected;

#[async_trait]
impl VolumePlugin for Projected {
    fn folder(&self) -> &'static str {
        "kubernetes.io~projected"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    fn references(&self, volume: &Volume) -> Vec<(RefKind, String)> {
        let sources = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        let mut all = Vec::new();
        for source in sources {
            if let Some(s) = &source.secret {
                all.push((RefKind::Secret, s.name.clone()));
            }
            if let Some(c) = &source.config_map {
                all.push((RefKind::ConfigMap, c.name.clone()));
            }
        }
        all
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn set_up(&self, set_up: &SetUp<'_>) -> Result<Ready, VolumeError> {
        let source = set_up.volume.projected.clone().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut files = Payload::new();
        let mut refresh_after = None;
        for part in source.sources.iter().flatten() {
            files.extend(self.part(set_up, part, mode).await?);
            if let Some(token) = &part.service_account_token {
                let (file, fresh_for) = token_file(set_up, token, mode).await?;
                files.insert(token.path.clone(), file);
                refresh_after =
                    Some(refresh_after.map_or(fresh_for, |r: Duration| r.min(fresh_for)));
            }
        }
        in_memory(set_up)?;
        let now = set_up.cluster.now();
        atomic::write(&set_up.directory, &files, fs_group(set_up.pod), now)?;
        Ok(Ready {
            path: set_up.directory.clone(),
            refresh_after,
        })
    }
}

impl Projected {
    async fn part(
        &self,
        set_up: &SetUp<'_>,
        part: &VolumeProjection,
        mode: i32,
    ) -> Result<Payload, VolumeError> {
        let namespace = spec::namespace(set_up.pod);
        let mut files = Payload::new();
        if let Some(s) = &part.secret {
            let optional = s.optional == Some(true);
            let selection = Selection {
                items: s.items.as_deref(),
                default_mode: mode,
                optional,
            };
            match set_up.cluster.secret(namespace, &s.name).await? {
                Some(secret) => files.extend(payload::of_secret(&secret, &selection)?),
                None if optional => {}
                None => {
                    let name = s.name.clone();
                    return Err(VolumeError::NotFound {
                        kind: "secret",
                        name,
                    });
                }
            }
        }
        if let Some(c) = &part.config_map {
            let optional = c.optional == Some(true);
            let selection = Selection {
                items: c.items.as_deref(),
                default_mode: mode,
                optional,
            };
            match set_up.cluster.config_map(namespace, &c.name).await? {
                Some(map) => files.extend(payload::of_config_map(&map, &selection)?),
                None if optional => {}
                None => {
                    let name = c.name.clone();
                    return Err(VolumeError::NotFound {
                        kind: "configmap",
                        name,
                    });
                }
            }
        }
        if let Some(d) = &part.downward_api {
            let items = d.items.as_deref().unwrap_or_default();
            files.extend(downward_api::files(set_up, items, mode)?);
        }
        Ok(files)
    }
}

async fn token_file(
    set_up: &SetUp<'_>,
    token: &ServiceAccountTokenProjection,
    mode: i32,
) -> Result<(File, Duration), VolumeError> {
    payload::check_path(&token.path)?;
    let pod = set_up.pod;
    let account = spec::spec(pod).service_account_name.as_deref();
    let wish = TokenWish {
        namespace: spec::namespace(pod).to_owned(),
        account: account.unwrap_or("default").to_owned(),
        audience: token.audience.clone().filter(|a| !a.is_empty()),
        seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
        pod_name: spec::name(pod).to_owned(),
        pod_uid: spec::uid(pod).to_owned(),
    };
    let granted = set_up.cluster.token(&wish).await?;
    let user = common_user(pod);
    // A container of another user than root, or of a group, is the only one to read it.
    let mode = if user.is_some() || fs_group(pod).is_some() {
        0o600
    } else {
        u32::try_from(mode).unwrap_or(0o644) & 0o777
    };
    let file = File {
        content: granted.token.into_bytes(),
        mode,
        owner: user.filter(|user| *user != 0),
    };
    Ok((file, granted.fresh_for))
}
