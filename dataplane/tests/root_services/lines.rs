//! Connections that last and are never silent, and ones that begin all the time: what an interruption would show in.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::town;

/// Traffic under way; [`finish`](Self::finish) says whether any of it suffered.
pub(crate) struct Traffic {
    open: Open,
    pause: Duration,
    stop: Arc<AtomicBool>,
    running: Vec<(String, JoinHandle<Counted>)>,
}

/// Makes a connection whose server has said who it is.
type Open = fn(SocketAddr) -> io::Result<TcpStream>;

/// How often it worked, and what went wrong.
type Counted = (usize, Vec<String>);

/// So often it has to have worked to mean something.
const ENOUGH: usize = 20;

impl Default for Traffic {
    fn default() -> Self {
        Self::of(open, Duration::from_millis(2))
    }
}

impl Traffic {
    /// None yet, of this kind and with such pauses in it.
    pub(crate) fn of(open: Open, pause: Duration) -> Self {
        Self { open, pause, stop: Arc::default(), running: Vec::new() }
    }

    /// Opens so many connections from a place to a server of the town, and keeps bytes going there and back.
    pub(crate) fn lasting(&mut self, place: Option<&'static str>, to: &str, count: usize) {
        let (open, pause, to) = (self.open, self.pause, to.parse().unwrap());
        for _ in 0..count {
            let stream = somewhere(place, move || open(to)).join().unwrap();
            let stream = stream.unwrap_or_else(|error| panic!("{place:?} to {to}: {error}"));
            let stop = Arc::clone(&self.stop);
            let running = thread::spawn(move || {
                let mut rounds = 0;
                let error = exchange(stream, &stop, pause, &mut rounds).err();
                (rounds, error.map(|error| error.to_string()).into_iter().collect())
            });
            self.running.push((format!("lasting from {place:?} to {to}"), running));
        }
    }

    /// Opens one connection after the other from a place.
    pub(crate) fn beginning(&mut self, place: Option<&'static str>, to: &str) {
        let (open, pause, to) = (self.open, self.pause, to.parse().unwrap());
        let stop = Arc::clone(&self.stop);
        let running = somewhere(place, move || {
            let (mut count, mut errors) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                errors.extend(open(to).err().map(|error| format!("connection {count}: {error}")));
                thread::sleep(pause);
            }
            (count, errors)
        });
        self.running.push((format!("beginning from {place:?} to {to}"), running));
    }

    /// Ends it: everything worked, and there was enough of it to mean something.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for (what, running) in self.running {
            let (count, errors) = running.join().unwrap();
            println!("{what}: {count}");
            if count < ENOUGH || !errors.is_empty() {
                wrong.push(format!("{what}: {count}, {} errors, first {:?}", errors.len(), errors.first()));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn somewhere<T: Send + 'static>(
    place: Option<&'static str>,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    match place {
        Some(place) => town::spawn(place, f),
        None => thread::spawn(f),
    }
}

/// One of TCP.
pub(crate) fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.set_nodelay(true)?;
    town::first_line(&mut stream)?;
    Ok(stream)
}

fn exchange(mut stream: TcpStream, stop: &AtomicBool, pause: Duration, rounds: &mut usize) -> io::Result<()> {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&[b'x'; 64])?;
        stream.read_exact(&mut buffer)?;
        *rounds += 1;
        thread::sleep(pause);
    }
    Ok(())
}
