//! OpenAPI documents: what `/openapi/v2` and `/openapi/v3` serve, made of the kinds' own schemas and the type table.
//!
//! Documents are made when asked for and kept compressed: the schemas of all kinds take tens of megabytes as values.

pub mod custom;
mod definitions;
mod paths;
mod pieces;
mod protobuf;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::kind::Kind;
use definitions::Definitions;
use pieces::Piece;

/// Which OpenAPI a document is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// The reference to a schema.
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// What custom resources add: schemas by name, and paths, both ready for the dialect of the document.
#[derive(Clone, Default)]
pub struct Extra {
    /// Schemas.
    pub schemas: BTreeMap<String, Value>,
    /// Paths.
    pub paths: BTreeMap<String, Value>,
    /// Whether a scale is among them.
    pub scale: bool,
    /// The built-in kinds that are served; `None` for those that are by default.
    pub kinds: Option<&'static [Kind]>,
}

impl Extra {
    /// Adds what another custom resource brings.
    pub fn extend(&mut self, other: Self) {
        self.schemas.extend(other.schemas);
        self.paths.extend(other.paths);
        self.scale |= other.scale;
    }

    /// The kinds whose schemas are needed for custom resources beside their own.
    fn needed(&self) -> impl Iterator<Item = &'static Kind> + use<> {
        let wanted = self.scale;
        crate::subresource_kinds()
            .iter()
            .filter(move |kind| wanted && kind.kind == "Scale" && kind.group == "autoscaling")
    }

    fn kinds(&self) -> &'static [Kind] {
        self.kinds.unwrap_or_else(crate::kinds)
    }

    /// The kinds of a group and version.
    fn kinds_of<'k>(
        &self,
        group: &'k str,
        version: &'k str,
    ) -> impl Iterator<Item = &'static Kind> + use<'k> {
        let kinds = self.kinds().iter();
        kinds.filter(move |kind| kind.group == group && kind.version == version)
    }
}

/// A finished document, compressed as `Content-Encoding: gzip` wants it.
#[derive(Clone, Debug)]
pub struct Document {
    /// The bytes.
    pub gzip: Bytes,
    /// How long the document is when unpacked.
    pub length: usize,
}

/// Collects a document, compressing it piece by piece.
struct Output {
    encoder: GzEncoder<Vec<u8>>,
    length: usize,
}

impl Output {
    fn new() -> Self {
        Self {
            encoder: GzEncoder::new(Vec::new(), Compression::fast()),
            length: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        // Writing to memory does not fail.
        let _ = self.encoder.write_all(bytes);
    }

    fn text(&mut self, text: &str) {
        self.push(text.as_bytes());
    }

    /// `"name":value`, after a comma unless it is the first.
    fn entry(&mut self, first: &mut bool, name: &str, value: &Value) {
        if !std::mem::take(first) {
            self.text(",");
        }
        self.text(&Value::from(name).to_string());
        self.text(":");
        self.text(&value.to_string());
    }

    fn finish(self) -> Document {
        Document {
            gzip: self.encoder.finish().unwrap_or_default().into(),
            length: self.length,
        }
    }
}

fn security() -> Value {
    json!({"BearerToken": {
        "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}})
}

/// How `/openapi/v2` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// As JSON.
    Json,
    /// As protobuf, which older versions of `kubectl` ask for.
    Protobuf,
}

/// What something adds to `/openapi/v2`: made once, it goes into each document that follows.
#[derive(Clone, Debug)]
pub struct Part {
    paths: Piece,
    definitions: Piece,
}

impl Part {
    /// Of paths and schemas.
    #[must_use]
    pub fn new(extra: &Extra, format: Format) -> Self {
        let (mut paths, mut definitions) = (Vec::new(), Vec::new());
        for (path, item) in &extra.paths {
            format.path(&mut paths, path, item);
        }
        for (name, schema) in &extra.schemas {
            format.definition(&mut definitions, name, schema);
        }
        Self {
            paths: Piece::new(&paths),
            definitions: Piece::new(&definitions),
        }
    }
}

impl Format {
    fn path(self, into: &mut Vec<u8>, path: &str, item: &Value) {
        match self {
            Self::Json => entry(into, path, item),
            Self::Protobuf => into.extend_from_slice(&protobuf::path(path, item)),
        }
    }

    fn definition(self, into: &mut Vec<u8>, name: &str, schema: &Value) {
        match self {
            Self::Json => entry(into, name, schema),
            Self::Protobuf => into.extend_from_slice(&protobuf::definition(name, schema)),
        }
    }
}

/// `,"name":value`
fn entry(into: &mut Vec<u8>, name: &str, value: &Value) {
    into.push(b',');
    into.extend_from_slice(Value::from(name).to_string().as_bytes());
    into.push(b':');
    into.extend_from_slice(value.to_string().as_bytes());
}

/// `/openapi/v2` without what custom resources and other servers add.
#[derive(Clone, Debug)]
pub struct BuiltIn {
    paths: Piece,
    definitions: Piece,
    end: Piece,
}

impl BuiltIn {
    /// Of the kinds that are served.
    #[must_use]
    pub fn new(kinds: &'static [Kind], format: Format) -> Self {
        let json = |text: &str| match format {
            Format::Json => text.as_bytes().to_vec(),
            Format::Protobuf => Vec::new(),
        };
        let mut paths = match format {
            Format::Json => json(
                r#"{"swagger":"2.0","info":{"title":"Kubernetes","version":"v1.36.2"},"paths":{"#,
            ),
            Format::Protobuf => protobuf::head("Kubernetes", "v1.36.2"),
        };
        let start = paths.len();
        for (path, item) in kinds
            .iter()
            .flat_map(|kind| paths::of_kind(kind, Dialect::V2))
        {
            format.path(&mut paths, &path, &item);
        }
        for (path, item) in &paths::of_discovery(kinds) {
            format.path(&mut paths, path, item);
        }
        let mut definitions = json(r#"},"definitions":{"#);
        let start_of_definitions = definitions.len();
        Definitions::new(Dialect::V2).for_each(kinds, &mut |name, schema| {
            format.definition(&mut definitions, name, &schema);
        });
        if format == Format::Json {
            // What is first follows no comma.
            for (text, start) in [
                (&mut paths, start),
                (&mut definitions, start_of_definitions),
            ] {
                if text.get(start) == Some(&b',') {
                    text.remove(start);
                }
            }
        }
        let end = format!(
            r#"}},"securityDefinitions":{},"security":[{{"BearerToken":[]}}]}}"#,
            security()
        );
        Self {
            paths: Piece::new(&paths),
            definitions: Piece::new(&definitions),
            end: Piece::new(&json(&end)),
        }
    }

    /// The document with these parts.
    #[must_use]
    pub fn with(&self, parts: &[Arc<Part>]) -> Document {
        let paths = std::iter::once(&self.paths).chain(parts.iter().map(|part| &part.paths));
        let definitions = parts.iter().map(|part| &part.definitions);
        let definitions = std::iter::once(&self.definitions).chain(definitions);
        pieces::join(paths.chain(definitions).chain([&self.end]))
    }
}

/// Definitions of built-in kinds in `/openapi/v2`, by name: those that are wanted.
#[must_use]
pub fn v2_definitions(extra: &Extra, wanted: &dyn Fn(&str) -> bool) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut definitions = Definitions::new(Dialect::V2);
    definitions.for_each(extra.kinds(), &mut |name, schema| {
        if wanted(name) {
            found.insert(name.to_owned(), schema);
        }
    });
    found
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/<group>/<version>`, also for groups that only custom resources serve;
/// `None` if nothing is there.
#[must_use]
pub fn v3(group: &str, version: &str, extra: &Extra) -> Option<Document> {
    let any = extra.kinds_of(group, version).next().is_some()
        || !extra.paths.is_empty()
        || !extra.schemas.is_empty();
    if !any {
        return None;
    }
    let mut output = Output::new();
    output
        .text(r#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"v1.36.2"},"paths":{"#);
    let mut first = true;
    for kind in extra.kinds_of(group, version) {
        for (path, item) in paths::of_kind(kind, Dialect::V3) {
            output.entry(&mut first, &path, &item);
        }
    }
    for (path, item) in &extra.paths {
        output.entry(&mut first, path, item);
    }
    output.text(r#"},"components":{"schemas":{"#);
    let mut first = true;
    let mut definitions = Definitions::new(Dialect::V3);
    let kinds = extra.kinds_of(group, version).chain(extra.needed());
    definitions.for_each(kinds, &mut |name, schema| {
        output.entry(&mut first, name, &schema)
    });
    for (name, schema) in &extra.schemas {
        output.entry(&mut first, name, schema);
    }
    output.text(r#"},"securitySchemes":"#);
    output.text(&security().to_string());
    output.text("}}");
    Some(output.finish())
}

/// `/openapi/v3`: where the documents are. `versions` are group, version and a text that changes with the document
/// ([`BUILT_IN_HASH`] for those without custom resources).
#[must_use]
pub fn v3_index(versions: &[(String, String, String)]) -> Value {
    let mut index = serde_json::Map::new();
    for (group, version, hash) in versions {
        let path = if group.is_empty() {
            format!("api/{version}")
        } else {
            format!("apis/{group}/{version}")
        };
        let url = format!("/openapi/v3/{path}?hash={hash}");
        index.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": index})
}

/// Stands for the documents of this build: they change with the program and its type table only.
#[must_use]
pub fn built_in_hash() -> String {
    // FNV-1a: this tells builds apart, it need not withstand anyone.
    let bytes = super::table::TYPES
        .bytes()
        .chain(env!("CARGO_PKG_VERSION").bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016X}")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn unpacked(document: &Document) -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&*document.gzip)
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes.len(), document.length);
        bytes
    }

    fn v2(format: Format) -> Document {
        BuiltIn::new(crate::kinds(), format).with(&[])
    }

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(name)) => {
                            found.push(name.rsplit('/').next().unwrap().to_owned())
                        }
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_kind_is_explained_and_every_reference_leads_somewhere() {
        let document: Value = serde_json::from_slice(&unpacked(&v2(Format::Json))).unwrap();
        let definitions = document["definitions"].as_object().unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        for name in found {
            assert!(definitions.contains_key(&name), "{name}");
        }
        for kind in crate::kinds() {
            let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
            let gvks = definitions[kind.schema]["x-kubernetes-group-version-kind"]
                .as_array()
                .unwrap();
            assert!(gvks.contains(&gvk), "{}", kind.schema);
        }
        let containers = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        let policy = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["restartPolicy"];
        assert_eq!(policy["enum"], json!(["Always", "Never", "OnFailure"]));
    }

    #[test]
    fn parts_stand_beside_what_is_built_in() {
        let part = |name: &str| {
            let mut extra = Extra::default();
            extra
                .paths
                .insert(format!("/apis/{name}"), json!({"get": {}}));
            extra
                .schemas
                .insert(name.to_owned(), json!({"type": "object"}));
            Arc::new(Part::new(&extra, Format::Json))
        };
        let parts = [part("a"), part("b")];
        let built_in = BuiltIn::new(crate::kinds(), Format::Json);
        let read =
            |document: &Document| -> Value { serde_json::from_slice(&unpacked(document)).unwrap() };
        let (without, with) = (read(&built_in.with(&[])), read(&built_in.with(&parts)));
        for (under, names) in [
            ("paths", ["/apis/a", "/apis/b"]),
            ("definitions", ["a", "b"]),
        ] {
            let mut more = with[under].as_object().unwrap().clone();
            for name in names {
                assert!(more.remove(name).is_some(), "{name}");
            }
            assert_eq!(Some(&more), without[under].as_object());
        }
        assert_eq!(with["security"], without["security"]);
    }

    #[test]
    fn documents_of_version_3_stand_alone() {
        for kind in crate::kinds() {
            let document = v3(kind.group, kind.version, &Extra::default()).unwrap();
            let document: Value = serde_json::from_slice(&unpacked(&document)).unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            for name in found {
                assert!(
                    document["components"]["schemas"].get(&name).is_some(),
                    "{name} in {}",
                    kind.group
                );
            }
        }
        assert!(v3("nobody.example", "v1", &Extra::default()).is_none());
    }

    #[test]
    fn patches_say_that_they_take_field_validation() {
        let document = v3("apps", "v1", &Extra::default()).unwrap();
        let document: Value = serde_json::from_slice(&unpacked(&document)).unwrap();
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"]["kind"],
            "Deployment"
        );
        let parameters = patch["parameters"].as_array().unwrap();
        for name in ["fieldValidation", "dryRun", "fieldManager", "force"] {
            assert!(
                parameters.iter().any(|parameter| parameter["name"] == name),
                "{name}"
            );
        }
    }

    #[test]
    fn protobuf_begins_with_the_version_and_holds_every_definition() {
        let bytes = unpacked(&v2(Format::Protobuf));
        assert!(bytes.starts_with(b"\x0a\x032.0"));
        let text = String::from_utf8_lossy(&bytes);
        for kind in crate::kinds() {
            assert!(text.contains(kind.schema), "{}", kind.schema);
        }
    }
}
