//! The functions, a file per library, each with its table.

pub(crate) mod arithmetic;
pub(crate) mod authorizer;
pub(crate) mod cidr;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod duration;
pub(crate) mod format;
pub(crate) mod formatting;
pub(crate) mod ip;
pub(crate) mod lists;
pub(crate) mod maps;
pub(crate) mod opaque;
pub(crate) mod optional;
pub(crate) mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
pub(crate) mod sets;
pub(crate) mod strings;
pub(crate) mod timestamp;
pub(crate) mod url;

use crate::declare::Row;

/// All tables, in the order in which variants are tried.
pub(crate) fn tables() -> Vec<&'static [Row]> {
    vec![
        arithmetic::TABLE,
        compare::TABLE,
        convert::TABLE,
        strings::TABLE,
        timestamp::TABLE,
        optional::TABLE,
        maps::TABLE,
        lists::TABLE,
        sets::TABLE,
        regex::TABLE,
        url::TABLE,
        quantity::TABLE,
        ip::TABLE,
        cidr::TABLE,
        format::TABLE,
        semver::TABLE,
        authorizer::TABLE,
    ]
}
