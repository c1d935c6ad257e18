//! What the programs tell whoever listens.

use std::net::SocketAddr;

use orlop_dataplane::flows::{FlowView, Flows, FlowsError};
use orlop_dataplane::loader::{self, Side};
use orlop_dataplane::model::{Node, Protocol};
use orlop_dataplane::reconcile::State;

use crate::fixture::{lists, parse};
use crate::frame::{first, later};
use crate::net::{dial, tcp_server};
use crate::room::isolated;
use crate::script::web;

/// All that was told by now.
fn told(flows: &mut Flows) -> Vec<FlowView> {
    std::iter::from_fn(|| flows.wait().unwrap()).collect()
}

#[test]
#[ignore = "root tier"]
fn new_connections_are_told_while_somebody_listens() {
    isolated("listen::new_connections_are_told_while_somebody_listens", |room| {
        let server = SocketAddr::from(tcp_server(5));
        let mut loaded = loader::load_all(&room.bpffs, &room.cgroup).unwrap();
        let mut state = State::new(loaded.maps, Node { name: "node-a".to_owned(), ..Node::default() });
        let gone = "- service: {name: gone, cluster_ips: [10.96.0.9], ports: [{name: p, port: 80}]}\n  endpoints: []\n";
        lists(&parse(&(web(&[5]) + gone))).into_iter().for_each(|update| state.ingest(update));
        state.sync();
        loaded.maps = state.into_maps();
        room.enter();
        let dial_both = || {
            dial("10.96.0.10:80").unwrap();
            dial("10.96.0.9:80").unwrap_err();
        };
        dial_both();

        let lock = room.bpffs.with_file_name("lock");
        let mut flows = Flows::listen(&room.bpffs, &lock).unwrap();
        assert_eq!(told(&mut flows), [], "nothing of before");
        assert!(matches!(Flows::listen(&room.bpffs, &lock), Err(FlowsError::Taken)));
        dial_both();
        let (client, service): (SocketAddr, SocketAddr) =
            ("203.0.113.7:40000".parse().unwrap(), "10.96.0.10:80".parse().unwrap());
        for frame in [first(Protocol::Tcp, client, service), later(Protocol::Tcp, client, service)] {
            loaded.devices.test_run(Side::In, &frame, 1).unwrap();
        }
        let pid = std::process::id();
        let said: Vec<_> = told(&mut flows)
            .iter()
            .map(|flow| {
                assert!(flow.process.as_ref().is_none_or(|(of, _)| *of == pid));
                (flow.source, flow.asked.to_string(), flow.backend, flow.refused)
            })
            .collect();
        assert_eq!(
            said,
            [
                (None, service.to_string(), Some(server), None),
                (None, "10.96.0.9:80".to_owned(), None, Some("no-endpoint")),
                (Some(client), service.to_string(), Some(server), None),
            ]
        );

        drop(flows);
        dial_both();
        let mut flows = Flows::listen(&room.bpffs, &lock).unwrap();
        assert_eq!(told(&mut flows), [], "nobody listened");
    });
}
