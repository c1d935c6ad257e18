//! Names and sets of capabilities. Pure.

use std::fmt;

/// Names by number (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The set long given by containerd and Docker.
pub const DEFAULT: Capabilities = Capabilities(0xa804_25fb);
const ALL: Capabilities = Capabilities((1 << NAMES.len()) - 1);

/// A set, as the kernel's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(
    /// Bit n is capability number n.
    pub u64,
);

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {0:?}")]
pub struct UnknownCapability(
    /// As it was given.
    pub String,
);

impl Capabilities {
    /// The default set without `drop`, then with `add`. Either may say `ALL`.
    pub fn resolve(add: &[String], drop: &[String]) -> Result<Capabilities, UnknownCapability> {
        let dropped = drop.iter().try_fold(0, |bits, name| Ok(bits | Capabilities::named(name)?.0))?;
        let added = add.iter().try_fold(0, |bits, name| Ok(bits | Capabilities::named(name)?.0))?;
        Ok(Capabilities(DEFAULT.0 & !dropped | added))
    }

    /// Everything the running kernel knows, given its highest number.
    pub fn all(last: u32) -> Capabilities {
        Capabilities(ALL.0 & (u64::MAX >> 63_u32.saturating_sub(last)))
    }

    fn named(name: &str) -> Result<Capabilities, UnknownCapability> {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if short == "ALL" {
            return Ok(ALL);
        }
        let number = NAMES.iter().position(|known| *known == short);
        number.map(|number| Capabilities(1 << number)).ok_or_else(|| UnknownCapability(name.to_owned()))
    }

    /// Whether a capability, by its short name, is in the set.
    pub fn has(self, name: &str) -> bool {
        Capabilities::named(name).is_ok_and(|one| self.0 & one.0 != 0)
    }

    /// Those that both have.
    #[must_use]
    pub fn and(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// With another one.
    #[must_use]
    pub fn with(self, name: &str) -> Capabilities {
        Capabilities(self.0 | Capabilities::named(name).unwrap_or_default().0)
    }

    /// `CAP_…` names, by number.
    pub fn names(self) -> Vec<String> {
        let mine = NAMES.iter().enumerate().filter(|(number, _)| self.0 & (1 << number) != 0);
        mine.map(|(_, name)| format!("CAP_{name}")).collect()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: &str) {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let result = Capabilities::resolve(&list(add), &list(drop));
        assert_eq!(result.map_or_else(|e| e.to_string(), |c| c.to_string()), expected, "+{add:?} -{drop:?}");
    }

    #[test]
    fn default_set_with_drop_and_add() {
        check(&[], &[], "00000000a80425fb");
        check(&["NET_ADMIN"], &[], "00000000a80435fb");
        check(&["cap_net_bind_service"], &["ALL"], "0000000000000400");
        check(&["ALL"], &[], "000001ffffffffff");
        check(&[], &["CAP_CHOWN"], "00000000a80425fa");
        check(&["CHOWN"], &["CHOWN"], "00000000a80425fb");
        check(&["FLY"], &[], "unknown capability \"FLY\"");
    }

    #[test]
    fn default_set_is_the_fourteen() {
        assert_eq!(DEFAULT.names().len(), 14);
        assert!(DEFAULT.has("AUDIT_WRITE") && !DEFAULT.has("SYS_ADMIN"));
        assert_eq!(Capabilities::all(37).to_string(), "0000003fffffffff");
    }
}
