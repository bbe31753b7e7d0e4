//! One nftables table as data: what it should hold, how it changes, and how the kernel is told.
//!
//! Planners build [`Fragment`]s (the part of the table that one owner, such as a service, asks for).
//! An [`Assembly`] merges them and turns every change into a [`Transaction`] of deltas, so that the
//! cost of a change is the size of the change. [`KernelTable`] sends transactions over netlink.

mod assembly;
mod execute;
mod guard;
mod lower;
mod model;
mod rule;

pub use assembly::Assembly;
pub use execute::{KernelTable, NftError};
pub use guard::TableGuard;
pub use model::{Model, Violation};
pub use rule::{
    Chain, Direction, Field, Fragment, Hook, Key, KeyType, Name, Op, Rule, Set, SetKind, Shape,
    Statement, Transaction, Value,
};
