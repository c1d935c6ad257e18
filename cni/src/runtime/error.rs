//! What can go wrong between us and other people's plugins. Texts are those that one finds when searching for them.

use std::{io, path::PathBuf};

use super::{chain::Command, conf::ConfError, exec::PluginError};
use crate::{attach::LinkError, netns::NetnsError};

/// A network of plugins cannot be used, or did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The directory has no configuration.
    #[error("cni plugin not initialized: no network conf found in {}", .0.display())]
    NoConf(PathBuf),
    /// The directory or a file in it cannot be read.
    #[error("cni plugin not initialized: read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The first file is no network.
    #[error("cni plugin not initialized: {}: {why}", path.display())]
    Conf {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A plugin cannot speak as its configuration says.
    #[error("plugin type={kind:?} supports {supported:?}, and not {wanted}")]
    Version {
        /// The plugin.
        kind: String,
        /// What it says.
        supported: Vec<String>,
        /// What the configuration says.
        wanted: String,
    },
    /// A plugin failed.
    #[error("plugin type={kind:?} failed ({verb})")]
    Plugin {
        /// The plugin.
        kind: String,
        /// What it was called for.
        verb: &'static str,
        /// Why.
        #[source]
        source: PluginError,
    },
    /// All is done, and the pod has no address.
    #[error("the plugins of network {0} gave no address")]
    NoAddress(String),
    /// The pod's namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its loopback interface.
    #[error("set lo up in the pod's network namespace")]
    Loopback(#[source] LinkError),
    /// The memory of what was given to whom.
    #[error("{what} the record of a pod's network")]
    Record {
        /// read, write, remove
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record that makes no sense.
    #[error("the record of a pod's network is not valid: {0}")]
    Recorded(String),
    /// A uid that cannot be the name of a container.
    #[error("pod {0:?} cannot be named to plugins")]
    Name(String),
}

impl ChainError {
    pub(super) fn record(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Record { what, source }
    }

    pub(super) fn plugin(kind: &str, command: Command) -> impl FnOnce(PluginError) -> Self {
        let kind = kind.to_owned();
        move |source| Self::Plugin { kind, verb: command.name(), source }
    }

    pub(super) fn conf(path: PathBuf) -> impl FnOnce(ConfError) -> Self {
        move |error| Self::Conf { path, why: error.to_string() }
    }
}
