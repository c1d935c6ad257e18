//! The library as a CNI plugin, for runtimes that are not ours: one request per process.
//!
//! State is in the ledger and the kernel only, so that requests of different processes see each other's work.

use std::{
    io::{ErrorKind, Read, Write},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

use crate::{
    error::{AttachError, CheckError, OpenError, chain},
    ipam::IpamError,
    netns::NetnsError,
    network::Network,
    spec::{self, Code, Config, Environment, Fault, Request},
};

/// A kubelet asks for many pods at once, each by a process of its own: they take turns at the ledger.
const PATIENCE: Duration = Duration::from_secs(40);
/// More than any configuration has.
const STDIN_MAX: u64 = 16 << 20;

/// Answers the request in the environment and on standard input.
pub fn main() -> ExitCode {
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fault::new(Code::IoFailure, "start", error));
    runtime.and_then(|runtime| runtime.block_on(serve(&config, request))).map_err(in_its_version)
}

async fn serve(config: &Config, request: Request) -> Result<Option<Value>, Fault> {
    let network = Network::open_within(config.network(), PATIENCE).await;
    let network = network.map_err(|error| open_fault(&request, &error))?;
    match request {
        Request::Add(attachment) => {
            let attached = network.attach(&attachment).await.map_err(|error| attach_fault(&error))?;
            let previous = config.prev_result.as_ref();
            spec::add_result(config.version(), &attachment, &attached, config.dns.as_ref(), previous)
                .map(Some)
        }
        Request::Del { uid } => detach(&network, &uid).await.map(|()| None),
        Request::Check { attachment, addresses, routed } => {
            let state = network.check(&attachment, &addresses, routed).await;
            state.map(|()| None).map_err(|error| check_fault(&error))
        }
        Request::Gc { keep } => {
            let gone =
                network.attached().await.into_iter().map(|(uid, _)| uid).filter(|uid| !keep.contains(uid));
            let mut result = Ok(None);
            for uid in gone {
                if let Err(fault) = detach(&network, &uid).await {
                    result = Err(fault);
                }
            }
            result
        }
        Request::Status => Ok(None),
    }
}

async fn detach(network: &Network, uid: &str) -> Result<(), Fault> {
    let detached = network.detach(uid).await;
    detached.map_err(|error| Fault::new(Code::IoFailure, format!("detach {uid}"), chain(&error)))
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
