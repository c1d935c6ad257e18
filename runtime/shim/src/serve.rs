//! The poll loop: every descriptor of the shim in one place, and what each of them becoming ready leads to.
//!
//! Decisions are in `state`; here they are carried out. Nothing here waits.

mod attach;
mod commands;
mod creations;

use std::{
    collections::BTreeMap,
    fs,
    io::Result,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixListener},
    },
};

use attach::Attached;
use commands::Asked;
use creations::{CREATE_MS, Creation};

use crate::{
    cgroup::{self, Dirs, Nest},
    client::Client,
    create,
    exec::{self, Entry},
    home::Home,
    init::Init,
    logs::Logs,
    oom::Watch,
    protocol::{Request, Response, Step, VERSION},
    records::{PidRecord, start_ticks},
    state::{Action, Known, Table},
    sys,
};

/// What a shim is started with. Its working directory is the pod's directory.
#[derive(Debug)]
pub struct Config {
    /// Pod UID.
    pub uid: String,
    /// Program that builds containers.
    pub creator: String,
    /// First process of the pod, where its containers share one.
    pub init: Option<Init>,
}

/// One container's descriptors and paths.
#[derive(Debug)]
struct Live {
    bundle: String,
    log_path: String,
    logs: Logs,
    /// It was told that the log is full.
    told_full: bool,
    dirs: Dirs,
    oom: Option<Watch>,
    /// The other end of its input, where it has one.
    stdin: Option<OwnedFd>,
    /// The input ends with the first attachment that gives any.
    stdin_once: bool,
}

#[derive(Clone, Debug)]
enum Token {
    Signals,
    Listener,
    Client(u64),
    Output(String, usize),
    Oom(String),
    Creation(u32),
    Exec(u64),
    Attached(u64),
}

#[derive(Debug)]
struct Server {
    config: Config,
    listener: UnixListener,
    signals: OwnedFd,
    table: Table,
    live: BTreeMap<String, Live>,
    creations: Vec<Creation>,
    execs: BTreeMap<u64, exec::Running>,
    /// Cgroups of commands that are over.
    leaving: Vec<Nest>,
    home: Home,
    /// Of the container that was entered last: what it holds open is little for one.
    entry: Option<Entry>,
    attached: Attached,
    clients: BTreeMap<u64, Client>,
    /// Size of a log that is told.
    log_limit: Option<u64>,
    next_key: u64,
    /// What could not be written down yet.
    unwritten: Vec<Action>,
    buffer: Vec<u8>,
    done: bool,
    /// The machine goes down: every process of it has got SIGTERM.
    terminated: bool,
}

/// Milliseconds after which a record that found no room is tried again.
const WRITE_AGAIN_MS: u64 = 200;

/// Serves until told to end.
pub fn run(config: Config, listener: UnixListener, signals: OwnedFd) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut server = Server {
        config,
        listener,
        signals,
        table: Table::default(),
        live: BTreeMap::new(),
        creations: Vec::new(),
        execs: BTreeMap::new(),
        leaving: Vec::new(),
        home: Home::here()?,
        entry: None,
        attached: Attached::new(),
        clients: BTreeMap::new(),
        log_limit: None,
        next_key: 1,
        unwritten: Vec::new(),
        buffer: vec![0; 16 << 10],
        done: false,
        terminated: false,
    };
    while !(server.done || server.terminated && server.has_nothing_left()) {
        for token in server.wait()? {
            server.ready(token);
        }
        server.reap();
        server.timers();
        server.sweep();
    }
    Ok(())
}

impl Server {
    /// No container and nothing of one: who waits for us to end waits for nothing.
    fn has_nothing_left(&self) -> bool {
        let mut outputs = self.live.values().flat_map(|live| live.logs.open());
        self.table.idle()
            && self.creations.is_empty()
            && self.execs.is_empty()
            && self.unwritten.is_empty()
            && outputs.next().is_none()
    }

    fn wait(&self) -> Result<Vec<Token>> {
        let mut fds = Vec::new();
        let mut tokens = Vec::new();
        let mut add_raw = |fd: i32, events: i16, token: Token| {
            fds.push(libc::pollfd { fd, events, revents: 0 });
            tokens.push(token);
        };
        self.attached_fds().for_each(|(key, fd, events)| add_raw(fd, events, Token::Attached(key)));
        let mut add = |fd: BorrowedFd<'_>, events: i16, token: Token| add_raw(fd.as_raw_fd(), events, token);
        add(self.signals.as_fd(), libc::POLLIN, Token::Signals);
        add(self.listener.as_fd(), libc::POLLIN, Token::Listener);
        for (key, client) in &self.clients {
            let events = if client.wants_to_write() { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
            add(client.stream.as_fd(), events, Token::Client(*key));
        }
        for (id, live) in &self.live {
            live.logs.open().for_each(|(which, fd)| {
                add(fd.as_fd(), libc::POLLIN, Token::Output(id.clone(), which));
            });
            if let Some((fd, events)) = live.oom.as_ref().map(Watch::poll) {
                add(fd, events, Token::Oom(id.clone()));
            }
        }
        for creation in &self.creations {
            add(creation.status.as_fd(), libc::POLLIN, Token::Creation(creation.creator));
        }
        for (key, running) in &self.execs {
            let both = [running.output.as_ref(), running.status.as_ref()];
            both.into_iter().flatten().for_each(|fd| add(fd.as_fd(), libc::POLLIN, Token::Exec(*key)));
        }
        sys::poll(&mut fds, self.timeout())?;
        let ready = fds.iter().zip(tokens).filter(|(fd, _)| fd.revents != 0);
        Ok(ready.map(|(_, token)| token).collect())
    }

    fn timeout(&self) -> i32 {
        let deadlines = self.execs.values().filter_map(|running| running.deadline);
        let deadlines = deadlines.chain(self.creations.iter().map(|creation| creation.deadline));
        let deadlines = deadlines.chain(self.leaving.iter().map(|nest| nest.again_at));
        let next = deadlines.chain(self.table.next_tick()).min();
        let left = next.map(|at| at.saturating_sub(sys::monotonic_ms()));
        let again = (!self.unwritten.is_empty()).then_some(WRITE_AGAIN_MS);
        let left = left.into_iter().chain(again).min();
        left.map_or(-1, |left| i32::try_from(left).unwrap_or(i32::MAX))
    }

    fn ready(&mut self, token: Token) {
        match token {
            Token::Signals => {
                while let Ok(Some(n @ 1..)) = sys::read(&self.signals, &mut self.buffer) {
                    self.terminated |= sys::terminated(&self.buffer[..n]);
                }
            }
            Token::Listener => self.accept(),
            Token::Client(key) => self.read_client(key),
            Token::Output(id, which) => {
                if let Some(live) = self.live.get_mut(&id) {
                    let attached = &mut self.attached;
                    live.logs.pump(which, &mut self.buffer, &mut |which, bytes| {
                        attach::feed(attached, &id, which, bytes);
                    });
                }
                self.look_at_log(&id);
            }
            Token::Oom(id) => self.look_for_oom(&id),
            Token::Creation(creator) => self.read_creation(creator, false),
            Token::Exec(key) => self.read_exec(key),
            Token::Attached(key) => self.move_attached(key),
        }
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let key = self.key();
                self.clients.insert(key, Client::new(stream));
            }
        }
    }

    fn read_client(&mut self, key: u64) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        client.flush();
        client.fill(&mut self.buffer);
        loop {
            let Some(client) = self.clients.get_mut(&key) else { return };
            let parsed = match client.next() {
                Ok(Some(frame)) => Request::parse(&frame),
                Ok(None) => return,
                Err(malformed) => Err(malformed),
            };
            let Ok((number, request)) = parsed else {
                client.gone = true;
                return;
            };
            let fds = std::mem::take(&mut client.fds);
            let answer = match request {
                Ok(request) => self.handle(key, number, request, fds),
                Err(malformed) => Some(error(Step::Protocol, malformed.to_string())),
            };
            if let Some(answer) = answer {
                self.answer(key, number, &answer);
            }
        }
    }

    fn answer(&mut self, client: u64, number: u32, response: &Response) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.send(number, response);
        }
    }

    fn tell_all(&mut self, response: &Response) {
        let subscribed = self.clients.values_mut().filter(|client| client.subscribed);
        subscribed.for_each(|client| client.send(0, response));
    }

    /// `None`: answered later.
    fn handle(&mut self, client: u64, number: u32, request: Request, fds: Vec<OwnedFd>) -> Option<Response> {
        match request {
            Request::Hello { version: _ } => {
                Some(Response::Hello { version: VERSION, uid: self.config.uid.clone() })
            }
            Request::Create { id, bundle, log, stdio } => {
                self.create(client, number, &id, bundle, log, stdio)
            }
            Request::Kill { id, signal } => Some(match self.table.pid(&id) {
                None => not_running(&id),
                Some(pid) => done(sys::kill(pid, signal)),
            }),
            Request::Stop { id, signal, grace_ms } => Some(match self.table.known(&id) {
                Known::No => not_running(&id),
                Known::Creating | Known::Started(..) => {
                    let kill_at = sys::monotonic_ms().saturating_add(grace_ms);
                    let actions = self.table.stop(&id, signal, kill_at);
                    self.act(actions);
                    Response::Ok
                }
            }),
            Request::Exec(request) => self.exec(Asked { client, number }, &request).err(),
            Request::Stream(request) => self.stream(Asked { client, number }, &request, fds).err(),
            Request::Attach { id, streams } => self.attach(Asked { client, number }, &id, streams, fds).err(),
            Request::Resize { id, window } => {
                Some(match self.live.get(&id).map(|live| &live.logs.terminal) {
                    Some(Some(terminal)) => {
                        done(sys::set_window(terminal.as_fd(), window.rows, window.columns))
                    }
                    Some(None) => error(Step::Shim, format!("container {id} has no terminal")),
                    None => not_running(&id),
                })
            }
            Request::Reopen { id } => Some(match self.live.get_mut(&id) {
                None => not_running(&id),
                Some(live) => done(live.reopen_log()),
            }),
            Request::WatchLogs { limit } => {
                self.log_limit = Some(limit);
                self.live.values_mut().for_each(|live| live.told_full = false);
                self.live.keys().cloned().collect::<Vec<_>>().iter().for_each(|id| self.look_at_log(id));
                Some(Response::Ok)
            }
            Request::State => Some(Response::State(self.table.infos())),
            Request::Subscribe => {
                self.clients.get_mut(&client)?.subscribed = true;
                Some(Response::Ok)
            }
            Request::Forget { id } => Some(if self.table.forget(&id) {
                self.live.remove(&id);
                Response::Ok
            } else {
                error(Step::Shim, format!("container {id} has not ended"))
            }),
            Request::Exit => Some(if self.table.idle() {
                self.done = true;
                Response::Ok
            } else {
                error(Step::Shim, "containers run".to_owned())
            }),
        }
    }

    fn reap(&mut self) {
        while let Some((pid, status)) = sys::reap() {
            if self.config.init.as_ref().is_some_and(|init| init.pid == pid) {
                // It is the last of its namespace to end: no container of the pod can run any more, or be started.
                self.done = true;
            } else if self.creations.iter().any(|creation| creation.creator == pid) {
                self.read_creation(pid, true);
            } else if let Some(key) = self.exec_of(pid) {
                if let Some(running) = self.execs.get_mut(&key) {
                    running.exit = Some(status);
                }
                self.read_exec(key);
            } else {
                if let Some(id) = self.table.owner(pid).map(str::to_owned) {
                    self.entry = None;
                    self.look_for_oom(&id);
                    if let Some(live) = self.live.get_mut(&id) {
                        let attached = &mut self.attached;
                        live.logs.drain(&mut self.buffer, &mut |which, bytes| {
                            attach::feed(attached, &id, which, bytes);
                        });
                    }
                }
                let actions = self.table.reaped(pid, status, sys::now_ns());
                self.act(actions);
            }
        }
    }

    fn look_for_oom(&mut self, id: &str) {
        let Some(watch) = self.live.get_mut(id).and_then(|live| live.oom.as_mut()) else { return };
        if watch.look() {
            self.table.oom(id);
            self.tell_all(&Response::Oom { id: id.to_owned() });
        }
    }

    fn look_at_log(&mut self, id: &str) {
        let (Some(limit), Some(live)) = (self.log_limit, self.live.get_mut(id)) else { return };
        if live.log_became_full(limit) {
            self.tell_all(&Response::LogFull { id: id.to_owned() });
        }
    }

    fn timers(&mut self) {
        let now = sys::monotonic_ms();
        let mut actions = std::mem::take(&mut self.unwritten);
        actions.extend(self.table.tick(now));
        self.act(actions);
        for creation in self.creations.iter_mut().filter(|creation| creation.deadline <= now) {
            // Its end is seen by `reap`, and ends the creation.
            drop(sys::kill(creation.creator, libc::SIGKILL));
            creation.deadline = now + CREATE_MS;
        }
        for running in self.execs.values_mut() {
            let abandoned = !self.clients.contains_key(&running.client);
            let late = running.deadline.is_some_and(|at| at <= now);
            if running.exit.is_none() && (late || abandoned) {
                running.kill();
                running.timed_out = true;
                running.deadline = Some(now + 500);
            }
        }
    }

    /// Drops connections and watches that are over.
    fn sweep(&mut self) {
        self.clients.retain(|_, client| !client.gone);
        let now = sys::monotonic_ms();
        self.leaving.retain_mut(|nest| nest.again_at > now || !nest.remove(now));
        self.sweep_attached();
        for (id, live) in &mut self.live {
            if self.table.has_ended(id) {
                live.oom = None;
                live.stdin = None;
                live.logs.terminal = None;
            }
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Created { ref id, pid, started } => {
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                    let ticks = start_ticks(&stat).unwrap_or(0);
                    if self.record(id, "pid", &PidRecord { pid, ticks, started }.to_text()).is_err() {
                        self.unwritten.push(action);
                    }
                }
                Action::Exited { ref id, ref exit } => match self.record(id, "exit", &exit.to_text()) {
                    Ok(()) => self.tell_all(&Response::Exited { id: id.clone(), exit: exit.clone() }),
                    Err(_) => self.unwritten.push(action),
                },
                Action::Signal { pid, signal } => drop(sys::kill(pid, signal)),
                Action::KillAll { id } => {
                    if let Some(live) = self.live.get(&id) {
                        cgroup::kill_all(&live.dirs);
                    }
                }
            }
        }
    }

    /// Whole or not at all, and before anybody is told. Of a container that was forgotten nothing is written any more.
    fn record(&self, id: &str, name: &str, text: &str) -> Result<()> {
        let Some(live) = self.live.get(id) else { return Ok(()) };
        let (path, tmp) = (format!("{}/{name}", live.bundle), format!("{}/{name}.tmp", live.bundle));
        fs::write(&tmp, text).and_then(|()| fs::rename(&tmp, &path))
    }
}

impl Live {
    fn reopen_log(&mut self) -> Result<()> {
        self.logs.file = create::open_log(&self.log_path)?;
        self.told_full = false;
        Ok(())
    }

    /// Asked of the file, not counted: somebody may have cut it. One that was removed is begun again.
    fn log_became_full(&mut self, limit: u64) -> bool {
        let Ok(meta) = self.logs.file.metadata() else { return false };
        if meta.nlink() == 0 {
            drop(self.reopen_log());
            return false;
        }
        let full = meta.len() >= limit;
        let told = std::mem::replace(&mut self.told_full, full);
        full && !told
    }
}

/// Reads what is there, keeping at most `max`. True when the other end is closed.
fn drain(fd: &OwnedFd, kept: &mut Vec<u8>, max: usize) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match sys::read(fd, &mut buffer) {
            Ok(None) => return false,
            Ok(Some(0)) | Err(_) => return true,
            Ok(Some(got)) => kept.extend(&buffer[..got.min(max.saturating_sub(kept.len()))]),
        }
    }
}

fn error(step: Step, text: String) -> Response {
    Response::Error { step, text }
}

fn not_running(id: &str) -> Response {
    error(Step::NotRunning, format!("container {id} is not running"))
}

fn done(result: Result<()>) -> Response {
    result.map_or_else(|cause| error(Step::Shim, cause.to_string()), |()| Response::Ok)
}
