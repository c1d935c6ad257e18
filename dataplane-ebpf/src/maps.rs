//! The maps, as `orlop-abi` describes them. Hash maps are not preallocated: an idle node pays for their buckets only.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LruHashMap},
    macros::btf_map,
};
use orlop_abi::{
    Backend, Flow, FlowKey, Frontend, FrontendKey, MAX_BACKENDS, MAX_FLOWS, MAX_FRONTENDS, MAX_PEERS,
    MAX_SLOTS, Peer, SlotKey,
};

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static SLOTS: HashMap<SlotKey, u32, { MAX_SLOTS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static BACKENDS: HashMap<u32, Backend, { MAX_BACKENDS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();
/// Not socket storage, which would need no `sock_release`: making one costs a connection three times as much.
#[btf_map]
pub static PEERS: HashMap<u64, Peer, { MAX_PEERS as usize }, LAZY> = HashMap::new();
