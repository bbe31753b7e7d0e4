//! Reads the inside of string and bytes literals.

use std::sync::Arc;

use super::ast::Literal;

/// The value of a string or bytes literal as it stands in the source, prefixes and quotes included.
pub(crate) fn unquote(text: &str, is_bytes: bool) -> Result<Literal, String> {
    let quote_at = text.find(['"', '\'']).ok_or("invalid string literal")?;
    let (prefix, rest) = text.split_at(quote_at);
    let raw = prefix.contains(['r', 'R']);
    let quotes = if rest.len() >= 6 && (rest.starts_with("\"\"\"") || rest.starts_with("'''")) {
        3
    } else {
        1
    };
    let body = rest
        .get(quotes..rest.len() - quotes)
        .ok_or("invalid string literal")?;
    let body = body.replace("\r\n", "\n").replace('\r', "\n");
    if raw || !body.contains('\\') {
        return Ok(if is_bytes {
            Literal::Bytes(Arc::from(body.as_bytes()))
        } else {
            Literal::String(Arc::from(body))
        });
    }
    let mut out = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            escape(&mut chars, is_bytes, &mut out)?;
        } else {
            push(&mut out, c);
        }
    }
    if is_bytes {
        return Ok(Literal::Bytes(Arc::from(out)));
    }
    String::from_utf8(out)
        .map(|text| Literal::String(Arc::from(text)))
        .map_err(|_| "invalid unicode code point".to_owned())
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn escape(
    chars: &mut std::str::Chars<'_>,
    is_bytes: bool,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let c = chars
        .next()
        .ok_or("unable to unescape string, found '\\' as last character")?;
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => c as u8,
        'x' | 'X' => return numeric(chars, 0, 2, 16, is_bytes, out),
        'u' if !is_bytes => return numeric(chars, 0, 4, 16, false, out),
        'U' if !is_bytes => return numeric(chars, 0, 8, 16, false, out),
        'u' | 'U' => return Err("unable to unescape string".to_owned()),
        '0'..='3' => return numeric(chars, c as u32 - '0' as u32, 2, 8, is_bytes, out),
        _ => return Err("unable to unescape string".to_owned()),
    };
    out.push(simple);
    Ok(())
}

fn numeric(
    chars: &mut std::str::Chars<'_>,
    start: u32,
    count: usize,
    radix: u32,
    as_byte: bool,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let mut value = start;
    for _ in 0..count {
        let digit = chars
            .next()
            .and_then(|c| c.to_digit(radix))
            .ok_or(if radix == 16 {
                "unable to unescape string"
            } else {
                "unable to unescape octal sequence in string"
            })?;
        value = value * radix + digit;
    }
    if as_byte {
        out.push(u8::try_from(value).map_err(|_| "invalid unicode code point")?);
        return Ok(());
    }
    push(
        out,
        char::from_u32(value).ok_or("invalid unicode code point")?,
    );
    Ok(())
}
