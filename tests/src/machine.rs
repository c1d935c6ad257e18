//! A whole machine under qemu: Debian with its own kernel, systemd, cgroup v2 and no network, for what cannot be done to
//! the machine that the tests run on (its clock, its power, its shutdown).
//!
//! The processor is emulated, so that nothing depends on what the host offers: everything takes ten times as long.
//! Commands are typed into a shell at the machine's second serial port.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{Output, playground::run, until};

const BOOT: Duration = Duration::from_secs(240);
const COMMAND: Duration = Duration::from_secs(120);
/// What the shell prints after a command, before its exit status.
const END: &str = "orlop-end ";

/// The machine, on or off.
pub struct Machine {
    /// Its kernel, its initrd and what its disk is a copy of.
    made: PathBuf,
    dir: tempfile::TempDir,
    on: Option<(Child, UnixStream)>,
}

impl Machine {
    /// A new one as it was `made`, off. It will have these files in `/opt/orlop`.
    #[must_use]
    pub fn new(made: PathBuf, files: &[PathBuf]) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let payload = dir.path().join("payload");
        fs::create_dir(&payload).expect("make a directory");
        let copied = run(Command::new("cp").args(["-rL", "--"]).args(files).arg(&payload));
        assert!(copied.ok, "{}", copied.stderr);
        let image = dir.path().join("payload.img");
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).args([&payload, &image]).arg("400M"))
            .text();
        fs::remove_dir_all(&payload).expect("remove what is in the image");
        let copied =
            run(Command::new("cp").arg("--sparse=always").args([made.join("disk"), dir.path().join("disk")]));
        assert!(copied.ok, "{}", copied.stderr);
        Self { made, dir, on: None }
    }

    /// Presses the button, and waits for a shell.
    pub fn boot(&mut self) {
        assert!(self.on.is_none(), "it is on");
        let (dir, port) = (self.dir.path(), self.dir.path().join("port"));
        let drive = |file: &str| format!("file={},format=raw,if=virtio", dir.join(file).display());
        // Whatever becomes of the test, nothing stays behind.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"]);
        qemu.args(["-display", "none", "-nic", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(self.made.join("kernel")).arg("-initrd").arg(self.made.join("initrd"));
        let words = "console=ttyS0 root=/dev/vda rw quiet panic=-1 mitigations=off systemd.show_status=0";
        qemu.args(["-append", words, "-drive", &drive("disk")]);
        qemu.args(["-drive", &format!("{},readonly=on", drive("payload.img"))]);
        qemu.args(["-serial", &format!("file:{}", dir.join("console").display())]);
        qemu.args(["-chardev", &format!("socket,id=port,path={},server=on,wait=off", port.display())]);
        qemu.args(["-serial", "chardev:port"]).stdin(Stdio::null());
        let child = qemu.spawn().expect("start qemu");
        let port = until("qemu listens", Duration::from_secs(20), || {
            UnixStream::connect(&port).map_err(|error| error.to_string())
        });
        port.set_read_timeout(Some(Duration::from_millis(500))).expect("set a limit");
        self.on = Some((child, port));
        self.wait_for_shell();
    }

    /// What is typed before the port is open is lost, and now and then the port with it.
    fn wait_for_shell(&mut self) {
        let start = Instant::now();
        let mut said = String::new();
        while !said.contains("orlop-port") {
            assert!(start.elapsed() < BOOT, "the port stays shut; the console says {}", self.console());
            let (_, port) = self.on.as_mut().expect("it is on");
            read(port, &mut said);
        }
        while !said.contains("orlop-shell") {
            assert!(start.elapsed() < BOOT, "no shell; the console says {}", self.console());
            let (_, port) = self.on.as_mut().expect("it is on");
            port.write_all(b"\necho orlop-''shell\n").expect("type");
            read(port, &mut said);
        }
        // Answers to what was typed more than once.
        let (_, port) = self.on.as_mut().expect("it is on");
        while read(port, &mut said) {}
    }

    /// Types lines for the shell; what they print, and whether they ended with 0.
    pub fn run(&mut self, lines: &str) -> Output {
        self.run_for(lines, COMMAND)
    }

    /// The same, of what may take longer.
    pub fn run_for(&mut self, lines: &str, limit: Duration) -> Output {
        let (_, port) = self.on.as_mut().expect("it is on");
        let typed = format!("(\n{lines}\n) </dev/null 2>&1; echo \"{END}$?\"\n");
        port.write_all(typed.as_bytes()).expect("type");
        let (start, mut said) = (Instant::now(), String::new());
        loop {
            if let Some((stdout, status)) = said.split_once(END)
                && let Some((status, _)) = status.split_once('\n')
            {
                let (ok, stdout) = (status.trim() == "0", stdout.to_owned());
                return Output { ok, stdout, stderr: String::new() };
            }
            assert!(start.elapsed() < limit, "{lines}: no end; so far {said}; {}", self.console());
            let (_, port) = self.on.as_mut().expect("it is on");
            read(port, &mut said);
        }
    }

    /// Asks again until the answer is accepted.
    pub fn wait_for(&mut self, lines: &str, limit: Duration, accept: impl Fn(&str) -> bool) -> String {
        until(lines, limit, || {
            let said = self.run(lines).stdout;
            if accept(&said) { Ok(said) } else { Err(said) }
        })
    }

    /// Pulls the plug.
    pub fn cut_power(&mut self) {
        let (mut child, _) = self.on.take().expect("it is on");
        child.kill().expect("kill qemu");
        child.wait().expect("wait for qemu");
    }

    /// Types the last line for this boot, and waits until the machine has switched itself off.
    pub fn off_after(&mut self, line: &str, limit: Duration) {
        let (mut child, mut port) = self.on.take().expect("it is on");
        port.write_all(format!("{line}\n").as_bytes()).expect("type");
        let start = Instant::now();
        while child.try_wait().expect("look at qemu").is_none() {
            if start.elapsed() > limit {
                child.kill().expect("kill qemu");
                child.wait().expect("wait for qemu");
                panic!("still on after {limit:?}; the console says {}", self.console());
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// A file of a machine that is off.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<String> {
        assert!(self.on.is_none(), "it is on");
        let mut debugfs = Command::new("debugfs");
        let said = run(debugfs.args(["-R", &format!("cat {path}")]).arg(self.dir.path().join("disk")));
        (!said.stderr.contains("File not found")).then_some(said.stdout)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some((_, port)) = &mut self.on
        {
            // Into a shell that may be busy: what comes within some seconds is better than nothing.
            let mut said = String::new();
            let _typed = port.write_all(b"journalctl -o short-precise --no-pager -n 60\n");
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(15) {
                read(port, &mut said);
            }
            eprintln!("the machine's journal:\n{said}");
        }
        if let Some((mut child, _)) = self.on.take() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// Whether something came.
fn read(port: &mut UnixStream, said: &mut String) -> bool {
    let mut buffer = [0; 4096];
    match port.read(&mut buffer) {
        Ok(0) => panic!("qemu has ended; last it said {said}"),
        Ok(n) => {
            said.push_str(&String::from_utf8_lossy(&buffer[..n]).replace('\r', ""));
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("read from the machine: {error}"),
    }
}
