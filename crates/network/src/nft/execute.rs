//! Sends transactions to the kernel over netlink, without the `nft` program.

use std::os::fd::{AsFd, BorrowedFd};

use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables as nf;

use super::lower;
use super::rule::{Hook, Key, KeyType, Name, Op, SetKind, Shape, Transaction, Value};

/// Elements in one message; the length field of a netlink attribute ends at 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 256;
/// A whole table of many thousand services must fit into one datagram to be atomic.
const SEND_BUFFER: usize = 64 << 20;

/// Why the kernel did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The netlink socket could not be opened.
    #[error("cannot open a netfilter netlink socket")]
    Open(#[source] nlink::Error),
    /// The kernel refused a transaction.
    #[error("the kernel refused a change to the nftables table {table}")]
    Refused {
        /// The table.
        table: String,
        /// What it said.
        #[source]
        source: nlink::Error,
    },
}

/// One IPv4 nftables table in the network namespace of the thread that opened it.
pub struct KernelTable {
    name: String,
    connection: Connection<Nftables>,
}

impl std::fmt::Debug for KernelTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelTable")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl KernelTable {
    /// Opens a socket for the table `name`; changes nothing yet.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open(name: &str) -> Result<Self, NftError> {
        let connection = Connection::<Nftables>::new().map_err(NftError::Open)?;
        widen(connection.socket().as_fd());
        Ok(Self {
            name: name.to_owned(),
            connection,
        })
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Replaces the table, whatever it holds, by what `whole` builds; in one step.
    ///
    /// # Errors
    /// The kernel refuses it; the old table stays.
    pub async fn reset(&self, whole: &Transaction) -> Result<(), NftError> {
        // Adding a table that exists is no error without EXCL, so this deletes it in any case.
        let create = || {
            nf::RawMessage::new(nf::NFT_MSG_NEWTABLE, nf::Family::Ip)
                .flags(libc::NLM_F_CREATE as u16)
                .attrs(table_attribute(&self.name))
        };
        let out = self
            .connection
            .transaction()
            .raw(create())
            .del_table(&self.name, nf::Family::Ip)
            .raw(create());
        self.send(out, whole).await
    }

    /// Makes the changes, all or none.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub async fn commit(&self, transaction: &Transaction) -> Result<(), NftError> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.send(self.connection.transaction(), transaction).await
    }

    /// Removes the table; it is no error when there is none.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub async fn remove(&self) -> Result<(), NftError> {
        self.connection
            .del_table_if_exists(self.name.as_str(), nf::Family::Ip)
            .await
            .map(drop)
            .map_err(|source| self.refused(source))
    }

    /// The elements that packets have put into a learning map: key and value.
    ///
    /// # Errors
    /// The kernel does not answer, or has no such map.
    pub async fn learned(&self, map: &str) -> Result<Vec<(Key, Key)>, NftError> {
        let elements = self
            .connection
            .list_set_elements(&self.name, map, nf::Family::Ip)
            .await
            .map_err(|source| self.refused(source))?;
        Ok(elements
            .into_iter()
            .filter_map(|element| match element.data() {
                Some(nf::SetElementData::Value(value)) => {
                    Some((Key(element.key().to_vec()), Key(value.clone())))
                }
                _ => None,
            })
            .collect())
    }

    async fn send(
        &self,
        mut out: nf::Transaction,
        transaction: &Transaction,
    ) -> Result<(), NftError> {
        for op in &transaction.ops {
            out = self.op(out, op).map_err(|source| self.refused(source))?;
        }
        out.commit(&self.connection)
            .await
            .map_err(|source| self.refused(source))
    }

    fn refused(&self, source: nlink::Error) -> NftError {
        NftError::Refused {
            table: self.name.clone(),
            source,
        }
    }

    fn op(&self, out: nf::Transaction, op: &Op) -> Result<nf::Transaction, nlink::Error> {
        let (table, family) = (self.name.as_str(), nf::Family::Ip);
        Ok(match op {
            Op::AddSet(name, shape) => out.add_set(self.set(name, shape)),
            Op::AddChain(name, hook) => {
                let chain = nf::Chain::new(table, &**name)?.family(family);
                out.add_chain(match hook {
                    Some(hook) => chain.base(base(*hook)),
                    None => chain,
                })
            }
            Op::FlushChain(name) => out.flush_chain(table, name, family),
            Op::AddRule(chain, rule) => {
                let mut kernel = nf::Rule::new(table, chain).family(family);
                for expression in lower::rule(rule)? {
                    kernel = kernel.expr(expression);
                }
                out.add_rule(kernel)
            }
            Op::DeleteElements(name, shape, keys) => {
                let set = self.set(name, shape);
                keys.chunks(ELEMENTS_PER_MESSAGE).fold(out, |out, keys| {
                    let elements: Vec<_> = keys.iter().map(bare_element).collect();
                    out.del_set_elements(&set, &elements)
                })
            }
            Op::AddElements(name, shape, elements) => {
                let set = self.set(name, shape);
                let mut out = out;
                for elements in elements.chunks(ELEMENTS_PER_MESSAGE) {
                    let elements = elements
                        .iter()
                        .map(|(key, value)| element(key, value))
                        .collect::<Result<Vec<_>, _>>()?;
                    out = out.add_set_elements(&set, &elements);
                }
                out
            }
            Op::DeleteChain(name) => out.del_chain(table, name, family),
            Op::DeleteSet(name) => out.del_set(table, name, family),
        })
    }

    fn set(&self, name: &Name, shape: &Shape) -> nf::Set {
        let mut set = nf::Set::new(&self.name, name)
            .family(nf::Family::Ip)
            .key_type(key_type(&shape.key));
        match &shape.kind {
            SetKind::Members => {}
            SetKind::Verdicts => set = set.vmap(),
            SetKind::Values(value) => set = set.map(nf::SetDataType::Value(key_type(value))),
        }
        if let Some(timeout) = shape.learns {
            set = set.dynamic().timeout(timeout).size(65_535);
        }
        set
    }
}

fn base(hook: Hook) -> nf::BaseChain {
    use nf::{BaseChain, FilterHook, NatHook, Priority};
    let at = |standard: Priority, offset: i32| Priority::from_i32(standard.to_i32() + offset);
    match hook {
        Hook::NatPrerouting(offset) => {
            BaseChain::nat(NatHook::Prerouting, at(Priority::DstNat, offset))
        }
        Hook::NatOutput(offset) => BaseChain::nat(NatHook::Output, at(Priority::DstNat, offset)),
        Hook::NatPostrouting(offset) => {
            BaseChain::nat(NatHook::Postrouting, at(Priority::SrcNat, offset))
        }
        Hook::Prerouting(priority) => {
            BaseChain::filter(FilterHook::Prerouting, Priority::from_i32(priority))
        }
        Hook::Forward(priority) => {
            BaseChain::filter(FilterHook::Forward, Priority::from_i32(priority))
        }
        Hook::Input(priority) => BaseChain::filter(FilterHook::Input, Priority::from_i32(priority)),
        Hook::Output(priority) => {
            BaseChain::filter(FilterHook::Output, Priority::from_i32(priority))
        }
    }
}

fn key_type(words: &[KeyType]) -> nf::SetKeyType {
    let one = |word: &KeyType| match word {
        KeyType::Address => nf::SetKeyType::Ipv4Addr,
        KeyType::Protocol => nf::SetKeyType::InetProto,
        KeyType::Port => nf::SetKeyType::InetService,
        KeyType::Index => nf::SetKeyType::Mark,
    };
    match words {
        [word] => one(word),
        words => nf::SetKeyType::Concat(words.iter().map(one).collect()),
    }
}

fn bare_element(key: &Key) -> nf::SetElement {
    nf::SetElement::new(key.0.clone())
}

fn element(key: &Key, value: &Value) -> Result<nf::SetElement, nlink::Error> {
    let element = bare_element(key);
    Ok(match value {
        Value::Member => element,
        Value::Drop => element.verdict(nf::Verdict::Drop),
        Value::Accept => element.verdict(nf::Verdict::Accept),
        Value::Goto(chain) => element.verdict(nf::Verdict::GotoTo(nf::ChainName::new(&**chain)?)),
        Value::Data(data) => element.value(bare_element(data)),
    })
}

/// The attribute that names a table: a NUL-terminated string, padded to four bytes.
fn table_attribute(name: &str) -> Vec<u8> {
    const NFTA_TABLE_NAME: u16 = 1;
    let length = 4 + name.len() + 1;
    let mut out = Vec::with_capacity(length.next_multiple_of(4));
    out.extend_from_slice(&(length as u16).to_ne_bytes());
    out.extend_from_slice(&NFTA_TABLE_NAME.to_ne_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(length.next_multiple_of(4), 0);
    out
}

/// Lets the socket send large batches. Best effort: without the right to do so only very large
/// tables fail, and they say so.
fn widen(socket: BorrowedFd<'_>) {
    use nix::sys::socket::{setsockopt, sockopt};
    if let Err(error) = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER) {
        tracing::debug!(%error, "cannot enlarge the netlink send buffer");
    }
}
