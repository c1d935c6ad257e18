//! The words a pod's plan shares with the machine: what to run, what runs, how it ended.
//!
//! They are the runtime's and the network's own plain data types; only what a pod got is ours. Not for: behaviour.

use std::net::IpAddr;

pub use orlop_cni::runtime::{PortMapping, Wishes};
pub use orlop_runtime::{
    AppArmor, Container, ContainerSpec, ContainerState, Device, ExecOutput, ExecRequest, Exit, ImageVolume,
    Mount, PodRef, Propagation, Resources, RuntimeEvent, Sandbox, SandboxSpec, Seccomp, User, UserRequest,
    image::{Credential, Image, ImageConfig, Keyring},
};

/// The addresses a pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The pod's addresses, at most one of a family, the main one first.
    pub addresses: Vec<IpAddr>,
}
