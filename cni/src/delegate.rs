//! Addresses by another plugin: the configuration's `ipam` names it, and it is called as this one was.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use serde_json::Value;

use crate::{
    error::chain,
    runtime::{PluginError, exec},
    spec::{self, Code, Environment, Fault},
};

/// A plugin for addresses that takes longer is killed: less than runtimes give to this one.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The other plugin, and what it is told.
pub(crate) struct Delegate<'a> {
    /// Its name.
    pub(crate) kind: &'a str,
    /// The variables of this request.
    pub(crate) environment: &'a Environment,
    /// The configuration of this request.
    pub(crate) stdin: &'a [u8],
}

/// What it gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Given {
    /// Addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// For the result.
    pub(crate) dns: Option<Value>,
}

impl Delegate<'_> {
    /// `ADD`.
    pub(crate) fn add(&self) -> Result<Given, Fault> {
        let answer = self.call("ADD")?;
        let result: Value = serde_json::from_slice(&answer).map_err(|error| self.fault(&error))?;
        let given = spec::pod_result(&result, "").map_err(|error| self.fault(&error))?;
        if given.addresses.is_empty() {
            return Err(self.fault(&PluginError::NoResult));
        }
        Ok(Given { addresses: given.addresses, dns: result.get("dns").cloned() })
    }

    /// Any other verb: nothing is an answer.
    pub(crate) fn tell(&self, command: &str) -> Result<(), Fault> {
        self.call(command).map(drop)
    }

    fn call(&self, command: &str) -> Result<Vec<u8>, Fault> {
        let Environment(variables) = self.environment;
        let dirs: Vec<PathBuf> =
            variables.get("CNI_PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        let mut environment: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        environment.insert("CNI_COMMAND", command.to_owned());
        let call = async {
            let program = exec::find(self.kind, &dirs)?;
            let stdin = exec::stdin(self.stdin)
                .map_err(|source| PluginError::Run { program: program.clone(), source })?;
            exec::run(&program, &environment, stdin, TIME_LIMIT).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.fault(&error))?;
        runtime.block_on(call).map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &dyn std::error::Error) -> Fault {
        Fault::new(Code::Delegate, format!("ipam {:?}", self.kind), chain(error))
    }
}
