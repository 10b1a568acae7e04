//! The order in which the daemon starts and ends. It is that of Corosync, so that the first thing
//! that is wrong is the same one.

use std::path::{Path, PathBuf};

use super::background::{self, Parent, Side};
use super::cli::{Cli, code};
use super::conf::{self, ReadError};
use super::lock::{InstanceLock, LockError};
use super::logging::{Log, Settings};
use super::process::{self, Scheduling};
use crate::clock;
use crate::config::Config;
use crate::host::ThisHost;
use crate::proto::node::{Node, NodeError, ShutdownReason, Stored};
use crate::qb::{Options, Server, remove_leftovers};
use crate::runtime::{End, Parts, Runtime, RuntimeError, Signals};
use crate::store::{StateStore, StoreError};
use crate::wire::NodeId;

const STATE_DIR: &str = "/var/lib/corosync";
/// Set by systemd.
const STATE_DIR_VARIABLE: &str = "STATE_DIRECTORY";
/// Where rings of clients are.
const RINGS: &str = "/dev/shm";

/// Why the daemon ends before its time.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl ToString) -> Self {
        Self {
            code,
            text: text.to_string(),
        }
    }
}

/// Runs the daemon, or checks the configuration. Gives the exit code.
#[must_use]
pub fn run(cli: &Cli) -> u8 {
    let config = match conf::config(&cli.config, &ThisHost) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if cli.test {
        return judge(&config);
    }
    let settings = Settings::read(&config.keys);
    // Until it serves, a daemon in the background has the terminal to tell why it does not.
    let log = match Log::start(settings, true) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("corosync-lite: logging can not be started: {error}");
            return code::LOGGING;
        }
    };
    let parent = if cli.foreground {
        Parent::none()
    } else {
        match background::detach(code::FATAL) {
            Ok(Side::Parent(code)) => return code,
            Ok(Side::Daemon(parent)) => parent,
            Err(error) => {
                tracing::error!(target: "MAIN", "no process for the background: {error}");
                return code::FORK;
            }
        }
    };
    let code = match serve(cli, &config, &log, parent) {
        Ok(code) => code,
        Err(failure) => {
            tracing::error!(target: "MAIN", "{}", failure.text);
            tracing::error!(
                target: "MAIN",
                "Corosync Cluster Engine exiting with status {}",
                failure.code
            );
            failure.code
        }
    };
    log.finish();
    code
}

/// What a start would say of a configuration that can be read. Gives the exit code that it would
/// have.
fn judge(config: &Config) -> u8 {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let scheduling = scheduling(config).map(|_| ());
    match scheduling.and_then(|()| new_node(config, Stored::default()).map(|_| ())) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("error: {}", failure.text);
            failure.code
        }
    }
}

/// Tells of a configuration that can not be used: to whoever sees the terminal, and to the log of
/// the host.
fn refuse(error: &ReadError) -> u8 {
    eprint!("{}", error.render());
    let settings = Settings::default();
    if Log::start(settings, false).is_ok() {
        tracing::error!(target: "MAIN", "{error}");
    }
    error.exit_code()
}

fn serve(cli: &Cli, config: &Config, log: &Log, mut parent: Parent) -> Result<u8, Failure> {
    tracing::info!(
        target: "MAIN",
        "Corosync Cluster Engine (corosync-lite {}) starting up",
        env!("CARGO_PKG_VERSION")
    );
    for warning in &config.warnings {
        tracing::warn!(target: "MAIN", "{warning}");
    }
    if config.keys.text("system.qb_ipc_type") == Some("socket") {
        tracing::warn!(
            target: "MAIN",
            "system.qb_ipc_type: 'socket' is not supported, clients get shared memory"
        );
    }
    let fatal = |error: &dyn std::fmt::Display| Failure::new(code::FATAL, error);
    let signals = Signals::take().map_err(|error| fatal(&error))?;
    log.start_thread()
        .map_err(|error| Failure::new(code::LOGGING, error))?;
    set_up_process(config)?;
    let lock = InstanceLock::acquire(&absolute(&cli.pid_file)).map_err(|error| match &error {
        LockError::Running { .. } => Failure::new(code::RUNNING, &error),
        LockError::File { .. } => Failure::new(code::LOCK, &error),
    })?;
    if let Some(pid) = lock.predecessor() {
        // Of a daemon that was killed: nobody else removes them.
        let removed = remove_leftovers(Path::new(RINGS), pid).unwrap_or(0);
        tracing::info!(
            target: "MAIN",
            "process {pid} did not end in order; files of {removed} of its clients were removed"
        );
    }
    // Before the working directory changes: reloads read it again.
    let config_file = absolute(&cli.config);
    let (store, stored, state_lock) = open_store(cli, config)?;
    let node = new_node(config, stored)?;
    let server = Server::new(Options::default()).map_err(|error| fatal(&error))?;
    let runtime = Runtime::new(Parts {
        node,
        store,
        server,
        signals,
        log: log.clone(),
        config: config_file,
    });
    let runtime = runtime.map_err(|error| runtime_failure(&error))?;
    let end = runtime.run(|| {
        if let Err(error) = parent.ready() {
            tracing::warn!(target: "MAIN", "the terminal can not be let go of: {error}");
        }
        notify(sd_notify::NotifyState::Ready);
    });
    notify(sd_notify::NotifyState::Stopping);
    let end = end.map_err(|error| runtime_failure(&error))?;
    drop((lock, state_lock));
    let code = exit_code(&end);
    match code {
        0 => tracing::info!(target: "MAIN", "Corosync Cluster Engine exiting normally"),
        code => {
            tracing::info!(target: "MAIN", "Corosync Cluster Engine exiting with status {code}");
        }
    }
    Ok(code)
}

/// Of a daemon whose loop has ended on its own.
fn exit_code(end: &End) -> u8 {
    match end {
        End::Shutdown(ShutdownReason::Killed { .. }) => code::KILLED,
        End::Signal(_) | End::Shutdown(_) => 0,
    }
}

fn set_up_process(config: &Config) -> Result<(), Failure> {
    let scheduling = scheduling(config)?;
    process::raise_descriptor_limit();
    let results = [process::protect_key(), process::lock_memory()];
    let refused = results.into_iter().filter_map(Result::err);
    for text in refused.chain(scheduling.apply()) {
        tracing::warn!(target: "MAIN", "{text}");
    }
    Ok(())
}

fn scheduling(config: &Config) -> Result<Scheduling, Failure> {
    Scheduling::read(&config.keys).map_err(|text| Failure::new(code::CONFIG, text))
}

fn open_store(cli: &Cli, config: &Config) -> Result<(StateStore, Stored, InstanceLock), Failure> {
    let named = config.keys.text("system.state_dir");
    let directory = cli
        .state_dir
        .clone()
        .or_else(|| named.map(PathBuf::from))
        .or_else(|| std::env::var_os(STATE_DIR_VARIABLE).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let failure = |error: StoreError| {
        let code = match error {
            StoreError::Directory { .. } => code::STATE_DIR,
            StoreError::Read { .. } | StoreError::Write { .. } => code::RING_ID,
        };
        Failure::new(code, error)
    };
    let in_use = |error: LockError| {
        let code = match error {
            LockError::Running { .. } => code::RUNNING,
            LockError::File { .. } => code::STATE_DIR,
        };
        Failure::new(code, format!("state directory: {error}"))
    };
    let id = config.local_node().map_or(0, |node| node.id);
    let directory = absolute(&directory);
    StateStore::make_directory(&directory).map_err(failure)?;
    let lock = InstanceLock::of_state(&directory).map_err(in_use)?;
    let store = StateStore::open(&directory, NodeId(id)).map_err(failure)?;
    // The daemon keeps no other directory from being unmounted.
    std::env::set_current_dir(&directory).map_err(|error| {
        Failure::new(code::STATE_DIR, format!("{}: {error}", directory.display()))
    })?;
    let stored = store.load().map_err(failure)?;
    Ok((store, stored, lock))
}

fn new_node(config: &Config, stored: Stored) -> Result<Node, Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|_| Failure::new(code::FATAL, "the system has no random numbers"))?;
    Node::new(config, stored, seed, clock::since_boot(), clock::now()).map_err(
        |error| match error {
            NodeError::Quorum(conflict) => Failure::new(
                code::SERVICES,
                format!("Service engine 'corosync_quorum' failed to load for reason '{conflict}'"),
            ),
            other => Failure::new(code::CONFIG, other),
        },
    )
}

fn runtime_failure(error: &RuntimeError) -> Failure {
    let code = match error {
        RuntimeError::Store(_) => code::RING_ID,
        RuntimeError::System { error, .. } if error.kind() == std::io::ErrorKind::AddrInUse => {
            code::RUNNING
        }
        RuntimeError::System { .. } => code::FATAL,
    };
    Failure::new(code, error)
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(target: "MAIN", "the service manager can not be told: {error}");
    }
}

/// The file is read again at each reload, wherever the process is by then.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_says_what_a_start_would_say() {
        let verdict = |totem: &str, quorum: &str| {
            let text = format!(
                "totem {{\n  version: 2\n  transport: knet\n  {totem}\n}}\nnodelist {{\n  node {{\n    \
                 ring0_addr: 127.0.0.1\n    nodeid: 1\n  }}\n}}\nquorum {{\n  \
                 provider: corosync_votequorum\n  {quorum}\n}}\n"
            );
            let document = crate::config::Document::parse(text.as_bytes()).unwrap();
            let keys = crate::config::Keys::read(&document, &ThisHost).unwrap();
            judge(&Config::from_keys(keys, &ThisHost).unwrap())
        };
        assert_eq!(verdict("", ""), 0);
        assert_eq!(verdict("knet_compression_model: zlib", ""), code::CONFIG);
        let both = "last_man_standing: 1\n  device {\n    model: net\n    votes: 1\n  }";
        assert_eq!(verdict("", both), code::SERVICES);
    }

    #[test]
    fn only_who_was_killed_ends_with_a_failure() {
        let killed = ShutdownReason::Killed {
            by: NodeId(2),
            reason: "test".to_owned(),
        };
        assert_eq!(exit_code(&End::Shutdown(killed)), 255);
        assert_eq!(exit_code(&End::Shutdown(ShutdownReason::Requested)), 0);
        assert_eq!(
            exit_code(&End::Signal(nix::sys::signal::Signal::SIGTERM)),
            0
        );
    }
}
