//! The words between a client (the agent) and a shim, and their frames. Pure.
//!
//! A frame is a length (u32, little-endian) and that many bytes; the first byte is the kind. Requests carry a
//! number that their reply repeats, so several may be under way on one connection. The hello comes first and
//! carries the version: a new agent must go on talking to shims that were started by an old one, so kinds and
//! fields are only ever added at the end.

use crate::{
    records::ExitRecord,
    wire::{Malformed, Reader, Writer},
};

/// Version of this protocol.
pub const VERSION: u32 = 5;
/// From this version on a shim knows [`Request::Stream`], [`Request::Attach`] and [`Request::Resize`].
pub const STREAMS: u32 = 2;
/// From this version on a shim gives containers a terminal ([`Stdio::terminal`]).
pub const TERMINALS: u32 = 3;
/// From this version on a shim knows [`crate::records::ProcessSpec::rlimits`].
pub const RLIMITS: u32 = 4;
/// From this version on a shim knows [`Request::WatchLogs`].
pub const LOGS: u32 = 5;
/// A longer frame is a mistake, not a message.
pub const MAX_FRAME: usize = 4 << 20;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// First of all.
    Hello {
        /// Version the client speaks.
        version: u32,
    },
    /// Start a container from a prepared bundle. Asking again for a known one answers with what is.
    Create {
        /// Container id.
        id: String,
        /// Directory with `plan.json`, `process`, `cgroups`; takes `pid` and `exit`.
        bundle: String,
        /// CRI log file.
        log: String,
        /// What its standard streams are.
        stdio: Stdio,
    },
    /// Send a signal to the container's first process.
    Kill {
        /// Container id.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Send a signal, and KILL to everything in its cgroup when the grace is over. Asked again, the earlier end counts.
    Stop {
        /// Container id.
        id: String,
        /// First signal.
        signal: i32,
        /// Milliseconds until KILL.
        grace_ms: u64,
    },
    /// Run a command inside a container and answer when it has ended.
    Exec(ExecRequest),
    /// Open the log file anew (it was rotated).
    Reopen {
        /// Container id.
        id: String,
    },
    /// All containers of this shim.
    State,
    /// Send events on this connection from now on.
    Subscribe,
    /// Drop what is known of an ended container.
    Forget {
        /// Container id.
        id: String,
    },
    /// End the shim; refused while it has children.
    Exit,
    /// Run a command inside a container with the streams that come as descriptors with this frame, and answer when it
    /// has ended. The end of the connection ends the command. See [`Streams`] for the order of the descriptors.
    Stream(StreamRequest),
    /// Connect the streams that come as descriptors to those of a container, until it ends or the connection does.
    Attach {
        /// Container id.
        id: String,
        /// Which of its streams.
        streams: Streams,
    },
    /// Set the size of a container's terminal.
    Resize {
        /// Container id.
        id: String,
        /// Size.
        window: Window,
    },
    /// Tell of logs that have reached a size, now and from now on.
    WatchLogs {
        /// Bytes.
        limit: u64,
    },
}

/// Standard streams of a container. Its output goes to the log in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Keep stdin open instead of `/dev/null`.
    pub stdin: bool,
    /// Close it with the first attachment that gave any.
    pub stdin_once: bool,
    /// A terminal of the container for all three, its controlling one.
    pub terminal: bool,
}

impl Stdio {
    /// Shims before [`TERMINALS`] know one bit: whether there is any input.
    fn bits(self) -> u8 {
        u8::from(self.stdin) | u8::from(self.stdin_once) << 1 | u8::from(self.terminal) << 2
    }
    fn from_bits(bits: u8) -> Stdio {
        Stdio { stdin: bits & 1 != 0, stdin_once: bits & 2 != 0, terminal: bits & 4 != 0 }
    }
}

/// A command inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Container id.
    pub id: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's.
    pub env: Vec<String>,
    /// Milliseconds; 0 is no limit.
    pub timeout_ms: u64,
    /// Bytes of output kept.
    pub max_output: u32,
}

/// A command inside a container with streams of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamRequest {
    /// Container id.
    pub id: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's.
    pub env: Vec<String>,
    /// Milliseconds; 0 is no limit.
    pub timeout_ms: u64,
    /// With a terminal, one descriptor comes: a socket that takes the terminal's master (SCM_RIGHTS).
    pub terminal: Option<Window>,
    /// Without a terminal: what comes as descriptors, in the order of the fields.
    pub streams: Streams,
}

/// Which standard streams there are; the others are `/dev/null`. Descriptors come in this order, each one if it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Read end of a pipe.
    pub stdin: bool,
    /// Write end of a pipe.
    pub stdout: bool,
    /// Write end of a pipe.
    pub stderr: bool,
}

impl Streams {
    /// How many descriptors come.
    pub fn count(self) -> usize {
        [self.stdin, self.stdout, self.stderr].into_iter().filter(|wanted| *wanted).count()
    }
    fn bits(self) -> u8 {
        u8::from(self.stdin) | u8::from(self.stdout) << 1 | u8::from(self.stderr) << 2
    }
    fn from_bits(bits: u8) -> Streams {
        Streams { stdin: bits & 1 != 0, stdout: bits & 2 != 0, stderr: bits & 4 != 0 }
    }
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

impl Window {
    fn packed(self) -> u32 {
        u32::from(self.rows) << 16 | u32::from(self.columns)
    }
    fn from_packed(packed: u32) -> Window {
        let [a, b, c, d] = packed.to_be_bytes();
        Window { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) }
    }
}

/// What the shim answers or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To `Hello`.
    Hello {
        /// Version of the shim.
        version: u32,
        /// Pod UID.
        uid: String,
    },
    /// Done.
    Ok,
    /// To `Create`: the program runs (or ran).
    Created {
        /// Its pid.
        pid: u32,
        /// Nanoseconds since the epoch.
        started: u64,
    },
    /// To `Exec`.
    Exec {
        /// Status, or 128 + signal.
        code: i32,
        /// Killed because the time was over.
        timed_out: bool,
        /// stdout and stderr as they came.
        output: Vec<u8>,
    },
    /// To `State`.
    State(
        /// One per container.
        Vec<ContainerInfo>,
    ),
    /// Refused or failed.
    Error {
        /// Which step.
        step: Step,
        /// Why.
        text: String,
    },
    /// Event: a container ended; its record is on disk.
    Exited {
        /// Container id.
        id: String,
        /// How.
        exit: ExitRecord,
    },
    /// Event: the kernel killed a process of the container for want of memory.
    Oom {
        /// Container id.
        id: String,
    },
    /// Event: the log of a container has reached the size asked for. Not told again until it was below.
    LogFull {
        /// Container id.
        id: String,
    },
}

/// A container in the answer to `State`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Container id.
    pub id: String,
    /// 0 while it is being created.
    pub pid: u32,
    /// Nanoseconds since the epoch.
    pub started: u64,
    /// How it ended.
    pub exit: Option<ExitRecord>,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Where something failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step { $($(#[$doc])* $name = $number,)* }
        impl Step {
            /// From its number; an unknown one (a newer shim's) is `Shim`.
            pub fn from_number(number: u8) -> Step {
                match number { $($number => Step::$name,)* _ => Step::Shim }
            }
        }
    };
}
steps! {
    /// The shim itself: unknown container, pipes, fork.
    Shim = 0,
    /// The container could not be built (namespaces, mounts, cgroups).
    Create = 1,
    /// The program is not there.
    NotFound = 2,
    /// The program may not be run, or is no program.
    NotExecutable = 3,
    /// The last steps before the program (filter, capabilities, exec).
    Start = 4,
    /// No such container, or it does not run.
    NotRunning = 5,
    /// The message was not understood.
    Protocol = 6,
}

impl Request {
    /// The whole frame.
    pub fn frame(&self, number: u32) -> Vec<u8> {
        let mut w = start();
        match self {
            Request::Hello { version } => head(&mut w, 1, number).u32(*version),
            Request::Create { id, bundle, log, stdio } => {
                head(&mut w, 2, number).str(id);
                w.str(bundle);
                w.str(log);
                w.u8(stdio.bits());
            }
            Request::Kill { id, signal } => {
                head(&mut w, 3, number).str(id);
                w.i32(*signal);
            }
            Request::Stop { id, signal, grace_ms } => {
                head(&mut w, 4, number).str(id);
                w.i32(*signal);
                w.u64(*grace_ms);
            }
            Request::Exec(ExecRequest { id, args, env, timeout_ms, max_output }) => {
                head(&mut w, 5, number).str(id);
                w.strs(args);
                w.strs(env);
                w.u64(*timeout_ms);
                w.u32(*max_output);
            }
            Request::Reopen { id } => head(&mut w, 6, number).str(id),
            Request::State => drop(head(&mut w, 7, number)),
            Request::Subscribe => drop(head(&mut w, 8, number)),
            Request::Forget { id } => head(&mut w, 9, number).str(id),
            Request::Exit => drop(head(&mut w, 10, number)),
            Request::Stream(StreamRequest { id, args, env, timeout_ms, terminal, streams }) => {
                head(&mut w, 11, number).str(id);
                w.strs(args);
                w.strs(env);
                w.u64(*timeout_ms);
                w.bool(terminal.is_some());
                w.u32(terminal.unwrap_or_default().packed());
                w.u8(streams.bits());
            }
            Request::Attach { id, streams } => {
                head(&mut w, 12, number).str(id);
                w.u8(streams.bits());
            }
            Request::Resize { id, window } => {
                head(&mut w, 13, number).str(id);
                w.u32(window.packed());
            }
            Request::WatchLogs { limit } => head(&mut w, 14, number).u64(*limit),
        }
        finish(w)
    }

    /// From a frame's bytes, without the length. The number comes first, so that a refusal can carry it.
    pub fn parse(bytes: &[u8]) -> Result<(u32, Result<Request, Malformed>), Malformed> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        let number = r.u32()?;
        Ok((number, Request::fields(kind, &mut r)))
    }

    fn fields(kind: u8, r: &mut Reader<'_>) -> Result<Request, Malformed> {
        Ok(match kind {
            1 => Request::Hello { version: r.u32()? },
            2 => Request::Create {
                id: r.str()?,
                bundle: r.str()?,
                log: r.str()?,
                stdio: Stdio::from_bits(r.u8()?),
            },
            3 => Request::Kill { id: r.str()?, signal: r.i32()? },
            4 => Request::Stop { id: r.str()?, signal: r.i32()?, grace_ms: r.u64()? },
            5 => Request::Exec(ExecRequest {
                id: r.str()?,
                args: r.strs()?,
                env: r.strs()?,
                timeout_ms: r.u64()?,
                max_output: r.u32()?,
            }),
            6 => Request::Reopen { id: r.str()? },
            7 => Request::State,
            8 => Request::Subscribe,
            9 => Request::Forget { id: r.str()? },
            10 => Request::Exit,
            11 => Request::Stream(StreamRequest {
                id: r.str()?,
                args: r.strs()?,
                env: r.strs()?,
                timeout_ms: r.u64()?,
                terminal: terminal(r)?,
                streams: Streams::from_bits(r.u8()?),
            }),
            12 => Request::Attach { id: r.str()?, streams: Streams::from_bits(r.u8()?) },
            13 => Request::Resize { id: r.str()?, window: Window::from_packed(r.u32()?) },
            14 => Request::WatchLogs { limit: r.u64()? },
            _ => return Err(Malformed),
        })
    }
}

fn terminal(r: &mut Reader<'_>) -> Result<Option<Window>, Malformed> {
    let wanted = r.bool()?;
    let window = Window::from_packed(r.u32()?);
    Ok(wanted.then_some(window))
}

impl Response {
    /// The whole frame; events carry number 0.
    pub fn frame(&self, number: u32) -> Vec<u8> {
        let mut w = start();
        match self {
            Response::Hello { version, uid } => {
                head(&mut w, 1, number).u32(*version);
                w.str(uid);
            }
            Response::Ok => drop(head(&mut w, 2, number)),
            Response::Created { pid, started } => {
                head(&mut w, 3, number).u32(*pid);
                w.u64(*started);
            }
            Response::Exec { code, timed_out, output } => {
                head(&mut w, 4, number).i32(*code);
                w.bool(*timed_out);
                w.bytes(output);
            }
            Response::State(containers) => {
                head(&mut w, 5, number).u32(u32::try_from(containers.len()).unwrap_or(u32::MAX));
                for ContainerInfo { id, pid, started, exit } in containers {
                    w.str(id);
                    w.u32(*pid);
                    w.u64(*started);
                    w.str(&exit.as_ref().map(ExitRecord::to_text).unwrap_or_default());
                }
            }
            Response::Error { step, text } => {
                head(&mut w, 6, number).u8(*step as u8);
                w.str(text);
            }
            Response::Exited { id, exit } => {
                head(&mut w, 7, number).str(id);
                w.str(&exit.to_text());
            }
            Response::Oom { id } => head(&mut w, 8, number).str(id),
            Response::LogFull { id } => head(&mut w, 9, number).str(id),
        }
        finish(w)
    }

    /// From a frame's bytes, without the length.
    pub fn parse(bytes: &[u8]) -> Result<(u32, Response), Malformed> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        let number = r.u32()?;
        let response = match kind {
            1 => Response::Hello { version: r.u32()?, uid: r.str()? },
            2 => Response::Ok,
            3 => Response::Created { pid: r.u32()?, started: r.u64()? },
            4 => Response::Exec { code: r.i32()?, timed_out: r.bool()?, output: r.bytes()? },
            5 => {
                let count = r.u32()?;
                Response::State((0..count).map(|_| info(&mut r)).collect::<Result<_, _>>()?)
            }
            6 => Response::Error { step: Step::from_number(r.u8()?), text: r.str()? },
            7 => Response::Exited { id: r.str()?, exit: ExitRecord::from_text(&r.str()?).ok_or(Malformed)? },
            8 => Response::Oom { id: r.str()? },
            9 => Response::LogFull { id: r.str()? },
            _ => return Err(Malformed),
        };
        Ok((number, response))
    }
}

fn info(r: &mut Reader<'_>) -> Result<ContainerInfo, Malformed> {
    let (id, pid, started) = (r.str()?, r.u32()?, r.u64()?);
    Ok(ContainerInfo { id, pid, started, exit: ExitRecord::from_text(&r.str()?) })
}

fn start() -> Writer {
    Writer(vec![0; 4])
}

fn head(w: &mut Writer, kind: u8, number: u32) -> &mut Writer {
    w.u8(kind);
    w.u32(number);
    w
}

fn finish(w: Writer) -> Vec<u8> {
    let mut bytes = w.0;
    let len = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// Cuts the first whole frame off a receive buffer: its bytes without the length.
pub fn next_frame(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*head) as usize;
    if len > MAX_FRAME {
        return Err(Malformed);
    }
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    let rest = buffer.split_off(4 + len);
    let mut frame = std::mem::replace(buffer, rest);
    frame.drain(..4);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: Request) {
        let mut buffer = request.frame(7);
        buffer.extend([1, 2]);
        let frame = next_frame(&mut buffer).unwrap().unwrap();
        assert_eq!(Request::parse(&frame), Ok((7, Ok(request))));
        assert_eq!(buffer, [1, 2], "what follows stays");
    }

    fn check_response(response: Response) {
        let mut buffer = response.frame(9);
        let frame = next_frame(&mut buffer).unwrap().unwrap();
        assert_eq!(Response::parse(&frame), Ok((9, response.clone())));
        for cut in 0..frame.len().min(5) {
            assert!(Response::parse(&frame[..cut]).is_err(), "{response:?} cut at {cut}");
        }
    }

    #[test]
    fn every_request_survives_the_wire() {
        check(Request::Hello { version: 1 });
        let stdio = Stdio { stdin: true, stdin_once: false, terminal: true };
        check(Request::Create { id: "a".into(), bundle: "/b".into(), log: "/l".into(), stdio });
        check(Request::Kill { id: "a".into(), signal: 9 });
        check(Request::Stop { id: "a".into(), signal: 15, grace_ms: 30_000 });
        check(Request::Exec(ExecRequest {
            id: "a".into(),
            args: vec!["sh".into(), "-c".into()],
            env: vec!["A=b".into()],
            timeout_ms: 1,
            max_output: 2,
        }));
        check(Request::Reopen { id: "a".into() });
        check(Request::State);
        check(Request::Subscribe);
        check(Request::Forget { id: "a".into() });
        check(Request::Exit);
        let streams = Streams { stdin: true, stdout: false, stderr: true };
        check(Request::Stream(StreamRequest {
            id: "a".into(),
            args: vec!["sh".into()],
            env: vec![],
            timeout_ms: 0,
            terminal: Some(Window { rows: 24, columns: 65_535 }),
            streams,
        }));
        check(Request::Stream(StreamRequest { streams, ..StreamRequest::default() }));
        check(Request::Attach { id: "a".into(), streams });
        check(Request::Resize { id: "a".into(), window: Window { rows: 1, columns: 2 } });
        check(Request::WatchLogs { limit: 10 << 20 });
    }

    #[test]
    fn every_response_survives_the_wire() {
        let exit = ExitRecord { code: 137, signal: 9, oom: true, started: 1, finished: 2 };
        check_response(Response::Hello { version: 1, uid: "u".into() });
        check_response(Response::Ok);
        check_response(Response::Created { pid: 4, started: 5 });
        check_response(Response::Exec { code: 1, timed_out: true, output: vec![0, 255] });
        let exited = ContainerInfo { id: "a".into(), pid: 1, started: 2, exit: Some(exit.clone()) };
        let running = ContainerInfo { id: "b".into(), pid: 1, started: 2, exit: None };
        check_response(Response::State(vec![exited, running]));
        check_response(Response::Error { step: Step::NotFound, text: "no".into() });
        check_response(Response::Exited { id: "a".into(), exit });
        check_response(Response::Oom { id: "a".into() });
        check_response(Response::LogFull { id: "a".into() });
    }

    #[test]
    fn half_frames_wait_and_absurd_ones_fail() {
        let whole = Request::State.frame(1);
        for cut in 0..whole.len() {
            assert_eq!(next_frame(&mut whole[..cut].to_vec()), Ok(None));
        }
        assert_eq!(next_frame(&mut vec![255; 8]), Err(Malformed));
        assert!(matches!(Request::parse(&[99, 3, 0, 0, 0]), Ok((3, Err(Malformed)))));
        assert_eq!(Request::parse(&[]), Err(Malformed));
    }
}
