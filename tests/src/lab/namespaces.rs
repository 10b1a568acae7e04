//! A set of kernel namespaces, kept alive by a process 1 of its own.
//!
//! Only threads made for the purpose enter namespaces, and end there: namespaces belong to threads,
//! and what such a thread starts is born inside. This needs no code between fork and exec.
//!
//! Invariant: process 1 ends when the pipe to it closes, so when this process ends in any way, and
//! with it the kernel kills every process of the namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeWriter, pipe};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;

use super::requirements::PATH;

/// What process 1 does: reap orphans, which the shell does by itself, until the pipe closes.
const INIT: &str = "mount -t proc proc /proc && echo ready && while read -r _; do :; done";

/// Kinds of namespace, in the order of entering: the view of the file system comes last, since
/// the others are opened by paths of the machine.
const KINDS: [(CloneFlags, &str); 5] = [
    (CloneFlags::CLONE_NEWNET, "net"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::CLONE_NEWNS, "mnt"),
];

/// Namespaces of all five kinds, and their process 1.
#[derive(Debug)]
pub(super) struct Namespaces {
    pid: u32,
    alive: Mutex<Option<Alive>>,
}

#[derive(Debug)]
struct Alive {
    init: Child,
    _lifeline: PipeWriter,
    _stdout: BufReader<ChildStdout>,
    files: Vec<(CloneFlags, File)>,
}

impl Namespaces {
    /// Makes new ones. `setup` runs inside, before anything else does.
    pub(super) fn new(setup: impl FnOnce() -> Result<()> + Send) -> Result<Self> {
        let (reader, lifeline) = pipe()?;
        let mut init = in_thread(move || {
            let all = KINDS
                .iter()
                .fold(CloneFlags::empty(), |flags, (kind, _)| flags | *kind);
            unshare(all).context("the kernel refuses new namespaces")?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .context("cannot make mounts private")?;
            setup()?;
            command("bash")
                .args(["-c", INIT])
                .stdin(reader)
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start process 1")
        })?;
        let mut stdout = BufReader::new(init.stdout.take().context("process 1 has no stdout")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if line != "ready\n" {
            init.kill()?;
            bail!("process 1 of a host did not start: {}", init.wait()?);
        }
        let pid = init.id();
        let files = KINDS
            .iter()
            .map(|(kind, name)| Ok((*kind, File::open(format!("/proc/{pid}/ns/{name}"))?)))
            .collect::<Result<_>>()?;
        let alive = Alive {
            init,
            _lifeline: lifeline,
            _stdout: stdout,
            files,
        };
        Ok(Self {
            pid,
            alive: Mutex::new(Some(alive)),
        })
    }

    /// Process 1, as the machine sees it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs `f` on a thread inside all namespaces.
    pub(super) fn inside<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.enter(CloneFlags::all(), f)
    }

    /// Runs `f` on a thread inside the network namespace alone: it sees the machine's processes.
    pub(super) fn inside_net<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.enter(CloneFlags::CLONE_NEWNET, f)
    }

    fn enter<T: Send>(&self, which: CloneFlags, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let files = self.files(which)?;
        in_thread(move || {
            unshare(CloneFlags::CLONE_FS)?;
            for (kind, file) in &files {
                setns(file, *kind).context("cannot enter a namespace")?;
            }
            f()
        })
    }

    fn files(&self, which: CloneFlags) -> Result<Vec<(CloneFlags, File)>> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = alive.as_ref().context("the host is powered off")?;
        let wanted = alive.files.iter().filter(|(kind, _)| which.contains(*kind));
        wanted
            .map(|(kind, file)| Ok((*kind, file.try_clone()?)))
            .collect()
    }

    /// Kills all processes inside. `reap` waits for those that are children of this process: the
    /// kernel lets process 1 go only after all others.
    pub(super) fn kill(&self, reap: impl FnOnce()) {
        let alive = self
            .alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Alive { mut init, .. }) = alive else {
            return;
        };
        if let Err(error) = init.kill() {
            eprintln!("cannot kill process {} of a test host: {error}", self.pid);
        }
        reap();
        if let Err(error) = init.wait() {
            eprintln!(
                "cannot wait for process {} of a test host: {error}",
                self.pid
            );
        }
    }
}

/// A command with the environment of a host.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .env_remove("NOTIFY_SOCKET")
        .current_dir("/");
    command
}

/// Runs a command to its end; its error output is part of the error.
pub(super) fn run(mut command: Command, input: &str) -> Result<()> {
    let (reader, mut writer) = pipe()?;
    let child = command
        .stdin(reader)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    // The command holds a copy of the reading end: without it, a write to an ended child fails.
    drop(command);
    let written = std::io::Write::write_all(&mut writer, input.as_bytes());
    drop(writer);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}\ninput:\n{input}",
        output.status,
        text.trim()
    );
    written.context("the command did not read its input")
}

/// Programs inherit the signal mask; one that this process has for itself is not meant for them.
fn in_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let unmasked = || {
        SigSet::empty().thread_set_mask()?;
        f()
    };
    thread::scope(|scope| scope.spawn(unmasked).join())
        .map_err(|_| anyhow!("a thread in a namespace panicked"))?
}
