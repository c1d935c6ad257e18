//! Words shared by all of Orlop: small values that every part speaks about in the same way.
//!
//! Everything here is pure: no clock, files, sockets, environment, randomness or async, and no Kubernetes
//! client types. What such code needs comes as arguments. It is *not* a place for logic of one part.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod conditions;
pub mod event;
pub mod hash;
pub mod ids;
pub mod names;
pub mod net;
pub mod quantities;
pub mod selectors;
