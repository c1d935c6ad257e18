//! The pod network of one node: a veth pair, an address and routes per pod; masquerade and routes per node.
//!
//! Everything is layer 3. A pod's `eth0` has an address of each family, alone in its network, and reaches all else
//! through `169.254.1.1` and `fe80::1`, gateways that exist only as permanent neighbour entries for the host side of
//! its veth pair; the node holds one route per address. There is no bridge, no ARP and no neighbour discovery.
//!
//! ```text
//!  Attachment ──▶ ipam (ledger) ──▶ netlink::observe ──▶ plan [p] ──▶ execute ──▶ netlink
//!                                                                      └─ on failure: undo [p] of the done prefix
//! ```
//!
//! Or other people's plugins do all that, and [`runtime`] calls them.
//!
//! Not in here: Services (the dataplane), pod sandboxes (the runtime makes the namespaces), and any API client.
//! The kernel is asked through netlink sockets only; no other program is run.
#![forbid(unsafe_code)]

mod attach;
mod bandwidth;
mod cut;
mod delegate;
mod error;
mod execute;
pub mod fuzz;
pub mod host;
mod ipam;
mod mtu;
mod names;
mod netlink;
mod netns;
mod network;
mod node;
pub mod plan;
pub mod plugin;
mod reap;
mod route;
pub mod runtime;
mod spec;
mod sysctl;

pub use bandwidth::Bandwidth;
pub use error::{
    AttachError, CheckError, DetachError, MtuError, OpenError, RouteError, RoutesError, UninstallError,
};
pub use ipam::IpamError;
pub use names::{LinkName, Mac, POD_INTERFACE};
pub use netlink::Error as NetlinkError;
pub use network::{Attached, Attachment, Network, NetworkConfig};
pub use orlop_model::net::IpNet;
pub use route::{Overlay, OverlayError, Peer};
