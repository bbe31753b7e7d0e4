//! What is mounted into a container.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use skiff_runtime::cri;

use crate::container::expand;
use crate::container::hosts::{self, HostName};
use crate::pod::spec;
use crate::runtime::message_file;
use crate::volumes::mounter::Mounter;
use crate::volumes::{self, VolumeError, subpath};

/// Where the termination message goes when the container says nothing.
pub const MESSAGE_PATH: &str = "/dev/termination-log";

/// What the mounts are made from.
pub struct Place<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The pod's directory.
    pub directory: &'a Path,
    /// The container.
    pub container: &'a Container,
    /// Its restart count.
    pub attempt: u32,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// The pod's names.
    pub names: &'a HostName,
    /// Volumes by name.
    pub volumes: &'a BTreeMap<String, std::path::PathBuf>,
    /// Images that volumes consist of, by the volume's name: the reference to mount.
    pub images: &'a BTreeMap<String, String>,
    /// The container's environment.
    pub environment: &'a [(String, String)],
    /// Mounts on the host.
    pub mounter: &'a dyn Mounter,
}

/// The mounts of a container; files and directories that they need are made.
pub fn mounts(place: &Place<'_>) -> Result<Vec<cri::Mount>, VolumeError> {
    let wanted = place.container.volume_mounts.as_deref().unwrap_or_default();
    let mut mounts = Vec::new();
    for (index, mount) in wanted.iter().enumerate() {
        mounts.push(volume_mount(place, index, mount)?);
    }
    if !wanted.iter().any(|m| m.mount_path == "/etc/hosts") {
        mounts.extend(hosts_mount(place)?);
    }
    mounts.push(message_mount(place)?);
    Ok(mounts)
}

fn volume_mount(
    place: &Place<'_>,
    index: usize,
    mount: &VolumeMount,
) -> Result<cri::Mount, VolumeError> {
    if let Some(image) = place.images.get(&mount.name) {
        return Ok(cri::Mount {
            container_path: mount.mount_path.clone(),
            readonly: true,
            image: Some(cri::ImageSpec {
                image: image.clone(),
                ..Default::default()
            }),
            image_sub_path: sub_path(place, mount)?,
            ..Default::default()
        });
    }
    let missing = || VolumeError::NotFound {
        kind: "volume",
        name: mount.name.clone(),
    };
    let volume = place.volumes.get(&mount.name).ok_or_else(missing)?;
    let read_only = mount.read_only == Some(true) || managed(place.pod, &mount.name);
    let sub_path = sub_path(place, mount)?;
    let host_path = if sub_path.is_empty() {
        volume.clone()
    } else {
        let target = place
            .directory
            .join("volume-subpaths")
            .join(&mount.name)
            .join(&place.container.name)
            .join(index.to_string());
        subpath::prepare(volume, &sub_path, &target, place.mounter).map_err(|error| {
            tracing::warn!(pod = spec::display(place.pod), %error, "a subPath is refused");
            VolumeError::SubPath {
                mount: mount.name.clone(),
                container: place.container.name.clone(),
            }
        })?
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        _ => cri::MountPropagation::PropagationPrivate,
    };
    let path = &mount.mount_path;
    let container_path = if path.starts_with('/') {
        path.clone()
    } else {
        format!("/{path}")
    };
    Ok(cri::Mount {
        container_path,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: read_only,
        propagation: propagation as i32,
        recursive_read_only: read_only && mount.recursive_read_only.as_deref() == Some("Enabled"),
        ..Default::default()
    })
}

/// Whether the volume's content is the kubelet's own, so that no container may write it.
fn managed(pod: &Pod, name: &str) -> bool {
    let mut volumes = spec::spec(pod).volumes.iter().flatten();
    let volume = volumes.find(|volume| volume.name == name);
    volume
        .and_then(volumes::plugin_of)
        .is_some_and(|plugin| plugin.read_only())
}

fn sub_path(place: &Place<'_>, mount: &VolumeMount) -> Result<String, VolumeError> {
    let Some(text) = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) else {
        return Ok(mount.sub_path.clone().unwrap_or_default());
    };
    let variables: BTreeMap<String, String> = place.environment.iter().cloned().collect();
    match expand::missing(text, &variables).first() {
        Some(name) => Err(VolumeError::Path(format!("missing value for \"{name}\""))),
        None => Ok(expand::expand(text, &variables)),
    }
}

fn file_mount(host_path: &Path, container_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// The pod's `/etc/hosts`, which follows its addresses.
fn hosts_mount(place: &Place<'_>) -> Result<Option<cri::Mount>, VolumeError> {
    let on_host = spec::host_network(place.pod);
    if place.pod_ips.is_empty() && !on_host {
        return Ok(None);
    }
    let text = if on_host {
        let node = fs::read_to_string("/etc/hosts").unwrap_or_default();
        hosts::host_network_hosts_file(place.pod, &node)
    } else {
        hosts::hosts_file(place.pod, place.pod_ips, place.names)
    };
    fs::create_dir_all(place.directory).map_err(VolumeError::io("mkdir", place.directory))?;
    let file = place.directory.join("etc-hosts");
    // Other containers have it mounted: it is written in place.
    fs::write(&file, text).map_err(VolumeError::io("write", &file))?;
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&file, mode).map_err(VolumeError::io("chmod", &file))?;
    Ok(Some(file_mount(&file, "/etc/hosts")))
}

/// The file that the container leaves its last words in.
fn message_mount(place: &Place<'_>) -> Result<cri::Mount, VolumeError> {
    let file = message_file(place.directory, &place.container.name, place.attempt);
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).map_err(VolumeError::io("mkdir", parent))?;
    }
    fs::File::create(&file).map_err(VolumeError::io("create", &file))?;
    // Any user may write it.
    let mode = fs::Permissions::from_mode(0o666);
    fs::set_permissions(&file, mode).map_err(VolumeError::io("chmod", &file))?;
    let path = place.container.termination_message_path.as_deref();
    let path = path.filter(|p| !p.is_empty()).unwrap_or(MESSAGE_PATH);
    Ok(file_mount(&file, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::mounter::NoMounts;

    #[test]
    fn volumes_hosts_and_last_words() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let mount = |path: &str, expr: Option<&str>| VolumeMount {
            name: "v".into(),
            mount_path: path.into(),
            sub_path_expr: expr.map(Into::into),
            ..Default::default()
        };
        let container = Container {
            name: "c".into(),
            volume_mounts: Some(vec![mount("/data", None), mount("/sub", Some("$(NAME)/x"))]),
            ..Default::default()
        };
        let names = HostName {
            name: "p".into(),
            domain: String::new(),
            kernel: "p".into(),
        };
        let directory = root.path().join("pod");
        let mounter = NoMounts::default();
        let make = |environment: &[(String, String)]| {
            mounts(&Place {
                pod: &Pod::default(),
                directory: &directory,
                container: &container,
                attempt: 1,
                pod_ips: &["10.0.0.2".to_owned()],
                names: &names,
                volumes: &[("v".to_owned(), volume.clone())].into(),
                images: &BTreeMap::new(),
                environment,
                mounter: &mounter,
            })
        };
        let all = make(&[("NAME".to_owned(), "n".to_owned())]).unwrap();
        let paths: Vec<&str> = all.iter().map(|m| m.container_path.as_str()).collect();
        assert_eq!(paths, ["/data", "/sub", "/etc/hosts", MESSAGE_PATH]);
        assert!(volume.join("n/x").is_dir());
        assert!(directory.join("containers/c/1").is_file());
        assert!(make(&[]).is_err());
    }
}
