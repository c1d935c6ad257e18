//! Where connections of TCP and SCTP begin and end, as their packets say: frame by frame, without sockets.

use std::net::SocketAddr;

use orlop_dataplane::loader::{self, Side};
use orlop_dataplane::model::{Node, Protocol};
use orlop_dataplane::reconcile::State;

use crate::fixture::{lists, parse};
use crate::frame::{ACK, FIN, RST, SYN, packet};
use crate::frame_read::{self, Ends};
use crate::room::isolated;

const NEXT: i32 = -1;

/// The service with these endpoints.
fn service(protocol: Protocol, last: &[u8]) -> String {
    let endpoint = |last| format!("{{ip: 10.42.0.{last}, node: node-a, ports: {{p: 8080}}}}");
    let endpoints: Vec<_> = last.iter().map(endpoint).collect();
    format!(
        "- service: {{name: s, cluster_ips: [10.96.0.10], ports: [{{name: p, protocol: {protocol}, port: 80}}]}}
  endpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// A client that comes back from the same port, as those of SCTP do, goes to who is there.
#[test]
#[ignore = "root tier"]
fn what_opens_a_connection_goes_to_who_serves_and_the_rest_where_it_belongs() {
    isolated(
        "beginnings::what_opens_a_connection_goes_to_who_serves_and_the_rest_where_it_belongs",
        |room| {
            let mut loaded = loader::load_all(&room.bpffs, &room.cgroup).unwrap();
            for protocol in [Protocol::Tcp, Protocol::Sctp] {
                let node = Node { name: "node-a".to_owned(), ..Node::default() };
                let mut state = State::new(loaded.maps, node);
                let mut serve = |last: &[u8]| {
                    lists(&parse(&service(protocol, last)))
                        .into_iter()
                        .for_each(|update| state.ingest(update));
                    state.sync();
                };
                let (to, devices): (SocketAddr, _) = ("10.96.0.10:80".parse().unwrap(), &loaded.devices);
                // Whom a client's packet goes to.
                let send = |port: u16, flags| {
                    let from = SocketAddr::from(([203, 0, 113, 7], port));
                    let result = devices.test_run(Side::In, &packet(protocol, flags, from, to), 1).unwrap();
                    assert_eq!(result.action, NEXT, "it came in where there is no route");
                    let Ends { source, destination } = frame_read::ends(protocol, &result.frame);
                    assert_eq!(source, from);
                    destination.to_string()
                };
                serve(&[5]);
                for flags in [ACK, SYN | ACK, FIN, RST] {
                    assert_eq!(
                        send(5000, flags),
                        "10.96.0.10:80",
                        "{protocol} {flags}: it may be netfilter's"
                    );
                }
                assert_eq!(send(5000, SYN), "10.42.0.5:8080", "{protocol}");
                serve(&[6]);
                assert_eq!(send(5000, ACK), "10.42.0.5:8080", "{protocol}: it stays");
                assert_eq!(send(5000, SYN), "10.42.0.6:8080", "{protocol}: nobody waits for it there");

                // Said twice it is the same connection, but after its end another, which may go to another.
                for closing in [ACK, FIN, RST] {
                    serve(&[6]);
                    let ports = (0..40).map(|port| 6000 + 100 * u16::from(closing) + port);
                    let opened: Vec<_> = ports.clone().map(|port| send(port, SYN)).collect();
                    ports.clone().for_each(|port| assert_eq!(send(port, closing), "10.42.0.6:8080"));
                    serve(&[6, 7]);
                    let again: Vec<_> = ports.map(|port| send(port, SYN)).collect();
                    assert_eq!(again == opened, closing == ACK, "{protocol} {closing}: {again:?}");
                }
                loaded.maps = state.into_maps();
            }
        },
    );
}
