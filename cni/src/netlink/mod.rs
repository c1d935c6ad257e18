//! The only door to the kernel's network configuration: typed requests over netlink sockets.
//!
//! Requests are synchronous: the kernel answers rtnetlink within the `send`, so a socket needs no task behind
//! it and a round trip costs microseconds. Callers are blocking threads, never tokio's.
//!
//! Not in here: what to do ([`crate::plan`], [`crate::route`]) and in which namespace ([`crate::netns`]: a
//! socket belongs to the namespace it was opened in).

mod address;
mod error;
mod link;
mod neighbour;
pub(crate) mod nft;
mod observe;
mod route;
mod socket;

pub use error::Error;
pub(crate) use link::{Link, VethPair};
pub(crate) use observe::observe;
pub(crate) use route::{Kind, Route};
pub(crate) use socket::RouteSocket;
