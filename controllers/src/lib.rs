//! The control loops of a standalone cluster: what kube-scheduler and kube-controller-manager do elsewhere.
//!
//! ```text
//!  API server ──list+watch, once per kind──▶ Cache ──changed keys──▶ Queue ──▶ plan [pure] ──▶ writes
//!                                              ▲                                                 │
//!                                              └──────────── answers of our own writes ◀─────────┘
//! ```
//!
//! Every controller is a pure plan (observed objects in, actions out) and a thin loop around it. All of them
//! share one watch and one copy of the objects per kind. The answer of a write goes into the cache at once, so
//! the next plan never works with a state older than its own last action.
//!
//! Not here: anything that an API server does on its own (defaults, validation, addresses of Services), and
//! anything that happens on a node.
#![forbid(unsafe_code)]

mod cache;
mod claim;
mod config;
mod deployment;
mod endpoints;
mod endpointslice;
mod error;
mod events;
mod gc;
mod mirroring;
mod namespace;
mod node;
mod object;
mod podgc;
mod queue;
mod record;
mod replicaset;
mod run;
mod scheduler;
mod service;
mod slices;
#[cfg(test)]
mod testing;
mod volume;

pub use config::{ConfigError, Controller, ControllersConfig};
pub use run::{RunError, run};
