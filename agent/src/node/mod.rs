//! This machine as a Node object: what it is, that it lives, what state it is in.
//!
//! `facts` reads the machine, `report` makes the object of it and `news` the events, `register` and `lease` keep the API
//! server informed; `tiers` keeps the cgroups above those of pods.
//! Not for: pods.

pub mod address;
pub mod facts;
pub mod lease;
pub mod news;
pub mod register;
pub mod report;
pub mod tiers;
