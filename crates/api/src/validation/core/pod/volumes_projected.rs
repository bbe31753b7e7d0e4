//! Projected volumes: ConfigMaps, Secrets, the downward API, tokens and certificates in one directory.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, KeyToPath, PodCertificateProjection, PodSpec,
    ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};

use super::rules::PodRules;
use super::{paths, volumes};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, items, text};
use crate::validation::meta::{self, ANNOTATIONS_MAX, SelectorRules};
use crate::validation::names;
use crate::validation::values::{Bare, all_invalid, json, one_of, required};

const CONFLICT: &str = "conflicting duplicate paths";

/// The files that sources make so far.
#[derive(Default)]
struct Files<'a>(BTreeSet<&'a str>);

impl<'a> Files<'a> {
    fn add(&mut self, errors: &mut ErrorList, file: &'a str, culprit: &str, path: &Path) {
        if !self.0.insert(file) {
            errors.push(FieldError::invalid(path, culprit, CONFLICT));
        }
    }
}

pub(super) fn projected(
    errors: &mut ErrorList,
    source: &ProjectedVolumeSource,
    rules: &PodRules,
    path: &Path,
) {
    paths::file_mode(errors, source.default_mode, &path.child("defaultMode"));
    let mut files = Files::default();
    for (index, source) in items(&source.sources).iter().enumerate() {
        let item = path.child("sources").index(index);
        let count = one_source(errors, source, rules, &mut files, path, &item);
        if count > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(&item, detail));
        }
    }
}

fn one_source<'a>(
    errors: &mut ErrorList,
    source: &'a VolumeProjection,
    rules: &PodRules,
    files: &mut Files<'a>,
    path: &Path,
    item: &Path,
) -> usize {
    let mut count = 0;
    if let Some(secret) = &source.secret {
        count += 1;
        let item = item.child("secret");
        keys(
            errors,
            &secret.name,
            items(&secret.items),
            files,
            path,
            &item,
        );
    }
    if let Some(map) = &source.config_map {
        count += 1;
        let item = item.child("configMap");
        keys(errors, &map.name, items(&map.items), files, path, &item);
    }
    if let Some(downward) = &source.downward_api {
        count += 1;
        for file in items(&downward.items) {
            volumes::downward_file(errors, file, &item.child("downwardAPI"));
            if !file.path.is_empty() {
                files.add(errors, &file.path, &file.path, path);
            }
        }
    }
    if let Some(projection) = &source.service_account_token {
        count += 1;
        token(
            errors,
            projection,
            rules,
            path,
            &item.child("serviceAccountToken"),
        );
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        count += 1;
        trust_bundle(errors, bundle, &item.child("clusterTrustBundle"));
        files.add(errors, &bundle.path, &bundle.path, path);
    }
    if let Some(projection) = &source.pod_certificate {
        count += 1;
        certificate(
            errors,
            projection,
            files,
            path,
            &item.child("podCertificate"),
        );
    }
    count
}

fn keys<'a>(
    errors: &mut ErrorList,
    name: &str,
    keys: &'a [KeyToPath],
    files: &mut Files<'a>,
    path: &Path,
    item: &Path,
) {
    required(errors, &item.child("name"), name);
    for (index, key) in keys.iter().enumerate() {
        volumes::key_to_path(errors, key, &item.child("items").index(index));
        if !key.path.is_empty() {
            files.add(errors, &key.path, name, path);
        }
    }
}

fn token(
    errors: &mut ErrorList,
    token: &ServiceAccountTokenProjection,
    rules: &PodRules,
    path: &Path,
    item: &Path,
) {
    let seconds = token.expiration_seconds.unwrap_or(0);
    let detail = if seconds < 600 {
        "may not specify a duration less than 10 minutes"
    } else if seconds > 1 << 32 {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        ""
    };
    if !detail.is_empty() {
        errors.push(FieldError::invalid(
            &item.child("expirationSeconds"),
            seconds,
            detail,
        ));
    }
    // Upstream names the volume's source here.
    let path = path.child("path");
    if token.path.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if !rules.allow_token_path_anywhere {
        paths::not_reserved(errors, &token.path, &path);
    }
}

fn trust_bundle(errors: &mut ErrorList, bundle: &ClusterTrustBundleProjection, path: &Path) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => errors.push(FieldError::invalid(
            path,
            shown_bundle(bundle),
            "only one of name and signerName may be used",
        )),
        (Some(name), None) => {
            let name_path = path.child("name");
            if name.is_empty() {
                errors.push(FieldError::required(
                    &name_path,
                    "must be a valid object name",
                ));
            }
            for message in trust_bundle_name(name) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.push(FieldError::invalid(&name_path, name, &detail));
            }
            if bundle.label_selector.is_some() {
                errors.push(FieldError::invalid(
                    &path.child("labelSelector"),
                    meta::shown_selector(bundle.label_selector.as_ref()),
                    "labelSelector must be unset if name is specified",
                ));
            }
        }
        (None, Some(signer)) => {
            let signer_path = path.child("signerName");
            if signer.is_empty() {
                errors.push(FieldError::required(
                    &signer_path,
                    "must be a valid signer name",
                ));
            }
            signer_name(errors, signer, &signer_path);
            meta::label_selector(
                errors,
                bundle.label_selector.as_ref(),
                SelectorRules::default(),
                &path.child("labelSelector"),
            );
        }
        (None, None) => errors.push(FieldError::required(
            path,
            "either name or signerName must be specified",
        )),
    }
    let file_path = path.child("path");
    required(errors, &file_path, &bundle.path);
    paths::not_reserved(errors, &bundle.path, &file_path);
}

fn shown_bundle(bundle: &ClusterTrustBundleProjection) -> Bare {
    Bare(format!(
        "{{\"Name\":{},\"SignerName\":{},\"LabelSelector\":{},\"Optional\":{},\"Path\":{}}}",
        json(&bundle.name).0,
        json(&bundle.signer_name).0,
        meta::shown_selector(bundle.label_selector.as_ref()).0,
        json(&bundle.optional).0,
        json(&bundle.path).0
    ))
}

/// What is wrong with the name of a ClusterTrustBundle, whose signer is its beginning.
fn trust_bundle_name(name: &str) -> Vec<String> {
    match name.rsplit_once(':') {
        // A signer whose name is empty is as good as none.
        Some(("", _)) => {
            vec![
                "ClusterTrustBundle without signer name must not have \":\" in its name".to_owned(),
            ]
        }
        Some((_, rest)) => names::dns_subdomain(rest),
        None => names::dns_subdomain(name),
    }
}

fn certificate<'a>(
    errors: &mut ErrorList,
    source: &'a PodCertificateProjection,
    files: &mut Files<'a>,
    path: &Path,
    item: &Path,
) {
    signer_name(errors, &source.signer_name, &item.child("signerName"));
    for (key, _) in entries(&source.user_annotations) {
        let path = item.child("userAnnotations");
        all_invalid(
            errors,
            &path,
            key,
            names::qualified_name(&key.to_lowercase()),
        );
    }
    let lengths = entries(&source.user_annotations).map(|(key, value)| key.len() + value.len());
    if lengths.sum::<usize>() > ANNOTATIONS_MAX {
        let path = item.child("userAnnotations");
        errors.push(FieldError::too_long(&path, ANNOTATIONS_MAX));
    }
    one_of(
        errors,
        &item.child("keyType"),
        &source.key_type,
        &[
            "RSA3072",
            "RSA4096",
            "ECDSAP256",
            "ECDSAP384",
            "ECDSAP521",
            "ED25519",
        ],
    );
    if let Some(seconds) = source.max_expiration_seconds {
        let own = is_kubernetes_signer(&source.signer_name);
        let most = if own { 86_400 } else { 91 * 86_400 };
        let expiration = item.child("maxExpirationSeconds");
        if seconds < 3600 {
            let detail = "if provided, maxExpirationSeconds must be >= 3600";
            errors.push(FieldError::invalid(&expiration, seconds, detail));
        }
        if seconds > most {
            let detail = format!("if provided, maxExpirationSeconds must be <= {most}");
            errors.push(FieldError::invalid(&expiration, seconds, &detail));
        }
    }
    let mut any = false;
    for (name, file) in [
        ("credentialBundlePath", &source.credential_bundle_path),
        ("keyPath", &source.key_path),
        ("certificateChainPath", &source.certificate_chain_path),
    ] {
        let file = text(file);
        if !file.is_empty() {
            any = true;
            paths::not_reserved(errors, file, &item.child(name));
            files.add(errors, file, file, path);
        }
    }
    if !any {
        errors.push(FieldError::required(
            item,
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
        ));
    }
}

/// Whether the signer is Kubernetes' own.
pub(crate) fn is_kubernetes_signer(signer: &str) -> bool {
    let host = signer.split_once('/').map_or(signer, |(host, _)| host);
    host == "kubernetes.io" || host.ends_with(".kubernetes.io")
}

/// The name of a certificate signer: `example.com/name`.
pub(crate) fn signer_name(errors: &mut ErrorList, signer: &str, path: &Path) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, name)) = signer
        .split_once('/')
        .filter(|(_, name)| !name.contains('/'))
    else {
        errors.push(FieldError::invalid(
            path,
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
        return;
    };
    if domain.len() > names::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, names::SUBDOMAIN_MAX));
    }
    first_wrong_label(errors, domain, names::dns_label, path);
    if !domain.contains('.') {
        errors.push(FieldError::invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    first_wrong_label(errors, name, names::dns_subdomain, path);
    let most = names::SUBDOMAIN_MAX * 2 + names::LABEL_MAX + 2;
    if signer.len() > most {
        errors.push(FieldError::too_long(path, most));
    }
}

fn first_wrong_label(errors: &mut ErrorList, value: &str, judge: names::Rule, path: &Path) {
    let wrong = value
        .split('.')
        .map(|label| (label, judge(label)))
        .find(|(_, wrong)| !wrong.is_empty());
    if let Some((label, wrong)) = wrong {
        for message in wrong {
            let detail = format!("validating label {label:?}: {message}");
            errors.push(FieldError::invalid(path, value, &detail));
        }
    }
}

/// Whether a token of the pod lies outside its directory.
pub(super) fn has_token_path_outside(spec: &PodSpec) -> bool {
    items(&spec.volumes)
        .iter()
        .flat_map(|volume| &volume.projected)
        .flat_map(|source| items(&source.sources))
        .flat_map(|source| &source.service_account_token)
        .any(|token| {
            let mut errors = ErrorList::new();
            paths::not_reserved(&mut errors, &token.path, &Path::default());
            !errors.is_empty()
        })
}
