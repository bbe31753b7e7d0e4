//! Finds out which user an image wants to run as: names are looked up in the image's own files.

/// A user by numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further group ids.
    pub groups: Vec<u32>,
}

/// Why a user is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such user in /etc/passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// No such group in /etc/group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

/// The identity of `user` (`name`, `1000`, `name:group`, `1000:1000`; empty is root), with the
/// image's `/etc/passwd` and `/etc/group`.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (user, group_name) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd.lines().filter_map(account).find(|account| {
        account.name == user || user.parse::<u32>().is_ok_and(|uid| uid == account.uid)
    });
    let (uid, primary, name) = match (&entry, user.parse::<u32>()) {
        (Some(account), _) => (account.uid, account.gid, Some(account.name)),
        (None, Ok(uid)) => (uid, 0, None),
        (None, Err(_)) => return Err(UserError::NoUser(user.to_owned())),
    };
    let gid = match group_name {
        Some(name) => group_id(name, group).ok_or_else(|| UserError::NoGroup(name.to_owned()))?,
        None => primary,
    };
    let groups = name.map_or_else(Vec::new, |name| memberships(name, group));
    Ok(Identity { uid, gid, groups })
}

/// The groups that `/etc/group` puts the user in.
#[must_use]
pub fn memberships(name: &str, group: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else {
                return None;
            };
            members
                .split(',')
                .any(|member| member.trim() == name)
                .then(|| gid.parse().ok())
                .flatten()
        })
        .collect()
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name, uid, gid })
}

fn group_id(name: &str, group: &str) -> Option<u32> {
    let named = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    });
    named.or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:103:web,root\nextra:x:104:other, web\n";

    fn id(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn users_are_found() {
        let table = [
            ("", id(0, 0, &[103])),
            ("web", id(101, 102, &[103, 104])),
            ("101", id(101, 102, &[103, 104])),
            ("web:root", id(101, 0, &[103, 104])),
            ("web:7", id(101, 7, &[103, 104])),
            ("5000", id(5000, 0, &[])),
            ("5000:logs", id(5000, 103, &[])),
        ];
        for (user, expected) in table {
            assert_eq!(
                resolve(user, PASSWD, GROUP).as_ref(),
                Ok(&expected),
                "{user}"
            );
        }
        assert_eq!(resolve("1000", "", ""), Ok(id(1000, 0, &[])));
    }

    #[test]
    fn unknown_names_are_errors() {
        assert_eq!(
            resolve("nobody", PASSWD, GROUP).unwrap_err().to_string(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            resolve("web:none", PASSWD, GROUP),
            Err(UserError::NoGroup("none".into()))
        );
    }
}
