//! Starting and ending services.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::unit::{Kind, Unit};
use crate::wait::{eventually, eventually_ok};

/// Where a host has the output of its services: a file `NAME.log` each.
pub const LOGS: &str = "/var/lib/lab";
/// Where the numbers of running services are.
const STATE: &str = "/run/lab";
/// Systemd's limits.
const START_DEADLINE: Duration = Duration::from_secs(90);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Code of systemd's `is-active` for a service that does not run.
const INACTIVE: u8 = 3;

/// Does what a command line of `systemctl` says, without its first word.
///
/// # Errors
/// When a service is not known, or does not do what it is told.
pub fn systemctl(args: &[String]) -> Result<ExitCode> {
    let mut words = args.iter().filter(|word| !word.starts_with("--"));
    let verb = words.next().context("no verb")?.as_str();
    if verb == "daemon-reload" {
        return Ok(ExitCode::SUCCESS);
    }
    let units: Vec<Unit> = words.map(|name| Unit::load(name)).collect::<Result<_>>()?;
    ensure!(!units.is_empty(), "no units");
    let _one_at_a_time = lock()?;
    match verb {
        "start" => start(units)?,
        "stop" => stop(&ordered(units))?,
        "restart" => {
            stop(&ordered(units.clone()))?;
            start(units)?;
        }
        "reload" | "reload-or-restart" => {
            for unit in units {
                reload(unit, verb == "reload")?;
            }
        }
        "try-reload-or-restart" => {
            let running = units.into_iter().filter(|unit| unit.running().is_some());
            for unit in running {
                reload(unit, false)?;
            }
        }
        "is-active" => return Ok(is_active(&units)),
        // Of all properties the one that is asked for.
        "show" => units
            .iter()
            .for_each(|unit| println!("ActiveState={}", state(unit))),
        "enable" | "disable" | "reset-failed" => {}
        _ => bail!("a test host's systemctl knows no '{verb}'"),
    }
    Ok(ExitCode::SUCCESS)
}

fn lock() -> Result<File> {
    fs::create_dir_all(STATE)?;
    fs::create_dir_all(LOGS)?;
    let file = File::create(Path::new(STATE).join("lock"))?;
    file.lock()?;
    Ok(file)
}

/// Those that come before others first.
fn ordered(mut units: Vec<Unit>) -> Vec<Unit> {
    let mut sorted: Vec<Unit> = Vec::new();
    while !units.is_empty() {
        let is_first = |unit: &Unit| {
            let earlier = |other: &Unit| other.before.contains(&unit.name);
            !units.iter().any(earlier)
        };
        // Units in a circle go in any order.
        let at = units.iter().position(is_first).unwrap_or(0);
        sorted.push(units.remove(at));
    }
    sorted
}

/// Starts units and those that they want, of which nobody minds if they do not start.
fn start(mut units: Vec<Unit>) -> Result<()> {
    let asked: Vec<String> = units.iter().map(|unit| unit.name.clone()).collect();
    let mut seen = 0;
    while let Some(unit) = units.get(seen) {
        let wanted = unit.wants.iter().filter_map(|name| Unit::load(name).ok());
        let new: Vec<Unit> = wanted
            .filter(|wanted| !units.iter().any(|unit| unit.name == wanted.name))
            .collect();
        units.extend(new);
        seen += 1;
    }
    for unit in ordered(units) {
        let started = unit.start();
        if asked.contains(&unit.name) {
            started?;
        }
    }
    Ok(())
}

fn stop(units: &[Unit]) -> Result<()> {
    units.iter().rev().try_for_each(Unit::stop)
}

fn reload(unit: Unit, only: bool) -> Result<()> {
    match (&unit.reload, unit.running()) {
        (Some(command), Some(pid)) => {
            let pid = pid.to_string();
            let words = command.iter().map(|word| word.replace("$MAINPID", &pid));
            unit.run(&words.collect::<Vec<_>>())
        }
        _ if only => bail!("Job type reload is not applicable for unit {}.", unit.name),
        _ => {
            unit.stop()?;
            start(vec![unit])
        }
    }
}

fn is_active(units: &[Unit]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for unit in units {
        if unit.running().is_none() {
            code = INACTIVE.into();
        }
        println!("{}", state(unit));
    }
    code
}

fn state(unit: &Unit) -> &'static str {
    if unit.running().is_some() {
        "active"
    } else {
        "inactive"
    }
}

impl Unit {
    fn state(&self) -> PathBuf {
        Path::new(STATE).join(format!("{}.pid", self.name))
    }

    fn log(&self) -> Result<File> {
        let path = Path::new(LOGS).join(format!("{}.log", self.name));
        Ok(File::options().create(true).append(true).open(path)?)
    }

    /// Its process, while that lives.
    fn running(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.state()).ok()?;
        let pid = Pid::from_raw(pid.trim().parse().ok()?);
        is_alive(pid).then_some(pid)
    }

    fn command(&self, words: &[String]) -> Result<Command> {
        let (program, args) = words.split_first().context("an empty command line")?;
        let log = self.log()?;
        let mut command = Command::new(program);
        command
            // A variable of an environment file that the host does not have is empty.
            .args(args.iter().filter(|word| !word.starts_with('$')))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        Ok(command)
    }

    /// Runs one of its commands to the end.
    fn run(&self, words: &[String]) -> Result<()> {
        let status = self.command(words)?.status();
        let status = status.with_context(|| format!("cannot run {words:?}"))?;
        ensure!(status.success(), "{words:?}: {status}");
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let mut conditions = self.conditions.iter();
        let is_wanted = conditions.all(|(path, there)| path.exists() == *there);
        if !is_wanted || self.running().is_some() {
            return Ok(());
        }
        for words in &self.prepare {
            let mut words = words.clone();
            let may_fail = words.first().is_some_and(|word| word.starts_with('-'));
            if let Some(first) = words.first_mut().filter(|_| may_fail) {
                first.remove(0);
            }
            let done = self.run(&words);
            if !may_fail {
                done?;
            }
        }
        self.launch().with_context(|| {
            let log = Path::new(LOGS).join(format!("{}.log", self.name));
            let log = fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!("Job for {}.service failed.\n{}", self.name, tail.join("\n"))
        })
    }

    fn launch(&self) -> Result<()> {
        let mut command = self.command(&self.start)?;
        match self.kind {
            Kind::Simple => {
                let child = command.spawn()?;
                fs::write(self.state(), child.id().to_string())?;
            }
            Kind::Notify => {
                let path = Path::new(STATE).join(format!("{}.notify", self.name));
                drop(fs::remove_file(&path));
                let socket = UnixDatagram::bind(&path)?;
                socket.set_nonblocking(true)?;
                let mut child = command.env("NOTIFY_SOCKET", &path).spawn()?;
                fs::write(self.state(), child.id().to_string())?;
                if let Err(error) = await_ready(&socket, &mut child) {
                    drop(child.kill());
                    return Err(error);
                }
            }
            Kind::Forking => {
                let status = command.status()?;
                ensure!(status.success(), "{status}");
                let path = self.pid_file.as_ref().context("no PIDFile=")?;
                let pid = eventually_ok(START_DEADLINE, "the number of the process", || {
                    Ok(fs::read_to_string(path)?)
                })?;
                fs::write(self.state(), pid)?;
            }
        }
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        let Some(pid) = self.running() else {
            return Ok(());
        };
        if let Some(command) = &self.stop {
            // What it does not end is ended below.
            drop(self.run(command));
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => bail!("{signal} to {}: {error}", self.name),
            }
            if eventually(STOP_DEADLINE, "its end", || !is_alive(pid)).is_ok() {
                return Ok(());
            }
        }
        bail!("{} does not end", self.name)
    }
}

/// Waits until a service says that it is ready.
fn await_ready(socket: &UnixDatagram, child: &mut Child) -> Result<()> {
    let mut ended = None;
    eventually(START_DEADLINE, "a service that says READY=1", || {
        let mut text = [0; 4096];
        let said = socket.recv(&mut text).unwrap_or(0);
        let said = text.get(..said).unwrap_or_default();
        ended = child.try_wait().ok().flatten();
        ended.is_some() || said.split(|byte| *byte == b'\n').any(|it| it == b"READY=1")
    })?;
    ended.map_or(Ok(()), |status| bail!("it ended: {status}"))
}

/// A process that nobody has waited for yet has ended all the same.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}
