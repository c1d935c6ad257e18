//! Programs that open IPv6 sockets for everything and dial `::ffff:10.96.0.10`, as Java and .NET do.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use crate::net::{ask, dial, tcp_server, udp_server};
use crate::room::isolated;
use crate::script::{dns, set, start, web};

const WEB: &str = "[::ffff:10.96.0.10]:80";
const DNS: &str = "[::ffff:10.96.0.53]:53";

#[test]
#[ignore = "root tier"]
fn tcp_reaches_the_backend_and_sees_the_service() {
    isolated("mapped::tcp_reaches_the_backend_and_sees_the_service", |room| {
        let five = tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        room.enter();
        let (answer, peer) = dial(WEB).unwrap();
        assert_eq!((answer, peer.to_string().as_str()), (five.to_string(), WEB));
        set(&mut state, &web(&[]));
        assert_eq!(dial(WEB).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
#[ignore = "root tier"]
fn udp_is_answered_by_the_service_connected_or_not() {
    isolated("mapped::udp_is_answered_by_the_service_connected_or_not", |room| {
        let five = udp_server(5);
        let mut state = start(&room);
        set(&mut state, &dns(&[5]));
        room.enter();
        let client = UdpSocket::bind("[::]:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let (answer, from) = ask(&client, DNS).unwrap();
        assert_eq!((answer, from.to_string().as_str()), (five.to_string(), DNS));

        client.connect(DNS).unwrap();
        assert_eq!(client.peer_addr().unwrap().to_string(), DNS);
        client.send(b"who?").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(client.recv_from(&mut buffer).unwrap().1.to_string(), DNS);
    });
}
