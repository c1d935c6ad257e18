//! The agent is killed, restarted, upgraded: no connection notices.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use orlop_dataplane::loader;

use crate::net::{dial, tcp_server};
use crate::room::{Room, isolated};
use crate::script::{bpftool, set, start, web};

const WEB: &str = "10.96.0.10:80";

/// Connects without a pause until told to stop; ends with the number of connections and the errors.
struct Load {
    stop: Arc<AtomicBool>,
    running: JoinHandle<(usize, Vec<String>)>,
}

impl Load {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let running = thread::spawn(move || {
            let (mut count, mut errors) = (0, Vec::new());
            while !until.load(Ordering::Relaxed) {
                count += 1;
                errors.extend(dial(WEB).err().map(|error| error.to_string()));
            }
            (count, errors)
        });
        Self { stop, running }
    }

    /// Every connection worked, and there were enough of them to mean something.
    fn finish(self, at_least: usize) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, errors) = self.running.join().unwrap();
        assert!(count >= at_least, "only {count} connections");
        assert!(errors.is_empty(), "{} of {count} failed: {:?}", errors.len(), errors.first());
    }
}

/// Attach type and program id of each link of the room's cgroup, by link id.
fn links(room: &Room) -> Vec<(u64, String, u64)> {
    let id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&room.cgroup).unwrap());
    let all = bpftool("link show");
    let ours = all.as_array().unwrap().iter().filter(|link| link["cgroup_id"].as_u64() == Some(id));
    ours.map(|link| {
        let number = |field: &str| link[field].as_u64().unwrap();
        (number("id"), link["attach_type"].to_string(), number("prog_id"))
    })
    .collect()
}

#[test]
#[ignore = "root tier"]
fn services_go_on_while_the_agent_is_dead() {
    isolated("restart::services_go_on_while_the_agent_is_dead", |room| {
        tcp_server(5);
        drop(room.agent(&web(&[5])));
        room.enter();
        for _ in 0..20 {
            assert_eq!(dial(WEB).unwrap().1.to_string(), WEB);
        }
    });
}

#[test]
#[ignore = "root tier"]
fn killed_and_restarted_again_and_again_under_load_loses_no_connection() {
    isolated("restart::killed_and_restarted_again_and_again_under_load_loses_no_connection", |room| {
        tcp_server(5);
        tcp_server(6);
        drop(room.agent(&web(&[5, 6])));
        room.enter();
        let before = links(&room);
        assert_eq!(before.len(), loader::PROGRAMS.len(), "{before:?}");
        let load = Load::start();
        for endpoints in [&[5, 6][..], &[5], &[6], &[5, 6], &[6, 5]] {
            drop(room.agent(&web(endpoints)));
        }
        load.finish(500);
        let after = links(&room);
        let ids = |links: &[(u64, String, u64)]| links.iter().map(|(id, ..)| *id).collect::<Vec<_>>();
        assert_eq!(ids(&after), ids(&before), "links were replaced instead of adopted");
        assert!(after.iter().zip(&before).all(|(a, b)| a.2 != b.2), "programs were not swapped");
    });
}

#[test]
#[ignore = "root tier"]
fn forty_swaps_under_load_lose_no_connection() {
    isolated("restart::forty_swaps_under_load_lose_no_connection", |room| {
        tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        room.enter();
        let load = Load::start();
        for _ in 0..40 {
            drop(start(&room));
        }
        load.finish(500);
    });
}

#[test]
#[ignore = "root tier"]
fn endpoint_changes_under_load_never_refuse() {
    isolated("restart::endpoint_changes_under_load_never_refuse", |room| {
        for last in 5..10 {
            tcp_server(last);
        }
        let mut state = start(&room);
        set(&mut state, &web(&[5, 6]));
        room.enter();
        let load = Load::start();
        for round in 0..400_u32 {
            let window = [5, 6, 7, 8, 9].map(|last| (last, (round + u32::from(last)) % 5 < 2));
            let chosen: Vec<u8> =
                window.into_iter().filter_map(|(last, chosen)| chosen.then_some(last)).collect();
            set(&mut state, &web(&chosen));
        }
        load.finish(200);
    });
}

#[test]
#[ignore = "root tier"]
fn an_established_connection_outlives_restart_and_its_endpoint() {
    isolated("restart::an_established_connection_outlives_restart_and_its_endpoint", |room| {
        let other = tcp_server(6);
        let at = tcp_server(5);
        let echo = TcpListener::bind((*at.ip(), 9090)).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut buffer = [0; 16];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..length]).unwrap();
            }
        });
        drop(room.agent(&web(&[5]).replace("8080", "9090")));
        room.enter();
        let mut connection = TcpStream::connect(WEB).unwrap();
        let mut echoes = || {
            connection.write_all(b"still there?").unwrap();
            let mut buffer = [0; 12];
            connection.read_exact(&mut buffer).unwrap();
            assert_eq!(
                (&buffer, connection.peer_addr().unwrap().to_string().as_str()),
                (b"still there?", WEB)
            );
        };
        echoes();
        drop(room.agent(&web(&[6])));
        echoes();
        assert_eq!(dial(WEB).unwrap().0, other.to_string());
        drop(room.agent("[]"));
        echoes();
    });
}
