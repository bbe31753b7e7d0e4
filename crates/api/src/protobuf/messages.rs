//! The table of messages, read once.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in JSON; empty when inline.
    pub name: &'static str,
    /// Its fields lie in the parent's JSON object.
    pub inline: bool,
    /// JSON has it also when it is empty.
    pub always: bool,
    /// The type, as the table writes it.
    pub kind: &'static str,
}

static TABLE: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    let lines = include_str!("table.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect()
});

/// A message's name and its line in the table.
pub fn find(name: &str) -> Option<(&'static str, &'static str)> {
    TABLE.get_key_value(name).map(|(name, line)| (*name, *line))
}

/// The fields of a message; none for one that the table does not have.
pub fn fields(name: &str) -> impl Iterator<Item = Field> + Clone {
    let line = find(name).map(|(_, line)| line).unwrap_or_default();
    line.split_whitespace().filter_map(parse)
}

fn parse(word: &'static str) -> Option<Field> {
    let (head, kind) = word.split_once(':')?;
    let digits = head.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &head[digits..];
    let name = rest.trim_start_matches(['!', '~']);
    Some(Field {
        number: head[..digits].parse().ok()?,
        name,
        inline: rest.starts_with('~'),
        always: rest.starts_with('!'),
        kind,
    })
}
