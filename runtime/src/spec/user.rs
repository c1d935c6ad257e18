//! Who a container runs as, from the image's user and the texts of its passwd and group files. Pure.

use crate::api::{User, UserRequest};

/// Text of an image's `/etc/passwd` and `/etc/group`; empty where there is none.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// A name the image does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not in passwd and not a number.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// Not in group and not a number.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

/// A user with home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Ids; the groups include the primary one.
    pub user: User,
    /// From passwd, else `/`.
    pub home: String,
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Accounts {
    fn users(&self) -> impl Iterator<Item = Entry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
        })
    }

    /// Name, gid and members of each group.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((name, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }

    /// What was asked for wins; the rest is the image's `user[:group]`, names or numbers, empty for root. A user that was
    /// asked for by number has the group that the image's passwd gives it, as under containerd.
    pub fn resolve(&self, asked: &UserRequest, image: &str) -> Result<Resolved, UserError> {
        let (uid, its_gid) = match asked.uid {
            Some(uid) => (uid, self.users().find(|entry| entry.uid == uid).map_or(0, |entry| entry.gid)),
            None => self.image_user(asked.name.as_deref().unwrap_or(image))?,
        };
        let gid = asked.gid.unwrap_or(its_gid);
        let entry = self.users().find(|entry| entry.uid == uid);
        let member = |members: &str| entry.as_ref().is_some_and(|e| members.split(',').any(|m| m == e.name));
        let of_image = self.groups().filter(|(_, _, members)| !asked.strict && member(members));
        let of_image = of_image.map(|(_, gid, _)| gid);
        let mut groups: Vec<u32> = Vec::new();
        for group in [gid].into_iter().chain(asked.additional_gids.iter().copied()).chain(of_image) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/");
        Ok(Resolved { user: User { uid, gid, additional_gids: groups }, home: home.to_owned() })
    }

    fn image_user(&self, image: &str) -> Result<(u32, u32), UserError> {
        let (user, group) = match image.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (image, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let entry = self.users().find(|e| e.name == user || user.parse().is_ok_and(|uid: u32| e.uid == uid));
        let uid = match (&entry, user.parse()) {
            (Some(entry), _) => entry.uid,
            (None, Ok(uid)) => uid,
            (None, Err(_)) => return Err(UserError::NoUser(user.to_owned())),
        };
        let gid = match group {
            None => entry.map_or(0, |entry| entry.gid),
            Some(group) => {
                let named = self.groups().find(|(name, ..)| *name == group).map(|(_, gid, _)| gid);
                let number = || group.parse().map_err(|_| UserError::NoGroup(group.to_owned()));
                named.map_or_else(number, Ok)?
            }
        };
        Ok((uid, gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\nbroken\nx:y\n".into(),
            group: "root:x:0:\nweb:x:34:\nlogs:x:50:other,web\nops:x:60:web\n".into(),
        }
    }

    fn check(asked: &UserRequest, image: &str, expected: &str) {
        let found = accounts().resolve(asked, image).map_or_else(
            |error| error.to_string(),
            |Resolved { user: User { uid, gid, additional_gids }, home }| {
                format!("{uid}:{gid} {additional_gids:?} {home}")
            },
        );
        assert_eq!(found, expected, "{asked:?} {image:?}");
    }

    #[test]
    fn image_users_by_name_and_number() {
        let check = |image, expected| check(&UserRequest::default(), image, expected);
        check("", "0:0 [0] /root");
        check("web", "33:34 [34, 50, 60] /srv");
        check("33", "33:34 [34, 50, 60] /srv");
        check("web:logs", "33:50 [50, 60] /srv");
        check("1000", "1000:0 [0] /");
        check("1000:1001", "1000:1001 [1001] /");
        check("nobody", "unable to find user nobody: no matching entries in passwd file");
        check("web:none", "unable to find group none: no matching entries in group file");
    }

    #[test]
    fn what_was_asked_for_wins_and_the_image_fills_in() {
        let asked = |uid: Option<u32>, gid: Option<u32>, groups: &[u32]| UserRequest {
            uid,
            gid,
            additional_gids: groups.to_vec(),
            ..UserRequest::default()
        };
        check(&asked(Some(7), Some(8), &[9, 8]), "web", "7:8 [8, 9] /");
        check(&asked(Some(33), Some(0), &[]), "", "33:0 [0, 50, 60] /srv");
        check(&asked(Some(33), None, &[]), "1000:1001", "33:34 [34, 50, 60] /srv");
        check(&asked(Some(7), None, &[]), "1000:1001", "7:0 [0] /");
        check(&asked(None, None, &[9]), "web", "33:34 [34, 9, 50, 60] /srv");
        check(&asked(None, Some(5), &[]), "web:logs", "33:5 [5, 50, 60] /srv");
    }

    #[test]
    fn strict_leaves_out_the_groups_of_the_image() {
        let asked = UserRequest { additional_gids: vec![9], strict: true, ..UserRequest::default() };
        check(&asked, "web", "33:34 [34, 9] /srv");
    }
}
