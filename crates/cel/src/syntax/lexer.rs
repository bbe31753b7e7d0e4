//! Cuts an expression into tokens.

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    Ident,
    /// A name between backticks.
    Quoted,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    /// An operator, a bracket, or one of `in`, `true`, `false`, `null`.
    Symbol(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    /// Byte range in the source.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A piece of text that is no token: where it begins and what it is.
pub(crate) struct Unrecognized {
    pub(crate) start: usize,
    pub(crate) text: String,
}

const SYMBOLS: [&str; 27] = [
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%", "<", ">", "=", "&", "|",
];

/// The tokens of `source`, the last of which is `End`, and what could not be read.
pub(crate) fn tokens(source: &str) -> (Vec<Token>, Vec<Unrecognized>) {
    let mut lexer = Lexer {
        source,
        at: 0,
        tokens: Vec::with_capacity(source.len() / 4 + 1),
        bad: Vec::new(),
    };
    while lexer.step() {}
    let end = source.len();
    lexer.tokens.push(Token {
        kind: TokenKind::End,
        start: end,
        end,
    });
    (lexer.tokens, lexer.bad)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    tokens: Vec<Token>,
    bad: Vec<Unrecognized>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, kind: TokenKind, length: usize) {
        let start = self.at;
        self.at += length;
        self.tokens.push(Token {
            kind,
            start,
            end: self.at,
        });
    }

    fn step(&mut self) -> bool {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return false;
        };
        if matches!(first, ' ' | '\t' | '\r' | '\n' | '\u{c}') {
            self.at += 1;
            return true;
        }
        if rest.starts_with("//") {
            self.at += rest.find('\n').unwrap_or(rest.len());
            return true;
        }
        if let Some((kind, length)) = string_token(rest) {
            self.push(kind, length);
            return true;
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let length = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let kind = match &rest[..length] {
                "in" => TokenKind::Symbol("in"),
                "true" => TokenKind::Symbol("true"),
                "false" => TokenKind::Symbol("false"),
                "null" => TokenKind::Symbol("null"),
                _ => TokenKind::Ident,
            };
            self.push(kind, length);
            return true;
        }
        if let Some((kind, length)) = number_token(rest) {
            self.push(kind, length);
            return true;
        }
        if first == '`' {
            let inner = rest[1..]
                .find(|c: char| !c.is_ascii_alphanumeric() && !"_.-/ ".contains(c))
                .unwrap_or(rest.len() - 1);
            if inner > 0 && rest[1 + inner..].starts_with('`') {
                self.push(TokenKind::Quoted, inner + 2);
                return true;
            }
        }
        for symbol in SYMBOLS {
            if rest.starts_with(symbol) && !matches!(symbol, "=" | "&" | "|") {
                self.push(TokenKind::Symbol(symbol), symbol.len());
                return true;
            }
        }
        let text = self.unreadable(first);
        let start = self.at;
        self.at += text.len();
        self.bad.push(Unrecognized { start, text });
        true
    }

    /// How much of the text the fault covers: an open string goes to the end of its line.
    fn unreadable(&self, first: char) -> String {
        let rest = self.rest();
        if first == '"' || first == '\'' {
            let length = rest.find('\n').unwrap_or(rest.len());
            return rest[..length].to_owned();
        }
        first.to_string()
    }
}

/// A string or bytes literal at the start of `text`, prefixes and quotes included.
fn string_token(text: &str) -> Option<(TokenKind, usize)> {
    let bytes = text.as_bytes();
    let mut prefix = 0;
    let mut raw = false;
    let mut is_bytes = false;
    while prefix < 2 {
        match bytes.get(prefix) {
            Some(b'r' | b'R') if !raw => raw = true,
            Some(b'b' | b'B') if !is_bytes => is_bytes = true,
            _ => break,
        }
        // `rb''` is no prefix, `br''` is.
        if is_bytes && raw && matches!(bytes.first(), Some(b'r' | b'R')) {
            return None;
        }
        prefix += 1;
    }
    let quote = *bytes.get(prefix)?;
    if quote != b'"' && quote != b'\'' {
        return None;
    }
    let kind = if is_bytes {
        TokenKind::Bytes
    } else {
        TokenKind::String
    };
    let triple = bytes.get(prefix + 1) == Some(&quote) && bytes.get(prefix + 2) == Some(&quote);
    let body = prefix + if triple { 3 } else { 1 };
    if triple && let Some(end) = string_end(bytes, body, quote, raw, true) {
        return Some((kind, end));
    }
    string_end(bytes, prefix + 1, quote, raw, false).map(|end| (kind, end))
}

fn string_end(bytes: &[u8], from: usize, quote: u8, raw: bool, triple: bool) -> Option<usize> {
    let mut at = from;
    loop {
        match *bytes.get(at)? {
            b'\\' if !raw => at += 2,
            b'\n' | b'\r' if !triple => return None,
            b if b == quote => {
                if !triple {
                    return Some(at + 1);
                }
                if bytes.get(at + 1) == Some(&quote) && bytes.get(at + 2) == Some(&quote) {
                    return Some(at + 3);
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
}

fn digits(bytes: &[u8], from: usize) -> usize {
    bytes[from.min(bytes.len())..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .count()
}

fn exponent(bytes: &[u8], at: usize) -> usize {
    if !matches!(bytes.get(at), Some(b'e' | b'E')) {
        return 0;
    }
    let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
    match digits(bytes, at + 1 + sign) {
        0 => 0,
        n => 1 + sign + n,
    }
}

fn number_token(text: &str) -> Option<(TokenKind, usize)> {
    let bytes = text.as_bytes();
    if bytes.starts_with(b"0x") {
        let n = bytes[2..]
            .iter()
            .take_while(|b| b.is_ascii_hexdigit())
            .count();
        if n > 0 {
            return Some(integer_token(bytes, 2 + n));
        }
    }
    let whole = digits(bytes, 0);
    if bytes.get(whole) == Some(&b'.') {
        let fraction = digits(bytes, whole + 1);
        if fraction > 0 {
            let end = whole + 1 + fraction;
            return Some((TokenKind::Float, end + exponent(bytes, end)));
        }
    }
    if whole == 0 {
        return None;
    }
    match exponent(bytes, whole) {
        0 => Some(integer_token(bytes, whole)),
        e => Some((TokenKind::Float, whole + e)),
    }
}

fn integer_token(bytes: &[u8], length: usize) -> (TokenKind, usize) {
    if matches!(bytes.get(length), Some(b'u' | b'U')) {
        (TokenKind::Uint, length + 1)
    } else {
        (TokenKind::Int, length)
    }
}
