//! Devices in containers: which nodes there are and which may be used.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cri;

/// A device node for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Path in the container.
    pub path: PathBuf,
    /// Whether it is a block device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the container may do with it: of `r`, `w` and `m`.
    pub access: String,
}

/// The devices that a request names; all of the node's for a privileged container.
pub fn host_devices(wanted: &[cri::Device], privileged: bool) -> io::Result<Vec<HostDevice>> {
    let mut found = Vec::new();
    if privileged {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut found)?;
    }
    for device in wanted {
        let path = if device.container_path.is_empty() {
            &device.host_path
        } else {
            &device.container_path
        };
        let access = if device.permissions.is_empty() {
            "rwm"
        } else {
            &device.permissions
        };
        let host = fs::canonicalize(&device.host_path).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("device {:?}: {error}", device.host_path),
            )
        })?;
        if host.is_dir() {
            collect(&host, Path::new(path), access, &mut found)?;
        } else {
            let node = node(&host, Path::new(path), access)?.ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{:?} is not a device", device.host_path),
                )
            })?;
            found.push(node);
        }
    }
    Ok(found)
}

fn collect(dir: &Path, to: &Path, access: &str, found: &mut Vec<HostDevice>) -> io::Result<()> {
    // Mounts of their own in every container, and the pseudo-terminals of others.
    const LEFT_OUT: [&str; 6] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts"];
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
                collect(&entry.path(), &to.join(&name), access, found)?;
            }
        } else if name != "console" && name != "ptmx" && name != "tty" {
            // A device that vanished meanwhile is none.
            if let Ok(Some(node)) = node(&entry.path(), &to.join(&name), access) {
                found.push(node);
            }
        }
    }
    Ok(())
}

fn node(host: &Path, path: &Path, access: &str) -> io::Result<Option<HostDevice>> {
    let meta = fs::symlink_metadata(host)?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Ok(None);
    }
    Ok(Some(HostDevice {
        path: path.to_owned(),
        block: kind.is_block_device(),
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    }))
}

fn kind(device: &HostDevice) -> &'static str {
    if device.block { "b" } else { "c" }
}

/// The nodes to make, in OCI's words.
pub fn list(devices: &[HostDevice]) -> Value {
    devices
        .iter()
        .map(|device| {
            json!({
                "path": device.path,
                "type": kind(device),
                "major": device.major,
                "minor": device.minor,
                "fileMode": device.mode,
                "uid": device.uid,
                "gid": device.gid,
            })
        })
        .collect()
}

/// The devices that may be used, in OCI's words. libcontainer adds the harmless ones.
pub fn rules(privileged: bool, devices: &[HostDevice]) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    rules.extend(devices.iter().map(|device| {
        json!({
            "allow": true,
            "type": kind(device),
            "major": device.major,
            "minor": device.minor,
            "access": device.access,
        })
    }));
    Value::Array(rules)
}
