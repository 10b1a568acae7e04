//! Certificates, keys and directories of this node are made and repaired.
//!
//! Runs at each start of the API's services, and when a cluster is made or joined. What is as it
//! should be is not written again. All nodes may do it at once: what they share is changed under a
//! lock of the cluster, after another look.
//!
//! Invariant: without the mount nothing is changed, without quorum only files of the node alone.

#[cfg(test)]
mod tests;

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::change::need_root;
use super::show;
use crate::cert::{self, Facts};
use crate::cli::Updatecerts;
use crate::failure::{Failure, Outcome, code};
use crate::host::changes::{Changes, Mode};
use crate::host::files::{self, KEY, PUBLIC, SECRET, failed};
use crate::host::lock::{ClusterLock, NodeLock};
use crate::host::pve::{self, State};
use crate::host::wait::{now, until};
use crate::host::{Host, Paths};
use crate::ssh;
use crate::tell::{announce, tell};
use crate::value::NodeName;

/// The cluster's lock for files that nodes share.
pub const LOCK: &str = "updatecerts";
/// What is written under the lock is written within this time, before the lock frees itself.
const LOCK_USE: Duration = Duration::from_secs(100);
/// How long quorum is waited for: shorter than services may take to start.
pub const PATIENCE: Duration = Duration::from_secs(80);
/// What else may take its time, before a cluster file system counts as hung.
const GRACE: Duration = Duration::from_secs(8);
/// How often the user is told that the wait goes on.
const REMIND: Duration = Duration::from_secs(5);
/// Mode of new directories; the cluster file system sets its own.
const DIRECTORY: u32 = 0o755;
/// What each node has in its directory.
const OF_NODE: [&str; 5] = ["", "lxc", "qemu-server", "openvz", "priv"];
/// Directories of the files that all nodes watch.
const OBSERVED: [&str; 7] = [
    "ha",
    "mapping",
    "priv",
    "priv/acme",
    "firewall",
    "sdn",
    "virtual-guest",
];
/// First content of the schedule of backups.
const SCHEDULE: &str = "# cluster wide vzdump cron schedule\n\
                        # Automatically generated file - do not edit\n\n\
                        PATH=\"/usr/sbin:/usr/bin:/sbin:/bin\"\n\n";

/// How the cluster's files are brought up to date.
#[derive(Clone, Copy, Debug)]
pub struct UpdateOptions {
    /// Make a new certificate of this node.
    pub force: bool,
    /// Show no progress.
    pub silent: bool,
    /// Give this node its own file of known hosts.
    pub unmerge_known_hosts: bool,
    /// Show what would be done, and do nothing.
    pub dry_run: bool,
    /// How long the lock of the cluster is waited for.
    pub patience: Duration,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self {
            force: false,
            silent: false,
            unmerge_known_hosts: false,
            dry_run: false,
            patience: PATIENCE,
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// How many things were changed.
    pub changes: usize,
    /// Whether this node has got a new certificate: who serves it has to read it again.
    pub new_certificate: bool,
}

/// Why the verb stops.
enum Stop {
    /// The cluster was not ready in time: no failure for who starts services.
    Late(Failure),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Does what the command line says.
///
/// # Errors
/// When the mount is not there, quorum does not come in time (unless silent), or something can not
/// be made.
pub fn run(host: &Host, args: &Updatecerts) -> Outcome {
    need_root()?;
    let options = UpdateOptions {
        force: args.force,
        silent: args.silent,
        unmerge_known_hosts: args.unmerge_known_hosts,
        dry_run: args.dry_run,
        patience: Duration::from_secs(args.timeout),
    };
    match within(host, options) {
        Err(Stop::Late(failure)) if args.silent => {
            tell(&failure.to_string());
            Ok(())
        }
        Err(Stop::Late(failure) | Stop::Failed(failure)) => Err(failure),
        Ok(()) => Ok(()),
    }
}

/// Makes what this node needs on its own disk: root's SSH key and settings, and no permissions for
/// others on the cluster's key.
///
/// # Errors
/// When something can not be made.
pub fn prepare_local(host: &Host) -> Outcome {
    let _lock = NodeLock::take(&node_lock(&host.paths))?;
    let mut changes = Changes::new(host, Mode::Make, false);
    local_steps(&mut changes, false)?;
    report(&changes);
    Ok(())
}

/// Makes what this node needs in the cluster's files, and links to it.
///
/// # Errors
/// When there is no quorum, the lock is not free in time, or something can not be made. What can be
/// made is made all the same.
pub fn cluster_files(host: &Host, options: UpdateOptions) -> Outcome<Updated> {
    match update(host, options, &Facts::of(host)) {
        Ok(updated) => Ok(updated),
        Err(Stop::Late(failure) | Stop::Failed(failure)) => Err(failure),
    }
}

/// Directories that a node has in the cluster.
#[must_use]
pub fn directories_of(paths: &Paths, name: &NodeName) -> Vec<std::path::PathBuf> {
    let mut directories = vec![paths.pve("priv")];
    directories.extend(OF_NODE.map(|directory| paths.node(name.as_str(), directory)));
    directories
}

/// All of it. What touches the mount has a limit; making keys on a slow machine has none.
fn within(host: &Host, options: UpdateOptions) -> Result<(), Stop> {
    let paths = host.paths.clone();
    timed(GRACE, move || Ok(pve::need_mount(&paths)?))?;
    if !options.dry_run {
        let _lock = NodeLock::take(&node_lock(&host.paths)).map_err(Stop::Late)?;
        let mut changes = Changes::new(host, Mode::Make, options.silent);
        local_steps(&mut changes, options.silent)?;
        report(&changes);
    }
    let host = host.clone();
    timed(options.patience + GRACE, move || shared(&host, options))
}

/// On a thread of its own: a cluster file system that hangs must not hang the start of services as
/// well.
fn timed(
    limit: Duration,
    work: impl FnOnce() -> Result<(), Stop> + Send + 'static,
) -> Result<(), Stop> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        drop(sender.send(work()));
    });
    match receiver.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(Stop::Late(Failure::failed(LATE))),
        Err(RecvTimeoutError::Disconnected) => {
            Err(Failure::failed("updating certificates ended unexpectedly").into())
        }
    }
}

const LATE: &str = "got timeout when trying to ensure cluster certificates and base file hierarchy \
                    is set up - no quorum (yet) or hung pmxcfs?";

fn shared(host: &Host, options: UpdateOptions) -> Result<(), Stop> {
    let end = now() + options.patience;
    if options.dry_run {
        return dry_run(host, options);
    }
    await_quorum(host, options)?;
    let left = UpdateOptions {
        patience: end.saturating_duration_since(now()),
        ..options
    };
    update(host, left, &Facts::of(host)).map(drop)
}

fn dry_run(host: &Host, options: UpdateOptions) -> Result<(), Stop> {
    let mut local = Changes::new(host, Mode::Say, options.silent);
    local_steps(&mut local, options.silent)?;
    report(&local);
    let updated = update(host, options, &Facts::of(host))?;
    if local.found().is_empty() && updated.changes == 0 {
        show("nothing to do\n")?;
    }
    if pve::state(&host.paths) != State::Writable {
        tell("there is no quorum now: what is in the cluster's files would wait for it");
    }
    Ok(())
}

fn await_quorum(host: &Host, options: UpdateOptions) -> Result<(), Stop> {
    let mut told = now();
    let ready = until(options.patience, || {
        let ready = pve::state(&host.paths) == State::Writable;
        if !ready && !options.silent && told.elapsed() >= REMIND {
            told = now();
            tell("waiting for pmxcfs mount to appear and get quorate...");
        }
        ready.then_some(())
    });
    ready.ok_or_else(|| Stop::Late(Failure::no_quorum(LATE)))
}

/// Looks first, and takes the locks only if something is to be done.
fn update(host: &Host, options: UpdateOptions, facts: &Facts) -> Result<Updated, Stop> {
    if options.dry_run {
        let mut changes = Changes::new(host, Mode::Say, options.silent);
        let new_certificate = shared_steps(&mut changes, options, facts);
        report(&changes);
        return Ok(Updated {
            changes: changes.found().len(),
            new_certificate: new_certificate?,
        });
    }
    pve::need_quorum(&host.paths)?;
    let _own = NodeLock::take(&node_lock(&host.paths)).map_err(Stop::Late)?;
    let mut looked = Changes::new(host, Mode::Look, options.silent);
    let found = shared_steps(&mut looked, options, facts);
    if looked.found().is_empty() {
        report(&looked);
        found?;
        if !options.silent {
            announce("certificates, keys and directories are as they should be");
        }
        return Ok(Updated::default());
    }
    let _lock = take(&host.paths, options.patience).map_err(Stop::Late)?;
    let end = now() + LOCK_USE;
    let mut changes = Changes::new(host, Mode::Make, options.silent).before(end);
    let new_certificate = shared_steps(&mut changes, options, facts);
    report(&changes);
    Ok(Updated {
        changes: changes.found().len(),
        new_certificate: new_certificate?,
    })
}

/// Takes the lock, for as long as there is time: all nodes of a big cluster may start at once.
fn take(paths: &Paths, patience: Duration) -> Outcome<ClusterLock> {
    let end = now() + patience;
    loop {
        match ClusterLock::take(&paths.pve("priv/lock"), LOCK) {
            Err(failure) if failure.code() == code::REFUSED && now() < end => {}
            taken => return taken,
        }
    }
}

fn node_lock(paths: &Paths) -> std::path::PathBuf {
    paths.at("var/lock/pvecm-updatecerts.lock")
}

fn report(changes: &Changes<'_>) {
    for warning in changes.warnings() {
        tell(&format!("warning: {warning}"));
    }
}

fn local_steps(changes: &mut Changes<'_>, silent: bool) -> Outcome {
    let paths = &changes.host().paths;
    ssh::prepare(changes, silent)?;
    changes.protected(&paths.corosync("authkey"), KEY)
}

/// What is in the cluster's files, and what links to it. Returns whether this node has got a new
/// certificate. A step that fails does not keep the others from being done.
fn shared_steps(changes: &mut Changes<'_>, options: UpdateOptions, facts: &Facts) -> Outcome<bool> {
    changes.progress("(re)generate node files");
    let name = changes.host().name.clone();
    directories(changes, &name)?;
    if options.force {
        changes.progress("generate new node certificate");
    }
    let certificate = cert::update(changes, facts, options.force);
    changes.progress("merge authorized SSH keys");
    let merged = ssh::merge(changes);
    let unmerged = if options.unmerge_known_hosts {
        changes.progress("unmerge SSH known hosts");
        ssh::unmerge(changes)
    } else {
        Ok(())
    };
    let pinned = ssh::pin(changes, facts.address.clone().ok());
    let schedule = schedule(changes);
    for directory in OBSERVED {
        let path = changes.host().paths.pve(directory);
        if !path.is_dir() {
            let shown = path.display();
            changes.progress(&format!("creating directory '{shown}' for observed files"));
            changes.directory(&path, DIRECTORY)?;
        }
    }
    merged.and(unmerged).and(pinned).and(schedule)?;
    certificate
}

fn directories(changes: &mut Changes<'_>, name: &NodeName) -> Outcome {
    for directory in directories_of(&changes.host().paths, name) {
        changes.directory(&directory, DIRECTORY)?;
    }
    Ok(())
}

fn schedule(changes: &mut Changes<'_>) -> Outcome {
    let path = changes.host().paths.pve("vzdump.cron");
    if !path.exists() {
        changes.file(&path, SCHEDULE.as_bytes(), PUBLIC)?;
    }
    schedule_link(changes)
}

/// Files on this node's own disk that [`cluster_files`] may change, apart from those of SSH.
#[must_use]
pub fn own_files(paths: &Paths) -> [std::path::PathBuf; 2] {
    ["etc/cron.d/vzdump", "root/etc_cron_vzdump.org"].map(|file| paths.at(file))
}

/// The node's table of regular jobs has the cluster's schedule. A file that was in its place is kept.
fn schedule_link(changes: &mut Changes<'_>) -> Outcome {
    let paths = &changes.host().paths;
    let [link, kept] = own_files(paths);
    let schedule = paths.pve("vzdump.cron");
    let has_directory = link.parent().is_some_and(std::path::Path::is_dir);
    if !schedule.exists() || !has_directory || link.is_symlink() {
        return Ok(());
    }
    if link.exists() && changes.due(format!("move '{}' to '{}'", link.display(), kept.display()))? {
        // Copied first: the two may be on different disks.
        let content = files::read(&link)?.unwrap_or_default();
        files::replace(&kept, &content, SECRET)?;
        fs::remove_file(&link).map_err(|error| failed("remove", &link, &error))?;
    }
    changes.link(&link, &schedule)
}
