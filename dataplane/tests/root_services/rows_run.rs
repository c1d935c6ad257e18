//! The packet rows once more: through the programs, as the kernel runs them (`BPF_PROG_TEST_RUN`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use orlop_dataplane::loader::{self, Side};
use orlop_dataplane::reconcile::State;

use crate::fixture::lists;
use crate::frame::first;
use crate::frame_read::{Ends, ends, unwrap};
use crate::room::isolated;
use crate::rows::{Dialled, Packet, PacketExpect, Rows, rows};

const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// Each from another port, so that each is a new connection. Enough that a backend among three is missed in one of 10^10 runs.
const TRIES: u16 = 60;

#[test]
#[ignore = "root tier"]
fn every_row_goes_through_the_programs() {
    isolated("rows_run::every_row_goes_through_the_programs", |room| {
        let Rows { world, fixtures, packets } = rows();
        let mut loaded = loader::load_all(&room.bpffs, &room.cgroup).unwrap();
        for (row, first_port) in packets.into_iter().zip((20_000..).step_by(TRIES.into())) {
            let node = world.node(&row.config);
            let own = node.addresses.clone();
            let mut state = State::new(loaded.maps, node);
            lists(row.fixtures.iter().map(|name| &fixtures[name]))
                .into_iter()
                .for_each(|update| state.ingest(update));
            state.sync();
            assert_eq!(state.status().failures, Default::default());
            let got = run(&loaded.devices, &row, &own, first_port);
            assert!(
                row.allowed().iter().any(|allowed| agrees(allowed, &got, &own)),
                "{}: {}: {got:?}",
                row.id,
                row.why
            );
            loaded.maps = state.into_maps();
        }
    });
}

/// A backend on the node itself keeps seeing the client: what is delivered here needs no detour back, and upstream's rules
/// do not reach it either (they masquerade what leaves).
fn agrees(allowed: &PacketExpect, got: &PacketExpect, own: &BTreeSet<IpAddr>) -> bool {
    let here = allowed.backends.iter().any(|at| own.contains(&at.ip()));
    let same = allowed.verdict == got.verdict && allowed.backends == got.backends;
    same && (here || allowed.masquerade == got.masquerade)
}

fn run(devices: &loader::Devices, row: &Packet, own: &BTreeSet<IpAddr>, first_port: u16) -> PacketExpect {
    let Dialled { src, dst, dport, .. } = row.packet;
    let side = if own.contains(&src) || src.is_loopback() { Side::Out } else { Side::In };
    let mut seen = PacketExpect::default();
    let (mut masqueraded, mut plain, mut itself) = (0, 0, 0);
    for port in 0..TRIES {
        let (from, to) = (SocketAddr::new(src, first_port + port), SocketAddr::new(dst, dport));
        let frame = first(row.protocol(), from, to);
        let result = devices.test_run(side, &frame, 1).unwrap();
        seen.verdict = match result.action {
            SHOT => "drop",
            REDIRECT => {
                unreachable(&result.frame, &frame, from, to);
                "reject"
            }
            NEXT if result.frame == frame => "pass",
            NEXT => {
                let Ends { source, destination } = ends(row.protocol(), &result.frame);
                seen.backends.insert(destination);
                match (own.contains(&source.ip()), destination.ip() == src) {
                    (false, _) => plain += 1,
                    (true, false) => masqueraded += 1,
                    (true, true) => itself += 1,
                }
                // Ports that the node's own sockets do not use.
                assert!(source == from || source.port() >= 61_000, "{}: {source}", row.id);
                "forward"
            }
            other => panic!("{}: action {other}", row.id),
        }
        .to_owned();
    }
    if seen.verdict == "forward" {
        let masquerade = match (plain, masqueraded, itself) {
            (0, ..) => "always",
            (_, 0, 0) => "never",
            (_, 0, _) => "hairpin",
            _ => "sometimes",
        };
        seen.masquerade = Some(masquerade.to_owned());
    }
    seen
}

/// The answer is an ICMP port unreachable, from whom was asked, about the packet that was sent.
fn unreachable(answer: &[u8], frame: &[u8], from: SocketAddr, to: SocketAddr) {
    let (source, destination, next, icmp) = unwrap(answer);
    assert_eq!((source, destination), (to.ip(), from.ip()));
    let (expected, header) = if from.is_ipv4() { ((1, [3, 3]), 20) } else { ((58, [1, 4]), 40) };
    assert_eq!((next, [icmp[0], icmp[1]]), expected);
    assert_eq!(icmp[8..], frame[14..14 + header + 8]);
    let pseudo = if from.is_ipv4() {
        Vec::new()
    } else {
        crate::frame::pseudo_of(58, source, destination, icmp.len())
    };
    assert_eq!(crate::frame::sum(&[&pseudo[..], icmp].concat()), 0xffff, "checksum of ICMP");
}
