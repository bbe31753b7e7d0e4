//! Linux capabilities: names, bits, and what a container gets.

use serde_json::{Value, json};

use super::PlanError;
use crate::cri;
use crate::shim::protocol::CapabilityMasks;

/// The names, in the kernel's order.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// CAP_SETPCAP.
pub const SETPCAP: u64 = 1 << 8;
/// CAP_SYS_ADMIN.
pub const SYS_ADMIN: u64 = 1 << 21;

/// CAP_SYS_RESOURCE.
pub const SYS_RESOURCE: u64 = 1 << 24;

/// What a container has unless told otherwise: containerd's and Docker's set.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn bit(name: &str) -> Result<u64, PlanError> {
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == short)
        .map(|position| 1 << position)
        .ok_or_else(|| PlanError::Capability(name.to_owned()))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// The sets of a container. `all` is what there is to give.
pub fn masks(wanted: &cri::Capability, all: u64) -> Result<CapabilityMasks, PlanError> {
    let mut set = 0;
    for name in DEFAULT {
        set |= bit(name)?;
    }
    if wanted.add_capabilities.iter().any(|name| is_all(name)) {
        set = all;
    }
    if wanted.drop_capabilities.iter().any(|name| is_all(name)) {
        set = 0;
    }
    for name in wanted.add_capabilities.iter().filter(|name| !is_all(name)) {
        set |= bit(name)?;
    }
    for name in wanted.drop_capabilities.iter().filter(|name| !is_all(name)) {
        set &= !bit(name)?;
    }
    let mut ambient = 0;
    for name in &wanted.add_ambient_capabilities {
        ambient |= bit(name)?;
    }
    set = (set | ambient) & all;
    Ok(CapabilityMasks {
        bounding: set,
        permitted: set,
        ambient: ambient & all,
    })
}

/// The sets in OCI's words.
#[must_use]
pub fn describe(masks: &CapabilityMasks) -> Value {
    json!({
        "bounding": names(masks.bounding),
        "effective": names(masks.permitted),
        "permitted": names(masks.permitted),
        "inheritable": names(masks.ambient),
        "ambient": names(masks.ambient),
    })
}

fn names(mask: u64) -> Vec<String> {
    NAMES
        .iter()
        .enumerate()
        .filter(|(position, _)| mask & (1 << position) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

/// All capabilities that this process may pass on.
#[must_use]
pub fn available() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let known = (1u64 << NAMES.len()) - 1;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .map_or(known, |mask| mask & known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = (1 << 41) - 1;

    fn wanted(add: &[&str], drop: &[&str]) -> cri::Capability {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        cri::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: Vec::new(),
        }
    }

    #[test]
    fn sets_are_composed() {
        let of =
            |add: &[&str], drop: &[&str]| names(masks(&wanted(add, drop), ALL).unwrap().permitted);
        assert_eq!(of(&[], &[]).len(), 14);
        assert!(of(&["NET_ADMIN"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!of(&[], &["CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(
            of(&["NET_BIND_SERVICE"], &["ALL"]),
            ["CAP_NET_BIND_SERVICE"]
        );
        assert_eq!(of(&["cap_sys_time"], &["all"]), ["CAP_SYS_TIME"]);
        assert_eq!(of(&["ALL"], &["MKNOD"]).len(), 40);
        assert!(matches!(
            masks(&wanted(&["NO_SUCH"], &[]), ALL),
            Err(PlanError::Capability(_))
        ));
    }

    #[test]
    fn nothing_is_given_that_is_not_there() {
        let few = bit("CHOWN").unwrap() | bit("KILL").unwrap();
        let masks = masks(&wanted(&["SYS_ADMIN"], &[]), few).unwrap();
        assert_eq!(masks.permitted, few);
    }
}
