//! The maps, as `orlop-abi` describes them. Hash maps are not preallocated: an idle node pays for their buckets only.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use orlop_abi::{
    EVENTS_BYTES, FlowEvent, Affinity, AffinityKey, Backend, Block, Connection, ConnectionKey, Counters, Drop, Flow, FlowKey,
    FragmentKey, Frontend, FrontendKey, Hits, Ip, MAX_ADDRESSES, MAX_AFFINITIES, MAX_BACKENDS, MAX_BLOCKS,
    MAX_CONNECTIONS, MAX_DEVICES, MAX_FLOWS, MAX_FRAGMENTS, MAX_FRONTENDS, MAX_HITS, MAX_IDENTITIES, MAX_PEERS, MAX_PLACES,
    MAX_RANGES, MAX_RECEIVERS, MAX_RULES, MAX_SLOTS, MAX_SUBJECTS, MAX_UNTRANSLATED, MAX_VERDICTS, Peer, Places, PolicyState, Ports, Range, ReceiverKey, RuleKey,
    Settings, SlotKey, Subject, Verdict,
};

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static SLOTS: HashMap<SlotKey, u32, { MAX_SLOTS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static PLACES: HashMap<SlotKey, Places, { MAX_PLACES as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static BACKENDS: HashMap<u32, Backend, { MAX_BACKENDS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static RECEIVERS: HashMap<ReceiverKey, u32, { MAX_RECEIVERS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static RANGES: LpmTrie<Range, u32, { MAX_RANGES as usize }, LAZY> = LpmTrie::new();
#[btf_map]
pub static ADDRESSES: HashMap<Ip, u32, { MAX_ADDRESSES as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static DEVICES: HashMap<u32, u32, { MAX_DEVICES as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static PORTS: HashMap<u32, u32, { MAX_DEVICES as usize }, LAZY> = HashMap::new();
/// The node's own devices were there before any pod's: nearly always a comparison tells them from these.
#[btf_map]
pub static FIRST_POD: Array<u32, 1> = Array::new();
#[btf_map]
pub static ROUTES: Array<u32, 1> = Array::new();
#[btf_map]
pub static AFFINITIES: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITIES as usize }> = LruHashMap::new();
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();
/// Not socket storage, which would need no `sock_release`: making one costs a connection three times as much.
#[btf_map]
pub static PEERS: HashMap<u64, Peer, { MAX_PEERS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, Connection, { MAX_CONNECTIONS as usize }> =
    LruHashMap::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Ports, { MAX_FRAGMENTS as usize }> = LruHashMap::new();
#[btf_map]
pub static COUNTERS: PerCpuHashMap<u32, Counters, { MAX_FRONTENDS as usize }, LAZY> = PerCpuHashMap::new();
#[btf_map]
pub static DROPS: PerCpuArray<u64, { Drop::NAMES.len() }> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<FlowEvent, { EVENTS_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static WATCHED: Array<u32, 1> = Array::new();
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
pub static UNTRANSLATED: HashMap<u64, u32, { MAX_UNTRANSLATED as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static CALLERS: Array<u64, 1> = Array::new();
#[btf_map]
pub static SUBJECTS: HashMap<Ip, Subject, { MAX_SUBJECTS as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static IDENTITIES: HashMap<Ip, u32, { MAX_IDENTITIES as usize }, LAZY> = HashMap::new();
#[btf_map]
pub static BLOCKS: LpmTrie<Block, u32, { MAX_BLOCKS as usize }, LAZY> = LpmTrie::new();
#[btf_map]
pub static RULES: LpmTrie<RuleKey, u32, { MAX_RULES as usize }, LAZY> = LpmTrie::new();
#[btf_map]
pub static VERDICTS: LruHashMap<ConnectionKey, Verdict, { MAX_VERDICTS as usize }> = LruHashMap::new();
#[btf_map]
pub static HITS: PerCpuHashMap<u32, Hits, { MAX_HITS as usize }, LAZY> = PerCpuHashMap::new();
#[btf_map]
pub static POLICY: Array<PolicyState, 1> = Array::new();

/// What holds for every service; nothing until user space has written it.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    // SAFETY: user space writes it whole, and rarely; a torn read concerns one packet.
    SETTINGS.get(0)
}
