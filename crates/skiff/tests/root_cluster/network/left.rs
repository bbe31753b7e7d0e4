//! What `skiff down` leaves of the network: nothing of its own, and everything of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::cluster::{run, text};

use super::World;

/// The kernel's switches that hold for all interfaces.
fn switches() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in ["conf/all", "conf/default"] {
        for entry in fs::read_dir(format!("/proc/sys/net/ipv4/{folder}")).unwrap() {
            let path = entry.unwrap().path();
            let value = fs::read_to_string(&path).unwrap_or_default();
            found.insert(path.display().to_string(), value);
        }
    }
    found
}

fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The lines of the routing table whose destination is in a range of this cluster.
fn routes(number: u8) -> Vec<String> {
    let table = fs::read_to_string("/proc/net/route").unwrap();
    let ours = [100 + 2 * number, 101 + 2 * number].map(|second| format!("{second:02X}0A"));
    let lines = table.lines().filter(|line| {
        let destination = line.split_whitespace().nth(1).unwrap_or_default();
        ours.iter().any(|end| destination.ends_with(end.as_str()))
    });
    lines.map(str::to_owned).collect()
}

/// The names of nftables tables; none where no `nft` is installed.
fn tables() -> Vec<String> {
    let installed = std::process::Command::new("nft").arg("--version").output();
    if installed.is_err() {
        eprintln!("NOT CHECKED: nftables tables: no nft is installed");
        return Vec::new();
    }
    let listed = text(&run(
        std::process::Command::new("nft").args(["list", "tables"])
    ));
    listed.lines().map(str::to_owned).collect()
}

pub fn nothing(world: World) {
    let World {
        cluster, outside, ..
    } = world;
    let number = cluster.number();
    let prefix = cluster.name().to_owned();
    let ours = |names: Vec<String>| -> Vec<String> {
        let all = names.into_iter();
        all.filter(|name| name.contains(&prefix)).collect()
    };
    let before = switches();
    let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert!(!routes(number).is_empty());
    assert!(!ours(interfaces().into_iter().collect()).is_empty());
    let output = cluster.skiff(&["down"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(routes(number), Vec::<String>::new());
    let left = ours(interfaces().into_iter().collect());
    assert!(left.is_empty(), "{left:?}");
    let left = ours(tables());
    assert!(left.is_empty(), "{left:?}");
    let left = cluster.footprint();
    assert_eq!(left, crate::machine::Footprint::default());
    assert_eq!(switches(), before);
    // Others may need it: it stays as it was.
    let now = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(now, forwarding);
    drop(outside);
}
