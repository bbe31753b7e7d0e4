//! Tokens from a file: a line of comma-separated values for each, token, user, uid and groups.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::request::UserInfo;

/// Why a file of tokens cannot be used. No token stands in the text.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file cannot be read.
    #[error("reading the tokens in {0}: {1}")]
    Read(String, std::io::Error),
    /// A line has too few columns, or no user or uid.
    #[error("token file {path}, line {line}: {why}")]
    Line {
        /// The file.
        path: String,
        /// Which line, from one.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// The tokens of a file. They are kept as hashes.
#[derive(Default)]
pub struct TokenFile(Vec<([u8; 32], UserInfo)>);

impl TokenFile {
    /// Reads a file. It is read once: a changed file is seen by the next start.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| TokenFileError::Read(name.clone(), error))?;
        Self::parse(&text).map_err(|(line, why)| TokenFileError::Line {
            path: name,
            line,
            why,
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut tokens: Vec<([u8; 32], UserInfo)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |why| Err((index + 1, why));
            let columns = columns(line);
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return wrong(
                    "token file must have at least 3 columns (token, user name, user uid)",
                );
            };
            if token.is_empty() {
                // As upstream: such a line is passed over.
                continue;
            }
            if name.is_empty() {
                return wrong("the user name is empty");
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').filter(|group| !group.is_empty());
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.map(str::to_owned).collect(),
                ..UserInfo::default()
            };
            let hash: [u8; 32] = Sha256::digest(token).into();
            // The last line of a token counts.
            tokens.retain(|(known, _)| *known != hash);
            tokens.push((hash, user));
        }
        Ok(Self(tokens))
    }

    /// Whose token it is. The time that the search takes tells nothing of the tokens.
    #[must_use]
    pub fn user(&self, token: &str) -> Option<UserInfo> {
        let wanted: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for (hash, user) in &self.0 {
            if bool::from(hash.ct_eq(&wanted)) {
                found = Some(user);
            }
        }
        found.cloned()
    }
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenFile({} tokens)", self.0.len())
    }
}

/// The columns of a line; one in quotes may hold commas, and quotes doubled.
fn columns(line: &str) -> Vec<String> {
    let mut columns = Vec::new();
    let mut column = String::new();
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                column.push('"');
                letters.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(std::mem::take(&mut column)),
            _ if column.is_empty() && !quoted && letter.is_whitespace() => {}
            _ => column.push(letter),
        }
    }
    columns.push(column);
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_token_user_uid_and_groups() {
        let file = TokenFile::parse("s3cret,jane,7,\"dev,ops\"\n\nother,joe,8\n").unwrap();
        let jane = file.user("s3cret").unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "7"));
        assert_eq!(jane.groups, ["dev", "ops"]);
        assert!(file.user("other").unwrap().groups.is_empty());
        assert_eq!(file.user("s3cre"), None);
        assert_eq!(file.user(""), None);
        assert!(!format!("{file:?}").contains("s3cret"));
        let error = TokenFile::parse("a,b\n").unwrap_err();
        assert_eq!(error.0, 1);
        assert!(TokenFile::parse("tok,,7").is_err());
    }
}
