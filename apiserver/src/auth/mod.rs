//! Who asks (`token`, client certificates read in `server`) and what they may (`authorize`).

pub mod authorize;
mod es256;
pub mod impersonate;
pub mod token;

use std::collections::BTreeMap;

/// Somebody who was authenticated, or nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// UID, where the kind of user has one.
    pub uid: Option<String>,
    /// Groups, `system:authenticated` or `system:unauthenticated` among them.
    pub groups: Vec<String>,
    /// Further facts, e.g. the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// An authenticated user.
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == "system:authenticated") {
            groups.push("system:authenticated".into());
        }
        Self { user: user.into(), uid: None, groups, extra: BTreeMap::new() }
    }

    /// Whoever sends no credentials.
    pub fn anonymous() -> Self {
        Self {
            user: "system:anonymous".into(),
            uid: None,
            groups: vec!["system:unauthenticated".into()],
            extra: BTreeMap::new(),
        }
    }

    /// The node this is the identity of.
    pub fn node(&self) -> Option<&str> {
        self.user
            .strip_prefix("system:node:")
            .filter(|_| self.is_in("system:nodes") && !self.is_in("system:masters"))
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
