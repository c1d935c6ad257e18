//! The library as a CNI plugin, for runtimes that are not ours: one request per process.
//!
//! State is in the ledger and the kernel only, so that requests of different processes see each other's work.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    attach, cut,
    delegate::Delegate,
    error::{AttachError, CheckError, OpenError, chain},
    ipam::IpamError,
    netlink,
    netns::NetnsError,
    network::{Attachment, Care, Inner},
    spec::{self, Code, Config, Environment, Fault, Request},
};

/// A kubelet asks for many pods at once, each by a process of its own: they take turns at the ledger.
const PATIENCE: Duration = Duration::from_secs(40);
/// What the program is called as a plugin.
pub const NAME: &str = "orlop-cni";
/// What it is told by itself.
const REAP: &str = "reap";
/// More than any configuration has.
const STDIN_MAX: u64 = 16 << 20;

/// Answers the request in the environment and on standard input.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == REAP) {
        return if cut::reap().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let environment = Environment(std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect());
    let mut stdin = Vec::new();
    let read = std::io::stdin().take(STDIN_MAX).read_to_end(&mut stdin);
    let answer = read
        .map_err(|error| Fault::new(Code::IoFailure, "read standard input", error))
        .and_then(|_| answer(&environment, &stdin));
    let (text, code) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value.to_string(), ExitCode::SUCCESS),
        Err(fault) => (serde_json::to_string(&fault).unwrap_or_default(), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(environment: &Environment, stdin: &[u8]) -> Result<Option<Value>, Fault> {
    if environment.command()? == "VERSION" {
        return Ok(Some(spec::versions(stdin)));
    }
    let config = spec::config(stdin)?;
    let in_its_version = |fault| Fault { cni_version: config.cni_version.clone(), ..fault };
    let request = config.request(environment).map_err(in_its_version)?;
    let delegate = config.delegate().map(|kind| Delegate { kind, environment, stdin });
    serve(&config, &request, delegate.as_ref()).map_err(in_its_version)
}

/// On this thread: a runtime's threads would cost more than the request.
fn serve(
    config: &Config,
    request: &Request,
    delegate: Option<&Delegate<'_>>,
) -> Result<Option<Value>, Fault> {
    let care = match request {
        Request::Add(_) | Request::Status => Care::Whole,
        Request::Gc { .. } => Care::Links,
        Request::Del { .. } | Request::Check { .. } => Care::Ledger,
    };
    let network = Inner::open(config.network(), PATIENCE, care);
    let network = network.map_err(|error| open_fault(request, &error))?;
    match request {
        Request::Add(attachment) => add(&network, config, attachment, delegate).map(Some),
        Request::Del { uid, netns, interface } => {
            match cut::off(&network, uid, netns.as_deref(), interface) {
                Ok(false) => {}
                Ok(true) => reap_later().map_err(|error| detach_fault(uid, &error))?,
                Err(_) => attach::detach(&network, uid).map_err(|error| detach_fault(uid, &error))?,
            }
            // Not before nobody has the address.
            delegate.map_or(Ok(()), |delegate| delegate.tell("DEL")).map(|()| None)
        }
        Request::Check { attachment, addresses, routed } => {
            delegate.map_or(Ok(()), |delegate| delegate.tell("CHECK"))?;
            let state = attach::check(&network, attachment, addresses, *routed);
            state.map(|()| None).map_err(|error| check_fault(&error))
        }
        Request::Gc { keep } => {
            let mut result = Ok(None);
            for (uid, _) in network.attached().iter().filter(|(uid, _)| !keep.contains(uid)) {
                if let Err(error) = cut::off(&network, uid, None, "") {
                    result = Err(detach_fault(uid, &error));
                }
            }
            let reaped = cut::reap().map_err(|error| detach_fault("what was cut off", &error));
            let told = delegate.map_or(Ok(()), |delegate| delegate.tell("GC"));
            reaped.and(told).and(result)
        }
        Request::Status => delegate.map_or(Ok(()), |delegate| delegate.tell("STATUS")).map(|()| None),
    }
}

fn add(
    network: &Inner,
    config: &Config,
    attachment: &Attachment,
    delegate: Option<&Delegate<'_>>,
) -> Result<Value, Fault> {
    let given = delegate.map(Delegate::add).transpose()?;
    let addresses = given.as_ref().map_or(&attachment.addresses, |given| &given.addresses).clone();
    let attachment = Attachment { addresses, ..attachment.clone() };
    let attached = attach::attach(network, &attachment).map_err(|error| {
        if let Some(Err(fault)) = delegate.map(|delegate| delegate.tell("DEL")) {
            tracing::warn!(error = fault.text(), "give back an address");
        }
        attach_fault(&error)
    })?;
    let dns = config.dns.as_ref().or_else(|| given.as_ref()?.dns.as_ref()?.as_object());
    spec::add_result(config.version(), &attachment, &attached, dns, config.prev_result.as_ref())
}

/// By a process of its own, which nobody waits for.
fn reap_later() -> Result<(), netlink::Error> {
    let reap = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg0(NAME).arg(REAP).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    match reap() {
        Ok(_left_alone) => Ok(()),
        Err(_) => cut::reap(),
    }
}

fn detach_fault(uid: &str, error: &dyn std::error::Error) -> Fault {
    Fault::new(Code::IoFailure, format!("detach {uid}"), chain(error))
}

fn check_fault(error: &CheckError) -> Fault {
    let code = match error {
        CheckError::Address { known, .. } if known.is_empty() => Code::UnknownContainer,
        CheckError::Look(error) => return attach_fault(error),
        _ => Code::IoFailure,
    };
    Fault::new(code, "the pod is not attached as it was", chain(error))
}

fn open_fault(request: &Request, error: &OpenError) -> Fault {
    let code = match error {
        OpenError::Config(_) => Code::InvalidConfig,
        OpenError::Ledger(IpamError::Locked { .. }) => Code::TryAgainLater,
        _ if *request == Request::Status => Code::NotAvailable,
        _ => Code::IoFailure,
    };
    Fault::new(code, "the pod network cannot be used", chain(error))
}

fn attach_fault(error: &AttachError) -> Fault {
    let code = match error {
        AttachError::Netns(NetnsError::Open { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Code::UnknownContainer
        }
        AttachError::Name(_) | AttachError::Netns(_) => Code::InvalidEnvironment,
        AttachError::Address(IpamError::Full(_)) => Code::TryAgainLater,
        AttachError::Address(IpamError::Refused(_)) => Code::InvalidConfig,
        _ => Code::IoFailure,
    };
    Fault::new(code, "the pod cannot be attached", chain(error))
}
