//! What differs between two values, for messages to people: the changed lines with a little around them.

use serde::Serialize;

const CONTEXT: usize = 3;

/// The difference as a unified diff of the values' JSON, in one hunk.
pub(crate) fn changes<T: Serialize>(old: &T, new: &T) -> String {
    let text = |value: &T| serde_json::to_string_pretty(value).unwrap_or_default();
    let (old, new) = (text(old), text(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(old.len().min(new.len()) - head)
        .take_while(|(a, b)| a == b)
        .count();
    let start = head.saturating_sub(CONTEXT);
    let end = |lines: &[&str]| (lines.len() - tail + CONTEXT).min(lines.len());
    let (old_end, new_end) = (end(&old), end(&new));
    let mut out = format!(
        "@@ -{},{} +{},{} @@\n",
        start + 1,
        old_end - start,
        start + 1,
        new_end - start
    );
    let mut add = |mark: char, lines: &[&str]| {
        for line in lines {
            out.push(mark);
            out.push_str(line);
            out.push('\n');
        }
    };
    add(' ', old.get(start..head).unwrap_or_default());
    add('-', old.get(head..old.len() - tail).unwrap_or_default());
    add('+', new.get(head..new.len() - tail).unwrap_or_default());
    add(' ', old.get(old.len() - tail..old_end).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_changed_line() {
        let diff = changes(&json!({"a": 1, "b": 2}), &json!({"a": 1, "b": 3}));
        assert_eq!(
            diff,
            "@@ -1,4 +1,4 @@\n {\n   \"a\": 1,\n-  \"b\": 2\n+  \"b\": 3\n }\n"
        );
    }
}
