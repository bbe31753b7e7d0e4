//! Objects of one version of a custom resource as objects of another: by changing the name of the version, or by asking
//! a webhook.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::WebhookConversion;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use skiff_api::apiextensions::structural::prune;
use skiff_api::{ApiError, ApiResult};

use super::definition::{Definition, version_of};
use crate::cache::Entry;
use crate::registry::ServedKind;
use crate::server::ApiServer;
use crate::webhook::{self, Client, ClientConfig};

/// The webhook that converts the objects of a definition.
pub(super) struct Webhook {
    config: Result<ClientConfig, String>,
    /// The version of `ConversionReview` that both sides know.
    review: Option<&'static str>,
    client: Mutex<Option<Arc<Client>>>,
}

impl Webhook {
    pub fn new(webhook: &WebhookConversion) -> Self {
        let config = match &webhook.client_config {
            None => Err("webhook configuration must have either service or URL".to_owned()),
            Some(config) => ClientConfig::new(
                config.url.as_deref(),
                config.service.as_ref().map(|service| {
                    let name = (service.namespace.as_str(), service.name.as_str());
                    (name.0, name.1, service.port, service.path.as_deref())
                }),
                config
                    .ca_bundle
                    .as_ref()
                    .map_or(&[][..], |bundle| &bundle.0),
            ),
        };
        let known = webhook.conversion_review_versions.iter();
        let review = known
            .filter_map(|version| match version.as_str() {
                "v1" => Some("v1"),
                "v1beta1" => Some("v1beta1"),
                _ => None,
            })
            .next();
        Self {
            config,
            review,
            client: Mutex::new(None),
        }
    }

    fn client(&self, server: &Arc<ApiServer>) -> Result<Arc<Client>, String> {
        let mut kept = self.client.lock();
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::new(server, self.config.as_ref()?)?);
        *kept = Some(client.clone());
        Ok(client)
    }

    /// Asks for all objects at once.
    async fn ask(
        &self,
        server: &Arc<ApiServer>,
        objects: &[Value],
        wanted: &str,
    ) -> Result<Vec<Value>, String> {
        let review = self
            .review
            .ok_or("no supported conversion review versions")?;
        let api_version = format!("apiextensions.k8s.io/{review}");
        let uid = server.new_uid();
        let request = json!({
            "kind": "ConversionReview", "apiVersion": api_version,
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
        });
        let client = self.client(server)?;
        let mut answer = webhook::convert(&client, &request)
            .await
            .map_err(|error| error.to_string())?;
        let text = |pointer: &str| {
            let found = answer.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        if text("/apiVersion") != api_version || text("/kind") != "ConversionReview" {
            return Err(format!(
                "expected webhook response of {api_version}, Kind=ConversionReview, got {}, Kind={}",
                text("/apiVersion"),
                text("/kind")
            ));
        }
        if answer.get("response").is_none_or(Value::is_null) {
            return Err("no response provided".to_owned());
        }
        let answered = text("/response/uid");
        if answered != uid && review == "v1" {
            return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
        }
        let status = text("/response/result/status");
        if status != "Success" {
            return Err(match text("/response/result/message") {
                message if !message.is_empty() => message,
                _ => format!("response.result.status was '{status}', not 'Success'"),
            });
        }
        match answer.pointer_mut("/response/convertedObjects") {
            Some(Value::Array(list)) => Ok(std::mem::take(list)),
            _ => Ok(Vec::new()),
        }
    }
}

/// Objects in the version wanted, in their order. Those that are in it already stay as they are.
pub(crate) async fn convert(
    server: &Arc<ApiServer>,
    definition: &Definition,
    mut objects: Vec<Value>,
    wanted: &str,
) -> ApiResult<Vec<Value>> {
    let api_version = format!("{}/{wanted}", definition.group);
    let others: Vec<usize> = (0..objects.len())
        .filter(|index| {
            let object = objects.get(*index);
            object.and_then(version_of) != Some(wanted)
        })
        .collect();
    if others.is_empty() {
        return Ok(objects);
    }
    let failed = |why: String| ApiError::new(500, "", why);
    match &definition.webhook {
        None => {
            for index in others {
                if let Some(object) = objects.get_mut(index).and_then(Value::as_object_mut) {
                    object.insert("apiVersion".to_owned(), api_version.clone().into());
                }
                prune_to(definition, objects.get_mut(index), wanted);
            }
        }
        Some(webhook) => {
            let sent: Vec<Value> = others
                .iter()
                .filter_map(|index| objects.get(*index).cloned())
                .collect();
            let from = sent
                .first()
                .and_then(|object| object["apiVersion"].as_str());
            let what = format!(
                "conversion webhook for {}, Kind={}",
                from.unwrap_or_default(),
                definition.kind
            );
            let converted = webhook
                .ask(server, &sent, &api_version)
                .await
                .map_err(|why| failed(format!("{what} failed: {why}")))?;
            if converted.len() != sent.len() {
                return Err(failed(format!(
                    "{what} returned {} objects, expected {}",
                    converted.len(),
                    sent.len()
                )));
            }
            for (at, (index, object)) in others.iter().zip(converted).enumerate() {
                let Some(place) = objects.get_mut(*index) else {
                    continue;
                };
                let object = accepted(place, object, &api_version, definition).map_err(|why| {
                    failed(format!(
                        "{what} returned invalid converted object at index {at}: {why}"
                    ))
                })?;
                *place = object;
                prune_to(definition, Some(place), wanted);
            }
        }
    }
    Ok(objects)
}

fn prune_to(definition: &Definition, object: Option<&mut Value>, wanted: &str) {
    if let (Some(Value::Object(map)), Some(version)) = (object, definition.version(wanted)) {
        prune::prune(map, &definition.compiled(version).node);
    }
}

/// A webhook's object, if it is the same as the one that was sent: of the metadata only labels and annotations may
/// have changed.
fn accepted(
    sent: &Value,
    mut converted: Value,
    api_version: &str,
    definition: &Definition,
) -> Result<Value, String> {
    let got = converted["apiVersion"].as_str().unwrap_or_default();
    if got != api_version {
        return Err(format!(
            "invalid groupVersion (expected {api_version}, received {got})"
        ));
    }
    let got = converted["kind"].as_str().unwrap_or_default();
    if got != definition.kind {
        return Err(format!(
            "invalid kind (expected {}, received {got})",
            definition.kind
        ));
    }
    for (field, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let of = |object: &Value| -> String {
            let value = object.pointer(&format!("/metadata/{field}"));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (was, is) = (of(sent), of(&converted));
        if was != is {
            return Err(format!("must have the same {shown}: {was} != {is}"));
        }
    }
    let answered = match converted.get_mut("metadata").map(Value::take) {
        None => return Err("missing metadata in converted object".to_owned()),
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Err("invalid metadata in converted object".to_owned()),
    };
    let mut metadata = sent["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match answered.get(field) {
            None | Some(Value::Null) => {
                metadata.remove(field);
            }
            Some(Value::Object(map)) => {
                let odd = map.iter().find(|(_, value)| !value.is_string());
                if let Some((key, _)) = odd {
                    return Err(format!(
                        "metadata.{field}[{key}] must be a string in converted object"
                    ));
                }
                metadata.insert(field.to_owned(), map.clone().into());
            }
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    converted["metadata"] = metadata.into();
    Ok(converted)
}

/// Whether an object of a kind may have to be converted before it is shown.
pub(crate) fn definition_of(kind: &ServedKind) -> Option<&Arc<Definition>> {
    let definition = kind.as_custom()?.definition();
    definition.mixed.then_some(definition)
}

/// What is in the cache, in the version that is served.
pub(crate) async fn served(
    server: &Arc<ApiServer>,
    kind: &ServedKind,
    entries: Vec<Arc<Entry>>,
) -> ApiResult<Vec<Arc<Entry>>> {
    let Some(definition) = definition_of(kind) else {
        return Ok(entries);
    };
    let head = format!("{{\"apiVersion\":\"{}\"", kind.api_version());
    if entries
        .iter()
        .all(|entry| entry.bytes.starts_with(head.as_bytes()))
    {
        return Ok(entries);
    }
    let objects: Vec<Value> = entries
        .iter()
        .map(|entry| serde_json::from_slice(&entry.bytes).unwrap_or_default())
        .collect();
    let converted = convert(server, definition, objects, &kind.version).await?;
    let made = entries.iter().zip(converted).map(|(entry, mut object)| {
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        metadata.map(|metadata: &mut Map<String, Value>| metadata.remove("resourceVersion"));
        let bytes = serde_json::to_vec(&object).unwrap_or_default();
        let made = Entry::new(entry.key.clone(), &bytes, entry.revision);
        made.map_or_else(|| entry.clone(), Arc::new)
    });
    Ok(made.collect())
}

/// One entry in the version that is served.
pub(crate) async fn served_one(
    server: &Arc<ApiServer>,
    kind: &ServedKind,
    entry: Arc<Entry>,
) -> ApiResult<Arc<Entry>> {
    let entries = served(server, kind, vec![entry.clone()]).await?;
    Ok(entries.into_iter().next().unwrap_or(entry))
}
