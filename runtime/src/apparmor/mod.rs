//! Which AppArmor profile a process of a container is confined by.
//!
//! But for the default one ([`load`]), profiles are loaded into the kernel by whoever runs the machine. They are chosen by
//! name, and one that is not there is an error before anything is started. Not for: asking the kernel (`host`), and the
//! change of profile, which is one of the last steps before exec (`orlop_shim::process`).

mod load;

pub use load::ProfileError;
pub(crate) use load::{bring, take_away};

use crate::api::AppArmor;

/// The profile that containers get where the kernel has it.
pub(crate) const DEFAULT: &str = "orlop-default";

/// A profile that containers cannot be confined by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppArmorError {
    /// The kernel has no AppArmor, or it is switched off.
    #[error("AppArmor is not enabled on the host")]
    NotEnabled,
    /// The profile was not loaded into the kernel.
    #[error("AppArmor profile {0:?} is not loaded")]
    NotLoaded(String),
}

/// `loaded` is the kernel's list (`name (mode)` by line), `None` where there is no AppArmor. Empty is no change of profile.
pub(crate) fn choose(
    asked: &AppArmor,
    privileged: bool,
    loaded: Option<&str>,
) -> Result<String, AppArmorError> {
    let is_loaded = |name: &str| is_loaded(loaded, name);
    let wanted = match asked {
        AppArmor::Unconfined => return Ok(String::new()),
        AppArmor::Usual if privileged || !is_loaded(DEFAULT) => return Ok(String::new()),
        AppArmor::Usual | AppArmor::RuntimeDefault => DEFAULT,
        AppArmor::Localhost(name) => name,
    };
    match loaded {
        None => Err(AppArmorError::NotEnabled),
        Some(_) if is_loaded(wanted) => Ok(wanted.to_owned()),
        Some(_) => Err(AppArmorError::NotLoaded(wanted.to_owned())),
    }
}

/// Whether a profile is in the kernel's list.
fn is_loaded(loaded: Option<&str>, name: &str) -> bool {
    let mut names = loaded.iter().flat_map(|list| list.lines()).filter_map(|line| line.rsplit_once(" ("));
    names.any(|(known, _)| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_DEFAULT: Option<&str> =
        Some("/usr/bin/man (enforce)\norlop-default (enforce)\nmine (1) (complain)\n");
    const WITHOUT: Option<&str> = Some("mine (1) (complain)\n");

    #[test]
    fn what_was_asked_for_has_to_be_there_and_the_usual_one_may() {
        let local = |name: &str| AppArmor::Localhost(name.to_owned());
        let missing = |name: &str| Err(AppArmorError::NotLoaded(name.to_owned()));
        for (asked, privileged, loaded, expected) in [
            (AppArmor::Usual, false, None, Ok("")),
            (AppArmor::Usual, false, WITHOUT, Ok("")),
            (AppArmor::Usual, false, WITH_DEFAULT, Ok(DEFAULT)),
            (AppArmor::Usual, true, WITH_DEFAULT, Ok("")),
            (AppArmor::Unconfined, false, None, Ok("")),
            (AppArmor::Unconfined, false, WITH_DEFAULT, Ok("")),
            (AppArmor::RuntimeDefault, false, None, Err(AppArmorError::NotEnabled)),
            (AppArmor::RuntimeDefault, false, WITHOUT, missing(DEFAULT)),
            (AppArmor::RuntimeDefault, true, WITH_DEFAULT, Ok(DEFAULT)),
            (local("mine (1)"), false, None, Err(AppArmorError::NotEnabled)),
            (local("mine (1)"), true, WITHOUT, Ok("mine (1)")),
            (local("mine"), false, WITHOUT, missing("mine")),
        ] {
            let found = choose(&asked, privileged, loaded);
            assert_eq!(found, expected.map(str::to_owned), "{asked:?} {privileged} {loaded:?}");
        }
    }
}
