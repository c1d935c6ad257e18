//! The Container Network Interface in types: versions and errors; what a plugin is asked and answers. Pure.
//!
//! ```text
//!  environment + standard input ──▶ request [p] ──▶ plugin ──▶ result [p] ──▶ standard output
//! ```
//!
//! <https://www.cni.dev/docs/spec/> 1.1.0, with the forms of 0.3.1, 0.4.0 and 1.0.0. The plugin and the runtime side
//! share these words. Not for: running anything.

mod args;
mod request;
mod result;
mod version;

use serde::{Deserialize, Serialize};

pub(crate) use request::{Config, Environment, Request, config, valid_name};
pub(crate) use result::{add_result, pod_result};
pub(crate) use version::{NEWEST, VERSIONS, Version, versions};

/// An answer that says what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fault {
    #[serde(default)]
    pub(crate) cni_version: String,
    #[serde(default)]
    pub(crate) code: u32,
    #[serde(default)]
    pub(crate) msg: String,
    #[serde(default)]
    pub(crate) details: String,
}

/// The specification's error codes, as far as they occur here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The network configuration is of a version without this command, or of an unknown one.
    IncompatibleVersion = 1,
    /// A field of the network configuration asks for what the plugin cannot do.
    UnsupportedField = 2,
    /// The container is not there: nothing needs to be taken away.
    UnknownContainer = 3,
    /// A variable of the environment.
    InvalidEnvironment = 4,
    /// Files and the kernel.
    IoFailure = 5,
    /// No JSON.
    DecodeFailure = 6,
    /// JSON that makes no network.
    InvalidConfig = 7,
    /// Something that passes.
    TryAgainLater = 11,
    /// `STATUS`: no container can be added.
    NotAvailable = 50,
    /// Ours: what the plugin for addresses said.
    Delegate = 100,
}

impl Fault {
    pub(crate) fn new(code: Code, msg: impl Into<String>, details: impl ToString) -> Self {
        let details = details.to_string();
        Self { cni_version: NEWEST.to_owned(), code: code as u32, msg: msg.into(), details }
    }

    /// Message and details, as one reads them.
    pub(crate) fn text(&self) -> String {
        match (self.msg.as_str(), self.details.as_str()) {
            (msg, "") => msg.to_owned(),
            ("", details) => details.to_owned(),
            (msg, details) => format!("{msg}: {details}"),
        }
    }
}
