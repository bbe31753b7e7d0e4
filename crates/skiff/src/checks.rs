//! What a server needs of its host, checked before anything is changed.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Result;

use skiff_network::obstacles::dropping_chains;

use crate::config::{Cidr, Config};
use crate::instance::Lock;

/// Below this the checks warn: an image and the database would not fit.
const LITTLE_SPACE: u64 = 1 << 30;
/// Below this the server does not start.
const NO_SPACE: u64 = 64 << 20;

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All is well: what was checked.
    Good(String),
    /// It will run, but.
    Warning(String),
    /// It will not run: what is missing, and what to do.
    Missing(String),
}

fn missing(what: &str, remedy: &str) -> Finding {
    Finding::Missing(format!("{what}: {remedy}"))
}

/// Checks everything that `config` needs.
#[must_use]
pub fn all(config: &Config) -> Vec<Finding> {
    let mut findings = vec![data_directory(&config.data_dir)];
    findings.push(port(
        "API server",
        SocketAddr::new(config.bind_address, config.api_port),
        "--api-port",
    ));
    let node = config.runs("kubelet");
    if node {
        findings.push(root());
        findings.push(cgroups(Path::new("/sys/fs/cgroup")));
        findings.push(namespaces(Path::new("/proc/self/ns")));
        findings.push(overlayfs());
        findings.push(forwarding(Path::new("/proc/sys/net/ipv4/ip_forward")));
        findings.push(port(
            "kubelet",
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), config.kubelet_port),
            "--kubelet-port",
        ));
    }
    if node || config.runs("proxy") {
        findings.push(nftables());
        findings.extend(dropped(config.pod_cidr));
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        findings.extend(uplink(&routes, Path::new("/proc/sys/net/ipv4/conf")));
        findings.push(range_free(
            "pods",
            config.pod_cidr,
            "--pod-cidr",
            &routes,
            &config.cluster_name,
        ));
        findings.push(range_free(
            "services",
            config.service_cidr,
            "--service-cidr",
            &routes,
            &config.cluster_name,
        ));
    }
    findings
}

fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::Good("running as root".into())
    } else {
        missing(
            "not root",
            "containers and networks need root; run it with sudo, or leave the node out with --disable kubelet,proxy,dns",
        )
    }
}

fn data_directory(path: &Path) -> Finding {
    let mut existing = path;
    while !existing.exists() {
        let Some(parent) = existing.parent() else {
            break;
        };
        existing = parent;
    }
    if existing == path && !path.is_dir() {
        return missing(
            &format!("data directory {}", path.display()),
            "this is no folder; name another with --data-dir",
        );
    }
    if let Err(error) = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK) {
        return missing(
            &format!("data directory {}", path.display()),
            &format!(
                "{} cannot be written ({error}); run as root or name another with --data-dir",
                existing.display()
            ),
        );
    }
    match Lock::is_held(path) {
        Ok(None) => {}
        Ok(Some(process)) => {
            return missing(
                &format!("data directory {}", path.display()),
                &format!(
                    "process {process} runs a server on it already; see `skiff status`, or name another with --data-dir"
                ),
            );
        }
        Err(error) => {
            return missing(
                &format!("data directory {}", path.display()),
                &format!("{error:#}"),
            );
        }
    }
    let Ok(space) = nix::sys::statvfs::statvfs(existing) else {
        return Finding::Warning(format!(
            "data directory {}: its free space is not known",
            path.display()
        ));
    };
    judge_space(path, space.blocks_available() * space.fragment_size())
}

fn judge_space(path: &Path, free: u64) -> Finding {
    let (path, mib) = (path.display(), free >> 20);
    if free < NO_SPACE {
        missing(
            &format!("disk space for {path}"),
            &format!("only {mib} MiB are free; make room or name another disk with --data-dir"),
        )
    } else if free < LITTLE_SPACE {
        Finding::Warning(format!(
            "disk space for {path}: {mib} MiB are free, images may not fit"
        ))
    } else {
        Finding::Good(format!("data directory {path}, {mib} MiB free"))
    }
}

fn port(what: &str, address: SocketAddr, flag: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::Good(format!("{what} port {} is free", address.port())),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => missing(
            &format!("{what} port {}", address.port()),
            &format!("another program listens on it; stop that or choose another port with {flag}"),
        ),
        Err(error) => missing(
            &format!("{what} address {address}"),
            &format!("{error}; choose another with --bind-address or {flag}"),
        ),
    }
}

fn cgroups(base: &Path) -> Finding {
    let controllers = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    if controllers.contains("memory") && controllers.contains("pids") {
        return Finding::Good("cgroup v2".into());
    }
    let lacking: Vec<&str> = ["memory", "cpu", "pids"]
        .into_iter()
        .filter(|controller| !base.join(controller).is_dir())
        .collect();
    if lacking.is_empty() {
        return Finding::Good("cgroup v1".into());
    }
    missing(
        "cgroups",
        &format!(
            "the controllers {} are not at {}; boot with cgroup_enable=memory, or mount cgroup2 there",
            lacking.join(", "),
            base.display()
        ),
    )
}

fn namespaces(base: &Path) -> Finding {
    let lacking: Vec<&str> = ["net", "mnt", "pid", "ipc", "uts"]
        .into_iter()
        .filter(|name| !base.join(name).exists())
        .collect();
    if lacking.is_empty() {
        Finding::Good("namespaces".into())
    } else {
        missing(
            "namespaces",
            &format!(
                "this kernel lacks {}; use one built with CONFIG_NAMESPACES",
                lacking.join(", ")
            ),
        )
    }
}

fn overlayfs() -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == "overlay")
        || Path::new("/sys/module/overlay").exists()
    {
        Finding::Good("overlayfs".into())
    } else {
        missing(
            "overlayfs",
            "load it with `modprobe overlay`, or use a kernel with CONFIG_OVERLAY_FS",
        )
    }
}

fn forwarding(path: &Path) -> Finding {
    if fs::read_to_string(path).is_ok_and(|value| value.trim() == "1") {
        return Finding::Good("IP forwarding is on".into());
    }
    match fs::OpenOptions::new().write(true).open(path) {
        Ok(_) => Finding::Good("IP forwarding will be turned on".into()),
        Err(error) => missing(
            "IP forwarding",
            &format!(
                "{} cannot be written ({error}); run `sysctl -w net.ipv4.ip_forward=1`",
                path.display()
            ),
        ),
    }
}

fn nftables() -> Finding {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    match socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    ) {
        Ok(_) => Finding::Good("nftables".into()),
        Err(error) => missing(
            "nftables",
            &format!(
                "no netfilter socket ({error}); load it with `modprobe nf_tables`, or use a kernel with CONFIG_NF_TABLES"
            ),
        ),
    }
}

/// Docker, ufw and the like drop what goes from one interface to another.
fn dropped(pods: Cidr) -> Vec<Finding> {
    let range = skiff_network::Cidr::new(pods.base, pods.prefix);
    let chains = crate::cli::wait_for(async { Ok(dropping_chains(range).await) });
    let chains = chains.unwrap_or_default().into_iter();
    let warn = chains.map(|chain| {
        Finding::Warning(format!(
            "forwarding: the nftables chain {chain} drops what no rule of it accepts (Docker, ufw and others do that), which \
             cuts pods off from each other and from outside; let them through: {}",
            chain.remedy(range)
        ))
    });
    warn.collect()
}

/// The interface with the default route must forward too, or no answer from outside finds its pod.
fn uplink(routes: &str, switches: &Path) -> Option<Finding> {
    let default = routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let all_zero = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        all_zero.then(|| fields.first().copied()).flatten()
    })?;
    let switch = switches.join(default).join("forwarding");
    let general = fs::read_to_string(switches.join("all/forwarding")).ok()?;
    let own = fs::read_to_string(switch).ok()?;
    // Turning it on for all, which a start does, turns it on for each.
    (own.trim() == "0" && general.trim() == "1").then(|| {
        Finding::Warning(format!(
            "forwarding: the interface {default} does not forward, which cuts pods off from outside; run `sysctl -w \
             net.ipv4.conf.{default}.forwarding=1`"
        ))
    })
}

/// `routes` is /proc/net/route; routes of our own bridge do not count, nor those to nowhere (`*`), which a node keeps for its range.
fn range_free(what: &str, range: Cidr, flag: &str, routes: &str, cluster: &str) -> Finding {
    let taken = routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (interface, destination, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        let address = |hex: &str| {
            Some(Ipv4Addr::from(
                u32::from_str_radix(hex, 16).ok()?.to_le_bytes(),
            ))
        };
        let prefix = u32::from(address(mask)?).count_ones();
        let other = Cidr {
            base: address(destination)?,
            prefix: u8::try_from(prefix).ok()?,
        };
        (prefix > 0
            && *interface != "*"
            && !interface.starts_with(cluster)
            && range.overlaps(other))
        .then(|| (other, (*interface).to_owned()))
    });
    match taken {
        None => Finding::Good(format!("addresses of {what} {range}")),
        Some((other, interface)) => missing(
            &format!("addresses of {what} {range}"),
            &format!("interface {interface} routes {other}; choose another range with {flag}"),
        ),
    }
}

/// Prints the report. Good findings only when `all`; the error says how many things are missing.
pub fn report(findings: &[Finding], all: bool) -> Result<()> {
    let mut out = std::io::stderr().lock();
    for finding in findings {
        match finding {
            Finding::Good(text) if all => writeln!(out, "  ok       {text}")?,
            Finding::Good(_) => {}
            Finding::Warning(text) => writeln!(out, "  warning  {text}")?,
            Finding::Missing(text) => writeln!(out, "  missing  {text}")?,
        }
    }
    match findings
        .iter()
        .filter(|finding| matches!(finding, Finding::Missing(_)))
        .count()
    {
        0 => Ok(()),
        1 => anyhow::bail!("one thing is missing, nothing was changed"),
        count => anyhow::bail!("{count} things are missing, nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(
            matches!(port("kubelet", address, "--kubelet-port"), Finding::Missing(text) if text.contains("--kubelet-port"))
        );
        drop(listener);
        assert!(matches!(
            port("kubelet", address, "--kubelet-port"),
            Finding::Good(_)
        ));
    }

    #[test]
    fn a_route_into_the_range_is_found() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nwg0\t00642A0A\t0\t1\t0\t0\t0\t00FFFFFF\n*\t00002A0A\t0\t1\t0\t0\t0\t00FFFFFF\nskiff0\t00002A0A\t0\t1\t0\t0\t0\t0000FFFF\neth0\t00000000\t0\t3\t0\t0\t0\t00000000\n";
        let range = |base: &str| Cidr {
            base: base.parse().unwrap(),
            prefix: 16,
        };
        assert!(
            matches!(range_free("pods", range("10.42.0.0"), "--pod-cidr", routes, "skiff"), Finding::Missing(text) if text.contains("wg0 routes 10.42.100.0/24"))
        );
        assert!(matches!(
            range_free("pods", range("10.43.0.0"), "--pod-cidr", routes, "skiff"),
            Finding::Good(_)
        ));
    }

    #[test]
    fn an_uplink_that_does_not_forward_is_found() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth1\t0000A8C0\t0\t1\t0\t0\t0\t0000FFFF\neth0\t00000000\t0\t3\t0\t0\t0\t00000000\n";
        let folder = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("forwarding"), value).unwrap();
        };
        set("all", "1\n");
        set("eth1", "0\n");
        set("eth0", "1\n");
        assert_eq!(uplink(routes, folder.path()), None);
        set("eth0", "0\n");
        let found = uplink(routes, folder.path());
        assert!(
            matches!(found, Some(Finding::Warning(text)) if text.contains("net.ipv4.conf.eth0.forwarding=1"))
        );
        set("all", "0\n");
        assert_eq!(uplink(routes, folder.path()), None);
    }

    #[test]
    fn little_space_warns_and_none_refuses() {
        let judge = |free| judge_space(Path::new("/data"), free);
        assert!(matches!(judge(2 << 30), Finding::Good(_)));
        assert!(matches!(judge(200 << 20), Finding::Warning(_)));
        assert!(matches!(judge(1 << 20), Finding::Missing(_)));
    }

    #[test]
    fn lacking_controllers_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("cpu")).unwrap();
        assert!(
            matches!(cgroups(folder.path()), Finding::Missing(text) if text.contains("memory, pids"))
        );
        fs::write(
            folder.path().join("cgroup.controllers"),
            "cpuset cpu io memory pids",
        )
        .unwrap();
        assert_eq!(cgroups(folder.path()), Finding::Good("cgroup v2".into()));
    }
}
