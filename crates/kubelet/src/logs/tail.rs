//! Finds where the last lines of a file begin.

use std::io::{self, Read, Seek, SeekFrom};

/// How much is read at a time, from the end backwards.
const BLOCK: u64 = 8192;

/// The offset at which the last `lines` lines begin.
pub fn start_of_last(file: &mut (impl Read + Seek), lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut position = end;
    let mut found = 0;
    let mut block = Vec::new();
    while position > 0 {
        let size = BLOCK.min(position);
        position -= size;
        file.seek(SeekFrom::Start(position))?;
        block.clear();
        file.take(size).read_to_end(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            let at = position + index as u64;
            // The end of the last line is not the beginning of another one.
            if *byte == b'\n' && at + 1 < end {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn last(text: &str, lines: u64) -> String {
        let start = start_of_last(&mut Cursor::new(text), lines).unwrap();
        text[usize::try_from(start).unwrap()..].to_owned()
    }

    #[test]
    fn table() {
        for (text, lines, wanted) in [
            ("", 3, ""),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\nb\n", 0, ""),
            ("\n\n\n", 1, "\n"),
        ] {
            assert_eq!(last(text, lines), wanted, "{text:?} {lines}");
        }
    }

    proptest! {
        #[test]
        fn as_many_lines_as_asked(lines in prop::collection::vec("[a-z]{0,3000}", 0..20), n in 0u64..25) {
            let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
            let wanted = lines.len().saturating_sub(usize::try_from(n).unwrap());
            let expected: String = lines[wanted..].iter().map(|l| format!("{l}\n")).collect();
            prop_assert_eq!(last(&text, n), expected);
        }
    }
}
