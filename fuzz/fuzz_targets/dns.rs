//! Packets of DNS clients and of name servers: whatever they are, they are read without a panic, and what is written
//! back fits and can be read.
#![no_main]

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use libfuzzer_sys::fuzz_target;
use wire::{Incoming, Reply, Transport};

// The file alone: all of the agent would take minutes to build with coverage.
#[allow(dead_code, unreachable_pub, reason = "what the agent needs of it and this does not")]
#[path = "../../agent/src/dns/wire.rs"]
mod wire;

fuzz_target!(|packet: &[u8]| {
    match wire::read(packet) {
        Incoming::Question(request) => {
            // What another name server says goes back to clients as it is.
            let said = Message::from_vec(packet).ok();
            let records = said.map(|said| (said.answers, said.authorities, said.additionals));
            let (answers, authorities, additionals) = records.unwrap_or_default();
            let reply = Reply { answers, authorities, additionals, ..Reply::default() };
            for transport in [Transport::Udp, Transport::Tcp] {
                let answer = request.write(&reply, transport);
                assert!(answer.len() <= request.limit(transport));
                assert!(Message::from_vec(&answer).is_ok());
            }
        }
        Incoming::Refused(_, answer) => assert!(answer.len() <= 512 && Message::from_vec(&answer).is_ok()),
        Incoming::Noise => {}
    }
    let id = packet.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    let query = Query::query(Name::root(), RecordType::A);
    let _answer = wire::answer(packet, id, &query);
});
