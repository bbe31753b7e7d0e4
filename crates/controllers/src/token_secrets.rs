//! Fills secrets of type `kubernetes.io/service-account-token` with a token of their account, and deletes those whose
//! account is gone.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use skiff_client::{
    Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, WatchSpec, is_conflict,
    is_not_found,
};

use crate::Context;
use crate::context::TokenSigner;
use crate::deletion::delete_seen;

/// The name of this controller. As upstream's it acts as the controller manager.
pub const NAME: &str = "serviceaccount-token-controller";

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The index of secrets by `namespace/account`.
const ACCOUNT_INDEX: &str = "account";

struct TokenSecrets {
    client: Client,
    accounts: SharedCache<ServiceAccount>,
    secrets: SharedCache<Secret>,
    signer: Option<TokenSigner>,
    certificates: Vec<u8>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let accounts = context.caches.of::<ServiceAccount>();
    let spec = WatchSpec::all::<Secret>().fields(format!("type={TYPE}"));
    let secrets = context.caches.watch::<Secret>(spec);
    secrets.add_index(ACCOUNT_INDEX, |secret: &Secret| {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        let account = annotation(secret, ACCOUNT).map(|name| format!("{namespace}/{name}"));
        account.into_iter().collect()
    });
    let queue = context.queue();
    accounts.wait_synced().await;
    secrets.wait_synced().await;
    let _secrets = {
        let queue = queue.clone();
        secrets.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) {
                queue.add(ObjectKey::of(&event.object().metadata));
            }
        })
    };
    let _accounts = {
        let (queue, secrets) = (queue.clone(), secrets.clone());
        accounts.on_event(move |event| {
            // An account changes often (pull secrets); its tokens hang on its uid only.
            if matches!(event, Event::Updated { old, new } if old.metadata.uid == new.metadata.uid)
            {
                return;
            }
            let account = ObjectKey::of(&event.object().metadata);
            for secret in secrets.by_index(ACCOUNT_INDEX, account.as_str()) {
                queue.add(ObjectKey::of(&secret.metadata));
            }
        })
    };
    let reconciler = TokenSecrets {
        client: context.manager.clone(),
        accounts,
        secrets,
        signer: context.config.token_signer.clone(),
        certificates: context.config.root_ca_pem.clone().into_bytes(),
    };
    context.run(reconciler, queue, 2).await;
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations
        .get(name)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

/// Whether the secret's token is one of this account.
fn belongs(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    annotation(secret, ACCOUNT) == account.metadata.name.as_deref()
        && (uid.is_none() || uid == account.metadata.uid.as_deref())
}

/// What is missing in a secret; the token is made only where it is.
#[derive(Debug, PartialEq)]
struct Missing {
    certificates: bool,
    namespace: bool,
    token: bool,
}

impl Missing {
    fn of(secret: &Secret, certificates: &[u8]) -> Self {
        let value = |key: &str| {
            let found = secret.data.as_ref().and_then(|data| data.get(key));
            found.map(|value| &*value.0).unwrap_or_default()
        };
        Self {
            certificates: !certificates.is_empty() && value("ca.crt") != certificates,
            namespace: value("namespace").is_empty(),
            token: value("token").is_empty(),
        }
    }

    fn any(&self) -> bool {
        self.certificates || self.namespace || self.token
    }
}

#[async_trait]
impl Reconciler for TokenSecrets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "serviceaccount_tokens_service"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(secret) = self.secrets.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(name) = annotation(&secret, ACCOUNT) else {
            return Ok(Outcome::Done);
        };
        let account = match self.accounts.get_named(key.namespace(), name) {
            Some(account) if belongs(&secret, &account) => Some((*account).clone()),
            // The cache may be behind: a token is deleted only when the server says so.
            _ => {
                let api: Api<ServiceAccount> =
                    Api::namespaced(self.client.clone(), key.namespace());
                let fresh = api.get_opt(name).await?;
                fresh.filter(|account| belongs(&secret, account))
            }
        };
        match account {
            Some(account) => self.fill(key, &secret, &account).await,
            None => self.delete(key, &secret).await,
        }
    }
}

impl TokenSecrets {
    async fn fill(
        &self,
        key: &ObjectKey,
        secret: &Secret,
        account: &ServiceAccount,
    ) -> Result<Outcome, ReconcileError> {
        let missing = Missing::of(secret, &self.certificates);
        let (true, Some(signer)) = (missing.any(), &self.signer) else {
            return Ok(Outcome::Done);
        };
        let mut secret = secret.clone();
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        let (name, uid) = (
            account.metadata.name.clone().unwrap_or_default(),
            account.metadata.uid.clone().unwrap_or_default(),
        );
        if missing.certificates {
            data.insert("ca.crt".to_owned(), ByteString(self.certificates.clone()));
        }
        if missing.namespace {
            let namespace = key.namespace().as_bytes().to_vec();
            data.insert("namespace".to_owned(), ByteString(namespace));
        }
        if missing.token {
            let token = signer
                .sign(key.namespace(), key.name(), &name, &uid)
                .map_err(ReconcileError::Other)?;
            data.insert("token".to_owned(), ByteString(token.into_bytes()));
        }
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT.to_owned(), name);
        annotations.insert(ACCOUNT_UID.to_owned(), uid);
        let api: Api<Secret> = Api::namespaced(self.client.clone(), key.namespace());
        match api
            .replace(key.name(), &PostParams::default(), &secret)
            .await
        {
            // Changed meanwhile: its event brings it here again.
            Err(error) if !is_conflict(&error) && !is_not_found(&error) => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }

    async fn delete(&self, key: &ObjectKey, secret: &Secret) -> Result<Outcome, ReconcileError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), key.namespace());
        delete_seen(&api, &secret.metadata, DeleteParams::default()).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_belongs_by_name_and_uid_and_lacks_what_is_not_there() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "robot", "uid": "1"}})).unwrap();
        let secret = |annotations: serde_json::Value, data: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"metadata": {"annotations": annotations}, "data": data}))
                .unwrap()
        };
        for (expected, annotations) in [
            (true, json!({ACCOUNT: "robot"})),
            (true, json!({ACCOUNT: "robot", ACCOUNT_UID: "1"})),
            (false, json!({ACCOUNT: "robot", ACCOUNT_UID: "2"})),
            (false, json!({ACCOUNT: "other"})),
        ] {
            let secret = secret(annotations.clone(), json!({}));
            assert_eq!(belongs(&secret, &account), expected, "{annotations}");
        }
        let fresh = Missing::of(&secret(json!({}), json!({})), b"PEM");
        assert!(fresh.certificates && fresh.namespace && fresh.token);
        let data = json!({"ca.crt": "UEVN", "namespace": "YQ==", "token": "eA=="});
        assert!(!Missing::of(&secret(json!({}), data.clone()), b"PEM").any());
        assert!(Missing::of(&secret(json!({}), data), b"NEW").certificates);
    }
}
