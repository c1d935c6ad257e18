//! The only door to the kernel's network configuration: typed requests over netlink sockets.
//!
//! Links, addresses, neighbours and routes go through the crate `rtnetlink`. nf_tables is another family of
//! netlink, for which it has no messages. A call returns when the kernel has answered, which takes microseconds
//! or, while others hold its locks, longer: callers are blocking threads, never tokio's.
//!
//! Not in here: what to do ([`crate::plan`], [`crate::route`]) and in which namespace ([`crate::netns`]: a
//! socket belongs to the namespace it was opened in).

mod address;
mod direct;
mod error;
mod link;
mod neighbour;
pub(crate) mod nft;
mod observe;
mod route;
mod shape;
mod socket;

pub use error::Error;
pub(crate) use link::{Link, VethPair, VxlanLink};
pub(crate) use neighbour::FdbEntry;
pub(crate) use observe::observe;
pub(crate) use route::{Kind, Route, Way};
pub(crate) use shape::Bucket;
pub(crate) use socket::RouteSocket;
