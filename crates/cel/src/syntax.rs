//! From text to a tree: the lexer, the parser and the macros that it expands.

pub(crate) mod ast;
mod lexer;
mod literal;
mod macros;
mod parser;

pub(crate) use parser::{Parsed, Positions, RESERVED, parse};
