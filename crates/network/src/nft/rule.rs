//! The vocabulary: chains, rules, sets, elements, and the operations that change them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::Cidr;

/// The name of a chain or set; shared, because elements and rules repeat it.
pub type Name = Arc<str>;

/// A packet field that rules look up in sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// The IPv4 source address.
    Source,
    /// The IPv4 destination address.
    Destination,
    /// The transport protocol number.
    Protocol,
    /// The destination port of the transport header.
    Port,
}

/// The type of one word of a set key or of a map value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// An IPv4 address.
    Address,
    /// A transport protocol number.
    Protocol,
    /// A transport port.
    Port,
    /// A small number in host byte order, as `numgen` makes it.
    Index,
}

/// What a set is: members only, or a map to verdicts or values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetKind {
    /// Members only.
    Members,
    /// Each key decides what happens to the packet.
    Verdicts,
    /// Each key stands for a value.
    Values(Vec<KeyType>),
}

/// The declaration of a set: the part that cannot change without replacing the set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// The key, one word after the other.
    pub key: Vec<KeyType>,
    /// What a key leads to.
    pub kind: SetKind,
    /// Set when packets add elements; they live this long after the last packet.
    pub learns: Option<Duration>,
}

impl Shape {
    /// A set of members.
    #[must_use]
    pub fn members(key: &[KeyType]) -> Self {
        Self {
            key: key.to_vec(),
            kind: SetKind::Members,
            learns: None,
        }
    }

    /// A verdict map.
    #[must_use]
    pub fn verdicts(key: &[KeyType]) -> Self {
        Self {
            key: key.to_vec(),
            kind: SetKind::Verdicts,
            learns: None,
        }
    }

    /// A map to values.
    #[must_use]
    pub fn values(key: &[KeyType], value: &[KeyType]) -> Self {
        Self {
            key: key.to_vec(),
            kind: SetKind::Values(value.to_vec()),
            learns: None,
        }
    }

    /// The same, filled by packets.
    #[must_use]
    pub fn learning(mut self, timeout: Duration) -> Self {
        self.learns = Some(timeout);
        self
    }
}

/// A set key or a map value as the kernel keeps it: each field padded to four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Vec<u8>);

impl Key {
    /// An empty key, to be continued.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(12))
    }

    /// Appends an address.
    #[must_use]
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.0.extend_from_slice(&address.octets());
        self
    }

    /// Appends a protocol number.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.0.extend_from_slice(&[protocol, 0, 0, 0]);
        self
    }

    /// Appends a port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.0.extend_from_slice(&port.to_be_bytes());
        self.0.extend_from_slice(&[0, 0]);
        self
    }

    /// Appends an index.
    #[must_use]
    pub fn index(mut self, index: u32) -> Self {
        self.0.extend_from_slice(&index.to_ne_bytes());
        self
    }
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// Nothing: the key is a member.
    Member,
    /// Evaluation continues in this chain and does not come back.
    Goto(Name),
    /// The packet is dropped.
    Drop,
    /// The packet passes this hook.
    Accept,
    /// A value.
    Data(Key),
}

impl Value {
    /// The chain that the value refers to.
    #[must_use]
    pub fn chain(&self) -> Option<&Name> {
        match self {
            Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

/// Which interface of a packet a statement looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The interface that the packet came in by.
    In,
    /// The interface that the packet goes out by.
    Out,
}

/// One step of a rule: a condition that ends the rule when it fails, or an action.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Statement {
    /// The interface's name begins with `prefix` (or not, when negated).
    Interface {
        /// Which interface.
        direction: Direction,
        /// The beginning of its name.
        prefix: String,
        /// Whether the condition is turned around.
        negate: bool,
    },
    /// The source address lies in the block (or not).
    Source(Cidr, bool),
    /// The destination address lies in the block (or not). `true` is "lies in".
    Destination(Cidr, bool),
    /// The fields are in the set (`true`) or not (`false`).
    Lookup(Vec<Field>, Name, bool),
    /// Goes where the verdict map says; goes on if it says nothing.
    Dispatch(Vec<Field>, Name),
    /// The destination is an address of this host.
    LocalDestination,
    /// The source is an address of this host.
    LocalSource,
    /// The first packet of a connection.
    NewConnection,
    /// The destination was rewritten by NAT.
    DestinationRewritten,
    /// An ICMP redirect.
    IcmpRedirect,
    /// Sets this bit of the packet's mark.
    SetMark(u32),
    /// Clears this bit of the packet's mark.
    ClearMark(u32),
    /// This bit of the mark is set (`true`) or not.
    Marked(u32, bool),
    /// Sends the connection to one of `count` values of the map, at random; remembers the choice
    /// for the source address in the learning map, if one is named.
    Balance {
        /// The map from index to address and port.
        map: Name,
        /// How many entries it has.
        count: u32,
        /// The learning map from source address to address and port.
        remember: Option<Name>,
    },
    /// Sends the connection where the learning map remembers, provided that `alive` still has it.
    Recall {
        /// The learning map from source address to address and port.
        memory: Name,
        /// The set of addresses and ports that may be used.
        alive: Name,
    },
    /// Removes what the learning map remembers of the source address.
    Forget(Name),
    /// Sends the connection to the address and port that the map has for the fields.
    Redirect(Vec<Field>, Name),
    /// Replaces the source address by that of the outgoing interface.
    Masquerade,
    /// Answers with an ICMP error.
    Reject,
    /// Drops the packet.
    Drop,
    /// Lets the packet pass this hook.
    Accept,
    /// Back to the calling chain.
    Return,
    /// Continues in the chain and comes back.
    Jump(Name),
    /// Continues in the chain and does not come back.
    Goto(Name),
}

impl Statement {
    /// The chains that the statement refers to.
    pub fn chains(&self) -> impl Iterator<Item = &Name> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
        .into_iter()
    }

    /// The sets that the statement refers to.
    pub fn sets(&self) -> impl Iterator<Item = &Name> {
        let (first, second) = match self {
            Self::Lookup(_, set, _)
            | Self::Dispatch(_, set)
            | Self::Redirect(_, set)
            | Self::Forget(set) => (Some(set), None),
            Self::Balance { map, remember, .. } => (Some(map), remember.as_ref()),
            Self::Recall { memory, alive } => (Some(memory), Some(alive)),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// Statements evaluated from first to last.
pub type Rule = Vec<Statement>;

/// Where a base chain is hooked into the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Address translation of what comes in (priority relative to "dstnat").
    NatPrerouting(i32),
    /// Address translation of what this host sends (priority relative to "dstnat").
    NatOutput(i32),
    /// Address translation of what leaves (priority relative to "srcnat").
    NatPostrouting(i32),
    /// Filter of what comes in, at this priority.
    Prerouting(i32),
    /// Filter of what this host forwards, at this priority.
    Forward(i32),
    /// Filter of what is for this host, at this priority.
    Input(i32),
    /// Filter of what this host sends, at this priority.
    Output(i32),
}

/// A chain: its hook, if it is a base chain, and its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it; none for a chain that others jump to.
    pub hook: Option<Hook>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// A set that one fragment owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its declaration.
    pub shape: Arc<Shape>,
    /// Its elements (none for a learning set).
    pub elements: BTreeMap<Key, Value>,
}

impl Set {
    /// An empty set.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape: Arc::new(shape),
            elements: BTreeMap::new(),
        }
    }
}

/// The part of a table that one owner asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Chains of its own.
    pub chains: BTreeMap<Name, Chain>,
    /// Sets of its own.
    pub sets: BTreeMap<Name, Set>,
    /// Elements in the sets of the base fragment. When several owners claim a key, the first owner
    /// in order has it.
    pub shared: BTreeMap<(Name, Key), Value>,
}

/// One change to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes an empty set.
    AddSet(Name, Arc<Shape>),
    /// Makes an empty chain.
    AddChain(Name, Option<Hook>),
    /// Removes all rules of a chain.
    FlushChain(Name),
    /// Appends a rule.
    AddRule(Name, Rule),
    /// Removes elements.
    DeleteElements(Name, Arc<Shape>, Vec<Key>),
    /// Adds elements; the keys are not in the set.
    AddElements(Name, Arc<Shape>, Vec<(Key, Value)>),
    /// Removes an empty chain that nothing refers to.
    DeleteChain(Name),
    /// Removes a set that no rule refers to.
    DeleteSet(Name),
}

/// Changes that the kernel makes all at once or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The changes in order.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Appends another transaction's changes.
    pub fn append(&mut self, mut other: Self) {
        self.ops.append(&mut other.ops);
    }
}
