//! Servers of a test inside a pod: they listen on the pod's loopback address and live in the test's process.

use std::{
    fs,
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd as _,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Playground;

/// Serves connections to the pod's loopback address; the port.
pub fn listen(p: &Playground, pod: &str, serve: fn(TcpStream)) -> u16 {
    let uid = p.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).text();
    let namespace =
        fs::File::open(p.dir.join("run/pods").join(uid).join("ns/net")).expect("open the pod's network");
    // A thread of its own: it stays in the namespace of the pod.
    let listener = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter it");
        TcpListener::bind(("127.0.0.1", 0)).expect("listen")
    });
    let listener = listener.join().expect("listen in the pod");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accept");
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Gives back whatever it hears.
pub fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().expect("one more handle");
    std::io::copy(&mut reader, &mut stream).expect("give it back");
    stream.shutdown(Shutdown::Write).expect("say that it was all");
}
