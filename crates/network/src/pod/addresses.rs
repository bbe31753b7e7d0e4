//! Which pod has which address: one small file for each, so that no restart hands one out twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AttachRequest, PortMapping};
use crate::Cidr;

/// The address book's place in the state directory.
const DIRECTORY: &str = "addresses";
/// The file with the range that the addresses are of.
const RANGE: &str = "range";

/// What went wrong with the address book.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Every address of the range is taken.
    #[error("no address is free in the pod range {0}")]
    Exhausted(Cidr),
    /// The state directory.
    #[error("pod address file {path}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An address and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub ip: Ipv4Addr,
    pub id: String,
    pub netns: PathBuf,
    pub host_interface: String,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub ports: Vec<PortMapping>,
}

/// The address book of one node.
#[derive(Debug)]
pub(super) struct Addresses {
    directory: PathBuf,
    cidr: Cidr,
    records: BTreeMap<Ipv4Addr, Record>,
    by_id: BTreeMap<String, Ipv4Addr>,
    /// Where the search for a free address goes on: a released address rests as long as possible.
    next: u64,
}

impl Addresses {
    pub fn open(state_dir: &Path, cidr: Cidr) -> Result<Self, AddressError> {
        let directory = state_dir.join(DIRECTORY);
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        let mut book = Self {
            directory,
            cidr,
            records: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next: 2,
        };
        book.load()?;
        if let Some(last) = book.records.keys().next_back() {
            let offset = u32::from(*last).wrapping_sub(u32::from(cidr.address()));
            book.next = u64::from(offset) + 1;
        }
        Ok(book)
    }

    fn load(&mut self) -> Result<(), AddressError> {
        let directory = self.directory.clone();
        for entry in fs::read_dir(&directory).map_err(at(&directory))? {
            let path = entry.map_err(at(&directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let ip = name.and_then(|name| name.parse::<Ipv4Addr>().ok());
            let bytes = fs::read(&path).map_err(at(&path))?;
            let record = serde_json::from_slice::<Record>(&bytes).ok();
            match (ip, record) {
                (Some(ip), Some(record)) if record.ip == ip => {
                    self.by_id.insert(record.id.clone(), ip);
                    self.records.insert(ip, record);
                }
                // A file is complete before it gets its name; only a power loss leaves such a one, and
                // then its pod is gone too.
                _ => {
                    if ip.is_some() {
                        tracing::warn!(path = %path.display(), "dropping a damaged pod address file");
                    }
                    fs::remove_file(&path).map_err(at(&path))?;
                }
            }
        }
        Ok(())
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    pub fn by_id(&self, id: &str) -> Option<&Record> {
        self.records.get(self.by_id.get(id)?)
    }

    pub fn interfaces(&self) -> BTreeSet<String> {
        self.records()
            .map(|record| record.host_interface.clone())
            .collect()
    }

    /// The address that the id has, or a free one; written down before it is returned.
    pub fn claim(
        &mut self,
        request: &AttachRequest,
        interface: impl Fn(u64) -> String,
    ) -> Result<Record, AddressError> {
        let ip = match self.by_id.get(&request.id) {
            Some(ip) => *ip,
            None => self.free()?,
        };
        let offset = u64::from(u32::from(ip).wrapping_sub(u32::from(self.cidr.address())));
        let record = Record {
            ip,
            id: request.id.clone(),
            netns: request.netns.clone(),
            host_interface: interface(offset),
            hostname: request.hostname.clone(),
            ports: request.ports.clone(),
        };
        self.write(&record)?;
        self.by_id.insert(record.id.clone(), ip);
        self.records.insert(ip, record.clone());
        self.next = offset + 1;
        Ok(record)
    }

    fn free(&self) -> Result<Ipv4Addr, AddressError> {
        // Network, gateway and broadcast addresses are nobody's.
        let (first, last) = (2, self.cidr.size().saturating_sub(2));
        let start = self.next.clamp(first, last + 1);
        (start..=last)
            .chain(first..start)
            .filter_map(|offset| self.cidr.nth(offset))
            .find(|ip| !self.records.contains_key(ip))
            .ok_or(AddressError::Exhausted(self.cidr))
    }

    fn write(&self, record: &Record) -> Result<(), AddressError> {
        let path = self.path(record.ip);
        let draft = self.directory.join(format!("{}.new", record.ip));
        let bytes = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .map_err(at(&path))?;
        fs::write(&draft, bytes).map_err(at(&draft))?;
        fs::rename(&draft, &path).map_err(at(&path))
    }

    pub fn release(&mut self, ip: Ipv4Addr) -> Result<(), AddressError> {
        let path = self.path(ip);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
        if let Some(record) = self.records.remove(&ip) {
            self.by_id.remove(&record.id);
        }
        Ok(())
    }

    pub fn forget(&mut self) {
        self.records.clear();
        self.by_id.clear();
    }

    fn path(&self, ip: Ipv4Addr) -> PathBuf {
        self.directory.join(ip.to_string())
    }
}

/// The range that was written down last.
pub(super) fn read_range(state_dir: &Path) -> Option<Cidr> {
    let text = fs::read_to_string(state_dir.join(RANGE)).ok()?;
    text.trim().parse().ok()
}

/// Writes the range down: whoever cleans up must know it.
pub(super) fn write_range(state_dir: &Path, range: Cidr) -> Result<(), AddressError> {
    let path = state_dir.join(RANGE);
    fs::write(&path, format!("{range}\n")).map_err(at(&path))
}

/// Removes the address book of a state directory.
pub(super) fn remove_all(state_dir: &Path) -> Result<(), AddressError> {
    let (directory, range) = (state_dir.join(DIRECTORY), state_dir.join(RANGE));
    for (path, outcome) in [
        (&directory, fs::remove_dir_all(&directory)),
        (&range, fs::remove_file(&range)),
    ] {
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> AddressError {
    let path = path.to_owned();
    move |source| AddressError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> AttachRequest {
        AttachRequest {
            id: id.to_owned(),
            netns: PathBuf::from("/run/netns").join(id),
            hostname: id.to_owned(),
            ports: Vec::new(),
        }
    }

    fn open(directory: &Path) -> Addresses {
        Addresses::open(directory, "10.1.2.0/29".parse().unwrap()).unwrap()
    }

    fn claim(book: &mut Addresses, id: &str) -> Result<u8, AddressError> {
        let record = book.claim(&request(id), |offset| format!("v{offset}"))?;
        Ok(record.ip.octets()[3])
    }

    #[test]
    fn hands_out_every_address_once_and_reserves_three() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = open(directory.path());
        let given: Vec<u8> = (0..5)
            .map(|n| claim(&mut book, &format!("p{n}")).unwrap())
            .collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert!(matches!(
            claim(&mut book, "one-too-many"),
            Err(AddressError::Exhausted(_))
        ));
        assert_eq!(claim(&mut book, "p3").unwrap(), 5, "the same id keeps it");
    }

    #[test]
    fn a_released_address_rests_until_the_others_were_used() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = open(directory.path());
        assert_eq!(claim(&mut book, "a").unwrap(), 2);
        book.release(Ipv4Addr::new(10, 1, 2, 2)).unwrap();
        for (id, expected) in [("b", 3), ("c", 4), ("d", 5), ("e", 6), ("f", 2)] {
            assert_eq!(claim(&mut book, id).unwrap(), expected);
        }
    }

    #[test]
    fn a_restart_knows_what_was_handed_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = open(directory.path());
        claim(&mut book, "a").unwrap();
        claim(&mut book, "b").unwrap();
        let damaged = directory.path().join("addresses/10.1.2.6");
        fs::write(&damaged, "{").unwrap();
        let mut book = open(directory.path());
        assert_eq!(book.by_id("b").unwrap().ip, Ipv4Addr::new(10, 1, 2, 3));
        assert!(!damaged.exists());
        assert_eq!(claim(&mut book, "c").unwrap(), 4);
        assert_eq!(read_range(directory.path()), None);
        let range = "10.1.2.0/29".parse().unwrap();
        write_range(directory.path(), range).unwrap();
        assert_eq!(read_range(directory.path()), Some(range));
        remove_all(directory.path()).unwrap();
        remove_all(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
