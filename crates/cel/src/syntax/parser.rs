//! Builds the tree out of tokens: recursive descent, with bounds that keep hostile input off the stack.

use std::sync::Arc;

use super::ast::{Call, Entry, Expr, FieldInit, Id, Kind, Literal, Select, op};
use super::lexer::{Token, TokenKind, tokens};
use super::literal::unquote;
use super::macros;
use crate::error::{CompileErrors, Issue};

/// How deep expressions may be, chains of operators and selections included.
const MAX_DEPTH: usize = 250;
/// How deep expressions may nest in brackets: each level takes a dozen calls of the parser. (Upstream's limit is that of
/// all depth; its stack grows.)
const MAX_NESTING: usize = 80;
/// How many code points an expression may have.
const MAX_CODE_POINTS: usize = 100_000;
/// How many nodes a tree may have: macros that copy what they get may double it at each level.
const MAX_NODES: usize = 500_000;
const MAX_SYNTAX_ERRORS: usize = 100;

const EXPRESSION_START: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Words that no variable may be called.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A parsed expression: its tree, and where in the source each node stands.
pub(crate) struct Parsed {
    pub(crate) root: Expr,
    pub(crate) positions: Positions,
}

/// Where each node stands: byte offsets by id.
#[derive(Default)]
pub(crate) struct Positions {
    offsets: Vec<usize>,
}

impl Positions {
    pub(crate) fn node(&mut self, offset: usize) -> Id {
        self.offsets.push(offset);
        self.offsets.len() - 1
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(crate) fn offset(&self, id: Id) -> usize {
        self.offsets.get(id).copied().unwrap_or_default()
    }

    /// The fault `message` at the node `id`.
    pub(crate) fn issue(&self, source: &str, id: Id, message: impl Into<String>) -> Issue {
        issue_at(source, self.offset(id), message)
    }
}

fn issue_at(source: &str, offset: usize, message: impl Into<String>) -> Issue {
    let before = source.get(..offset).unwrap_or(source);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Issue {
        line: before.matches('\n').count() as u32 + 1,
        column: before[line_start..].chars().count() as u32,
        message: message.into(),
    }
}

/// Parses `source`, macros expanded.
pub(crate) fn parse(source: &str) -> Result<Parsed, CompileErrors> {
    let size = source.chars().count();
    if size > MAX_CODE_POINTS {
        return Err(fatal(
            source,
            format!(
                "expression code point size exceeds limit: size: {size}, limit {MAX_CODE_POINTS}"
            ),
        ));
    }
    let (tokens, bad) = tokens(source);
    let mut parser = Parser {
        source,
        tokens,
        at: 0,
        depth: 0,
        nesting: 0,
        positions: Positions::default(),
        issues: Vec::new(),
    };
    for piece in bad.into_iter().take(MAX_SYNTAX_ERRORS) {
        parser.issues.push(issue_at(
            source,
            piece.start,
            format!("Syntax error: token recognition error at: '{}'", piece.text),
        ));
    }
    let root = parser.whole();
    match root {
        Ok(root) if parser.issues.is_empty() => Ok(Parsed {
            root,
            positions: parser.positions,
        }),
        Err(Stop::TooDeep) => Err(fatal(
            source,
            format!("expression recursion limit exceeded: {MAX_DEPTH}"),
        )),
        _ => Err(CompileErrors::new(source, parser.issues)),
    }
}

fn fatal(source: &str, message: String) -> CompileErrors {
    CompileErrors::new(
        source,
        vec![Issue {
            line: 0,
            column: 0,
            message,
        }],
    )
}

/// Why parsing went no further.
pub(super) enum Stop {
    /// A syntax error, which has been noted.
    Syntax,
    TooDeep,
}

type Parse<T> = Result<T, Stop>;

pub(super) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    nesting: usize,
    positions: Positions,
    issues: Vec<Issue>,
}

/// Makes nodes; macros build trees with it.
impl Parser<'_> {
    pub(super) fn node(&mut self, offset: usize, kind: Kind) -> Expr {
        Expr {
            id: self.positions.node(offset),
            kind,
        }
    }

    pub(super) fn offset(&self, expr: &Expr) -> usize {
        self.positions.offset(expr.id)
    }

    pub(super) fn call(&mut self, offset: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.node(
            offset,
            Kind::Call(Box::new(Call {
                function: Arc::from(function),
                target: None,
                args,
            })),
        )
    }

    pub(super) fn report(&mut self, offset: usize, message: impl Into<String>) {
        self.issues.push(issue_at(self.source, offset, message));
    }

    /// Whether so many nodes were made that the expression is an attack.
    pub(super) fn is_too_big(&self) -> bool {
        self.positions.len() > MAX_NODES
    }
}

impl Parser<'_> {
    fn token(&self) -> &Token {
        // The last token is `End` and is never passed.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn text(&self, token: &Token) -> &str {
        self.source.get(token.start..token.end).unwrap_or_default()
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        if token.kind != TokenKind::End {
            self.at += 1;
        }
        token
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.token().kind, TokenKind::Symbol(s) if s == symbol)
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Parse<()> {
        if self.eat(symbol) {
            return Ok(());
        }
        self.mismatch(&format!("'{symbol}'"))
    }

    fn mismatch<T>(&mut self, expecting: &str) -> Parse<T> {
        let token = self.token().clone();
        let shown = if token.kind == TokenKind::End {
            "<EOF>".to_owned()
        } else {
            self.text(&token).to_owned()
        };
        self.report(
            token.start,
            format!("Syntax error: mismatched input '{shown}' expecting {expecting}"),
        );
        Err(Stop::Syntax)
    }

    fn deeper(&mut self) -> Parse<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH || self.is_too_big() {
            return Err(Stop::TooDeep);
        }
        Ok(())
    }

    fn whole(&mut self) -> Parse<Expr> {
        let root = self.expression()?;
        if self.token().kind == TokenKind::End {
            return Ok(root);
        }
        let token = self.token().clone();
        let shown = self.text(&token).to_owned();
        let message = if self.at + 1 == self.tokens.len() - 1 {
            format!("Syntax error: extraneous input '{shown}' expecting <EOF>")
        } else {
            format!("Syntax error: mismatched input '{shown}' expecting <EOF>")
        };
        self.report(token.start, message);
        Err(Stop::Syntax)
    }

    /// An expression: alternatives joined by `||`, or a condition with its two outcomes.
    fn expression(&mut self) -> Parse<Expr> {
        let depth = self.depth;
        self.deeper()?;
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(Stop::TooDeep);
        }
        let condition = self.logical(op::OR, "||")?;
        let result = if self.is("?") {
            let at = self.advance().start;
            let then = self.logical(op::OR, "||")?;
            self.expect(":")?;
            let otherwise = self.expression()?;
            self.call(at, op::CONDITIONAL, vec![condition, then, otherwise])
        } else {
            condition
        };
        self.depth = depth;
        self.nesting -= 1;
        Ok(result)
    }

    /// Terms joined by `||`, or by `&&`: a balanced tree, so that long chains are not deep.
    fn logical(&mut self, function: &'static str, symbol: &str) -> Parse<Expr> {
        let mut terms = vec![self.logical_term(function)?];
        let mut operators = Vec::new();
        while self.is(symbol) {
            operators.push(self.advance().start);
            terms.push(self.logical_term(function)?);
        }
        Ok(self.balanced(function, terms, &operators))
    }

    fn logical_term(&mut self, function: &'static str) -> Parse<Expr> {
        if function == op::OR {
            self.logical(op::AND, "&&")
        } else {
            self.binary(0)
        }
    }

    fn balanced(&mut self, function: &str, mut terms: Vec<Expr>, operators: &[usize]) -> Expr {
        if terms.len() == 1
            && let Some(only) = terms.pop()
        {
            return only;
        }
        let middle = operators.len() / 2;
        let right = terms.split_off(middle + 1);
        let left = self.balanced(function, terms, &operators[..middle]);
        let right = self.balanced(function, right, &operators[middle + 1..]);
        self.call(operators[middle], function, vec![left, right])
    }

    /// Relations (level 0), sums (1) and products (2), each from the left.
    fn binary(&mut self, level: usize) -> Parse<Expr> {
        if level == 3 {
            return self.unary();
        }
        let depth = self.depth;
        let mut left = self.binary(level + 1)?;
        while let Some(function) = self.operator(level) {
            self.deeper()?;
            let at = self.advance().start;
            let right = self.binary(level + 1)?;
            left = self.call(at, function, vec![left, right]);
        }
        self.depth = depth;
        Ok(left)
    }

    fn operator(&self, level: usize) -> Option<&'static str> {
        let TokenKind::Symbol(symbol) = self.token().kind else {
            return None;
        };
        Some(match (level, symbol) {
            (0, "<") => op::LT,
            (0, "<=") => op::LE,
            (0, ">") => op::GT,
            (0, ">=") => op::GE,
            (0, "==") => op::EQ,
            (0, "!=") => op::NE,
            (0, "in") => op::IN,
            (1, "+") => op::ADD,
            (1, "-") => op::SUB,
            (2, "*") => op::MUL,
            (2, "/") => op::DIV,
            (2, "%") => op::MOD,
            _ => return None,
        })
    }

    fn unary(&mut self) -> Parse<Expr> {
        let (symbol, function) = if self.is("!") {
            ("!", op::NOT)
        } else if self.is("-") && !self.is_negative_number() {
            ("-", op::NEG)
        } else {
            return self.member();
        };
        let at = self.token().start;
        let mut count = 0;
        while self.is(symbol) && (symbol == "!" || !self.is_negative_number() || count % 2 == 1) {
            self.advance();
            count += 1;
        }
        let operand = self.member()?;
        if count % 2 == 0 {
            return Ok(operand);
        }
        Ok(self.call(at, function, vec![operand]))
    }

    fn is_negative_number(&self) -> bool {
        self.is("-")
            && matches!(
                self.tokens.get(self.at + 1).map(|t| &t.kind),
                Some(TokenKind::Int | TokenKind::Float)
            )
    }

    /// A primary and what hangs on it: `.field`, `.call()`, `[index]`.
    fn member(&mut self) -> Parse<Expr> {
        let depth = self.depth;
        let mut left = self.primary()?;
        loop {
            if self.is(".") {
                self.deeper()?;
                left = self.selection(left)?;
            } else if self.is("[") {
                self.deeper()?;
                let at = self.advance().start;
                let function = if self.eat("?") {
                    op::OPT_INDEX
                } else {
                    op::INDEX
                };
                let index = self.expression()?;
                self.expect("]")?;
                left = self.call(at, function, vec![left, index]);
            } else {
                self.depth = depth;
                return Ok(left);
            }
        }
    }

    fn selection(&mut self, operand: Expr) -> Parse<Expr> {
        let dot = self.advance().start;
        let optional = self.eat("?");
        let token = self.token().clone();
        let name = match token.kind {
            TokenKind::Ident => self.text(&token).to_owned(),
            TokenKind::Quoted => {
                self.report(token.start, "unsupported syntax: '`'");
                self.text(&token).trim_matches('`').to_owned()
            }
            TokenKind::Symbol(word @ ("in" | "true" | "false" | "null")) => {
                self.report(
                    token.start,
                    format!("Syntax error: mismatched input '{word}' expecting IDENTIFIER"),
                );
                return Err(Stop::Syntax);
            }
            _ => {
                let shown = self.text(&token).to_owned();
                let shown = if shown.is_empty() {
                    "<EOF>".to_owned()
                } else {
                    shown
                };
                self.report(
                    token.start,
                    format!("Syntax error: no viable alternative at input '.{shown}'"),
                );
                return Err(Stop::Syntax);
            }
        };
        self.advance();
        if optional {
            let field = self.node(token.start, Kind::Literal(Literal::String(Arc::from(name))));
            return Ok(self.call(dot, op::OPT_SELECT, vec![operand, field]));
        }
        if self.is("(") {
            let at = self.advance().start;
            let args = self.arguments()?;
            return macros::call(self, at, name, Some(operand), args);
        }
        Ok(self.node(
            dot,
            Kind::Select(Box::new(Select {
                operand,
                field: Arc::from(name),
                test_only: false,
            })),
        ))
    }

    /// The arguments of a call, after its `(`.
    fn arguments(&mut self) -> Parse<Vec<Expr>> {
        let mut args = Vec::new();
        if self.eat(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if self.eat(")") {
                return Ok(args);
            }
            if !self.eat(",") {
                return self.mismatch("{')', ','}");
            }
        }
    }

    fn primary(&mut self) -> Parse<Expr> {
        let token = self.token().clone();
        match token.kind {
            TokenKind::Symbol("(") => {
                self.advance();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Symbol("[") => self.list(),
            TokenKind::Symbol("{") => self.map(),
            TokenKind::Symbol(".") => {
                self.advance();
                self.named(".")
            }
            TokenKind::Ident => self.named(""),
            _ => self.literal(),
        }
    }

    /// A name: a variable, a function that is called, or a type that is constructed.
    fn named(&mut self, leading: &str) -> Parse<Expr> {
        let token = self.token().clone();
        if token.kind != TokenKind::Ident {
            return self.mismatch("IDENTIFIER");
        }
        if let Some(name) = self.constructed_type() {
            return self.construction(format!("{leading}{name}"));
        }
        let name = self.text(&token).to_owned();
        if RESERVED.contains(&name.as_str()) {
            self.report(token.start, format!("reserved identifier: {name}"));
        }
        self.advance();
        if self.is("(") {
            let at = self.advance().start;
            let args = self.arguments()?;
            return macros::call(self, at, format!("{leading}{name}"), None, args);
        }
        Ok(self.node(
            token.start,
            Kind::Ident(Arc::from(format!("{leading}{name}"))),
        ))
    }

    /// The name in `a.b.C{`, if that is what comes next.
    fn constructed_type(&self) -> Option<String> {
        let mut at = self.at;
        let mut name = String::new();
        loop {
            let token = self.tokens.get(at)?;
            if token.kind != TokenKind::Ident {
                return None;
            }
            name.push_str(self.text(token));
            match self.tokens.get(at + 1)?.kind {
                TokenKind::Symbol("{") => return Some(name),
                TokenKind::Symbol(".") => name.push('.'),
                _ => return None,
            }
            at += 2;
        }
    }

    fn construction(&mut self, name: String) -> Parse<Expr> {
        while !self.is("{") {
            self.advance();
        }
        let at = self.advance().start;
        let mut fields = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let token = self.token().clone();
            if token.kind != TokenKind::Ident {
                return self.mismatch("{'}', ',', '?', IDENTIFIER}");
            }
            let field = Arc::from(self.text(&token));
            self.advance();
            let colon = self.token().start;
            self.expect(":")?;
            let id = self.positions.node(colon);
            let value = self.expression()?;
            fields.push(FieldInit {
                id,
                name: field,
                value,
                optional,
            });
            if !self.eat(",") && !self.is("}") {
                return self.mismatch("{'}', ','}");
            }
        }
        Ok(self.node(
            at,
            Kind::Struct {
                name: Arc::from(name),
                fields,
            },
        ))
    }

    fn list(&mut self) -> Parse<Expr> {
        let at = self.advance().start;
        let mut elements = Vec::new();
        let mut optional = Vec::new();
        while !self.eat("]") {
            if self.eat("?") {
                optional.push(elements.len());
            }
            elements.push(self.expression()?);
            if !self.eat(",") && !self.is("]") {
                return self.mismatch("{']', ','}");
            }
        }
        Ok(self.node(at, Kind::List { elements, optional }))
    }

    fn map(&mut self) -> Parse<Expr> {
        let at = self.advance().start;
        let mut entries = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            entries.push(Entry {
                key,
                value,
                optional,
            });
            if !self.eat(",") && !self.is("}") {
                return self.mismatch("{'}', ','}");
            }
        }
        Ok(self.node(at, Kind::Map(entries)))
    }

    fn literal(&mut self) -> Parse<Expr> {
        let start = self.token().start;
        let negative = self.is_negative_number() && self.eat("-");
        let token = self.token().clone();
        let text = self.text(&token).to_owned();
        let literal = match token.kind {
            TokenKind::Symbol("true") => Ok(Literal::Bool(true)),
            TokenKind::Symbol("false") => Ok(Literal::Bool(false)),
            TokenKind::Symbol("null") => Ok(Literal::Null),
            TokenKind::Int => integer(&text, negative)
                .map(Literal::Int)
                .ok_or_else(|| "invalid int literal".to_owned()),
            TokenKind::Uint => unsigned(text.trim_end_matches(['u', 'U']))
                .map(Literal::Uint)
                .ok_or_else(|| "invalid uint literal".to_owned()),
            TokenKind::Float => double(&text, negative)
                .map(Literal::Double)
                .ok_or_else(|| "invalid double literal".to_owned()),
            TokenKind::String => unquote(&text, false),
            TokenKind::Bytes => unquote(&text, true),
            _ => return self.mismatch(EXPRESSION_START),
        };
        self.advance();
        let literal = literal.unwrap_or_else(|message| {
            self.report(start, message);
            Literal::Null
        });
        Ok(self.node(start, Kind::Literal(literal)))
    }
}

fn unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn integer(text: &str, negative: bool) -> Option<i64> {
    let value = i128::from(unsigned(text)?);
    i64::try_from(if negative { -value } else { value }).ok()
}

fn double(text: &str, negative: bool) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    value
        .is_finite()
        .then_some(if negative { -value } else { value })
}
