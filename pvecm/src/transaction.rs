//! Changes of this node that are put back when a later step fails.
//!
//! What is about to change is first copied below one directory, on disk before the change is made.
//! When the command fails it puts everything back; when it was killed, the next one does. It does so
//! only soon after, and before the system starts anew: the copies of a file, above all of the database,
//! must not take the place of what was changed long since. Then the user says which of the two it is.
//!
//! What is put back leaves the journal at once, so that what could not be put back is all that is tried
//! again.
//!
//! The cluster's configuration is put back as a version that is newer still, and only while it is what
//! the command has written: a change that somebody has made after that stays.
//!
//! Invariant: with no journal on disk, each change has either been made in whole or not at all.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use serde::{Deserialize, Serialize};

use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome};
use crate::host::files::{self, Owner, SECRET, failed};
use crate::host::lock::ClusterLock;
use crate::host::services::{self, Verb};
use crate::host::{Host, Paths, calendar, clusterconf, ring, wait};

/// Nodes take a configuration within this time, when several are put back one after the other.
const STEP_PATIENCE: Duration = Duration::from_secs(10);
/// Who is told of a change that was broken off this long ago decides what becomes of it.
const RECENT: Duration = Duration::from_secs(900);
/// The journal inside the directory.
const JOURNAL: &str = "journal.json";

/// Changes that are not for good yet.
#[derive(Debug)]
#[must_use = "changes are put back unless they are kept"]
pub struct Transaction {
    directory: PathBuf,
    journal: Journal,
    /// Held until the changes are kept or put back.
    lock: Option<ClusterLock>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Journal {
    /// What the user asked for, to name it later.
    command: String,
    /// The start of the system that it belongs to.
    #[serde(default)]
    boot: String,
    /// When it was written last, in seconds since 1970.
    #[serde(default)]
    at: u64,
    undo: Vec<Undo>,
}

/// How one change is put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Undo {
    /// Nothing was there.
    Absent { path: PathBuf },
    /// A file was there; its content is in the journal's directory.
    File {
        path: PathBuf,
        copy: String,
        mode: u32,
        #[serde(default)]
        owner: Option<Owner>,
    },
    /// A symbolic link was there.
    Link { path: PathBuf, target: PathBuf },
    /// Services are told something.
    Services { verb: String, units: Vec<String> },
    /// Something was moved away, in whole.
    Moved { from: PathBuf, to: PathBuf },
    /// No directory was there.
    NoDirectory { path: PathBuf },
    /// The cluster's configuration was another one. The old one and all that took its place are in
    /// the journal's directory.
    Conf {
        path: PathBuf,
        old: String,
        new: Vec<String>,
        lock: Option<u64>,
    },
}

/// Who puts back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The command itself, which has the lock.
    Command,
    /// The next one.
    Next,
}

/// Tells services something: the verb, and whom.
pub type Control<'a> = &'a dyn Fn(&str, &[&str]) -> Outcome;

/// Directory of the journal.
#[must_use]
pub fn directory(paths: &Paths) -> PathBuf {
    paths.database("pvecm-undo")
}

/// A change that was broken off, and is not put back yet.
#[derive(Debug, PartialEq, Eq)]
pub struct BrokenOff {
    /// The command.
    pub command: String,
    /// When it was broken off, in words.
    pub when: String,
    /// What was changed since might be lost when it is put back.
    pub is_dated: bool,
    /// How it is put back, a step each.
    pub steps: Vec<String>,
}

/// A change that was broken off, and what could not be put back.
#[derive(Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The command that was broken off.
    pub command: String,
    /// Failures while putting back.
    pub failures: Vec<String>,
}

impl Transaction {
    /// Begins. `directory` belongs to the journal alone.
    ///
    /// # Errors
    /// When the journal can not be written, or an earlier one is still there ([`recover`] first).
    pub fn begin(directory: &Path, command: &str) -> Outcome<Self> {
        if directory.join(JOURNAL).exists() {
            return Err(Failure::refused(format!(
                "changes of an earlier command are not put back yet: 'pvecm undo' does that (copies of what was \
                 there before are in '{}')",
                directory.display()
            )));
        }
        files::make_directory(directory)?;
        let mut transaction = Self {
            directory: directory.to_owned(),
            journal: Journal {
                command: command.to_owned(),
                boot: boot(),
                at: 0,
                undo: Vec::new(),
            },
            lock: None,
        };
        transaction.write().inspect_err(|_| {
            // Nothing has begun.
            drop(fs::remove_dir(directory));
        })?;
        Ok(transaction)
    }

    /// Remembers what is at `path`, which is about to change.
    ///
    /// # Errors
    /// When it can not be copied; it must not be changed then.
    pub fn save(&mut self, path: &Path) -> Outcome {
        let undo = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Undo::Absent {
                path: path.to_owned(),
            },
            Err(error) => return Err(failed("look at", path, &error)),
            Ok(found) if found.is_symlink() => Undo::Link {
                path: path.to_owned(),
                target: fs::read_link(path).map_err(|error| failed("read", path, &error))?,
            },
            Ok(found) => {
                let content = fs::read(path).map_err(|error| failed("read", path, &error))?;
                let copy = format!("{}", self.journal.undo.len());
                files::replace(&self.directory.join(&copy), &content, SECRET)?;
                Undo::File {
                    path: path.to_owned(),
                    copy,
                    mode: found.mode() & 0o7777,
                    owner: None,
                }
            }
        };
        self.remember(undo)
    }

    /// Replaces a file, and remembers the old one.
    ///
    /// # Errors
    /// As [`files::replace`].
    pub fn replace(&mut self, path: &Path, content: &[u8], mode: u32) -> Outcome {
        self.save(path)?;
        files::replace(path, content, mode)
    }

    /// Replaces the content of a file that stays what it is otherwise: where it is if `path` is a
    /// symbolic link to it, and whose it is, and who may read it.
    ///
    /// # Errors
    /// When it is not there, and as [`files::replace`].
    pub fn rewrite(&mut self, path: &Path, content: &[u8]) -> Outcome {
        let place = fs::canonicalize(path).map_err(|error| failed("find", path, &error))?;
        let found = fs::metadata(&place).map_err(|error| failed("look at", path, &error))?;
        self.save(&place)?;
        let owner = (found.uid(), found.gid());
        if let Some(Undo::File { owner: saved, .. }) = self.journal.undo.last_mut() {
            *saved = Some(owner);
        }
        self.write()?;
        files::replace_as(&place, content, found.mode() & 0o7777, Some(owner))
    }

    /// Removes a file, and remembers it.
    ///
    /// # Errors
    /// As [`files::remove`].
    pub fn remove(&mut self, path: &Path) -> Outcome {
        self.save(path)?;
        files::remove(path)
    }

    /// Does something to services; putting it back does `undo` to them.
    ///
    /// # Errors
    /// What the service manager says.
    pub fn services(&mut self, verb: Verb, units: &[&str], undo: Verb) -> Outcome {
        self.services_with(&services::tell, verb, units, undo)
    }

    /// As [`Transaction::services`], with another service manager.
    ///
    /// # Errors
    /// What it says.
    pub fn services_with(
        &mut self,
        control: Control<'_>,
        verb: Verb,
        units: &[&str],
        undo: Verb,
    ) -> Outcome {
        self.remember(Undo::Services {
            verb: undo.word().to_owned(),
            units: units.iter().map(|&unit| unit.to_owned()).collect(),
        })?;
        control(verb.word(), units)
    }

    /// Moves a file away, into the journal's directory: it is gone when the changes are kept.
    /// Returns where it is until then. The directory must be on the file's file system.
    ///
    /// # Errors
    /// When it can not be moved, or the move not be remembered.
    pub fn move_away(&mut self, from: &Path) -> Outcome<PathBuf> {
        let to = self
            .directory
            .join(format!("moved-{}", self.journal.undo.len()));
        self.remember(Undo::Moved {
            from: from.to_owned(),
            to: to.clone(),
        })?;
        fs::rename(from, &to).map_err(|error| failed("move away", from, &error))?;
        Ok(to)
    }

    /// Makes a directory, and those above it, and remembers which were not there.
    ///
    /// # Errors
    /// As [`files::make_directory`].
    pub fn make_directory(&mut self, path: &Path) -> Outcome {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .take_while(|above| above.symlink_metadata().is_err())
            .map(Path::to_owned)
            .collect();
        for path in missing.into_iter().rev() {
            self.remember(Undo::NoDirectory { path })?;
        }
        files::make_directory(path)
    }

    /// Keeps a lock of the cluster's configuration as long as the changes are not for good.
    pub fn hold(&mut self, lock: Option<ClusterLock>) {
        self.lock = lock;
    }

    /// Gives the lock to who puts the changes back.
    pub fn release(&mut self) -> Option<ClusterLock> {
        self.lock.take()
    }

    /// Writes the cluster's configuration, and remembers the one before the first such change.
    ///
    /// # Errors
    /// When it can not be written, or not be remembered, or the lock is held no more.
    pub fn write_conf(&mut self, host: &Host, text: &[u8]) -> Outcome {
        let path = host.paths.cluster_conf();
        self.lock.as_ref().map_or(Ok(()), ClusterLock::renew)?;
        let lock = self.lock.as_ref().and_then(ClusterLock::number);
        let place =
            self.journal.undo.iter().position(
                |undo| matches!(undo, Undo::Conf { path: changed, .. } if *changed == path),
            );
        let number = match place {
            Some(place) => place,
            None => {
                let number = self.journal.undo.len();
                let old = format!("{number}");
                let content = fs::read(&path).map_err(|error| failed("read", &path, &error))?;
                files::replace(&self.directory.join(&old), &content, SECRET)?;
                self.journal.undo.push(Undo::Conf {
                    path: path.clone(),
                    old,
                    new: Vec::new(),
                    lock,
                });
                number
            }
        };
        if let Some(Undo::Conf { new, .. }) = self.journal.undo.get_mut(number) {
            let copy = format!("{number}-{}", new.len());
            files::replace(&self.directory.join(&copy), text, SECRET)?;
            new.push(copy);
        }
        self.write()?;
        clusterconf::write_to(&path, text)
    }

    /// The changes are for good.
    ///
    /// # Errors
    /// When the journal can not be removed: the next command would put the changes back.
    pub fn keep(self) -> Outcome {
        forget(&self.directory)
    }

    /// Puts everything back, the last change first, and returns what could not be put back.
    pub fn put_back(self) -> Vec<String> {
        self.put_back_with(&services::put_back)
    }

    /// As [`Transaction::put_back`], with another service manager.
    pub fn put_back_with(mut self, control: Control<'_>) -> Vec<String> {
        put_back(&self.directory, &mut self.journal, control, By::Command)
    }

    fn remember(&mut self, undo: Undo) -> Outcome {
        self.journal.undo.push(undo);
        self.write()
    }

    fn write(&mut self) -> Outcome {
        self.journal.at = calendar().as_secs();
        self.journal.write(&self.directory)
    }
}

impl Journal {
    fn read(directory: &Path) -> Outcome<Option<Self>> {
        let path = directory.join(JOURNAL);
        let Some(text) = files::read(&path)? else {
            return Ok(None);
        };
        let journal = serde_json::from_slice(&text);
        journal.map_err(|error| failed("read", &path, &io::Error::other(error)))
    }

    fn write(&self, directory: &Path) -> Outcome {
        let text = serde_json::to_vec(self).unwrap_or_default();
        files::replace(&directory.join(JOURNAL), &text, SECRET)
    }

    /// Removes what was done for something that is done as well.
    fn tidy(&mut self, done: &[Undo]) {
        if self.undo.iter().all(Undo::is_for_others) {
            self.undo.retain(|undo| !done.contains(undo));
        }
    }
}

/// This start of the system; empty if it is not known.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The change that was broken off, if there is one.
///
/// # Errors
/// When there is a journal that can not be read.
pub fn broken_off(directory: &Path) -> Outcome<Option<BrokenOff>> {
    let Some(journal) = Journal::read(directory)? else {
        return Ok(None);
    };
    let at = Duration::from_secs(journal.at);
    let is_of_now = !journal.boot.is_empty() && journal.boot == boot();
    let is_recent = is_of_now && calendar().abs_diff(at) <= RECENT;
    let time = libc::time_t::try_from(journal.at).ok().filter(|at| *at > 0);
    let time = time.and_then(|at| Asn1Time::from_unix(at).ok());
    let mut when = time.map_or_else(
        || "at an unknown time".to_owned(),
        |at| format!("on {}", &*at),
    );
    if !is_of_now {
        when += ", before this system started";
    }
    Ok(Some(BrokenOff {
        command: journal.command,
        when,
        is_dated: !is_recent && journal.undo.iter().any(Undo::replaces),
        steps: journal.undo.iter().rev().map(Undo::words).collect(),
    }))
}

/// Puts back what a command that was killed has left.
///
/// # Errors
/// When there is a journal that can not be read.
pub fn recover(directory: &Path) -> Outcome<Option<Recovered>> {
    recover_with(directory, &services::put_back)
}

/// As [`recover`], with another service manager.
///
/// # Errors
/// As [`recover`].
pub fn recover_with(directory: &Path, control: Control<'_>) -> Outcome<Option<Recovered>> {
    let Some(mut journal) = Journal::read(directory)? else {
        return Ok(None);
    };
    let failures = put_back(directory, &mut journal, control, By::Next);
    Ok(Some(Recovered {
        command: journal.command,
        failures,
    }))
}

/// Puts back, the last change first. What is done leaves the journal, on disk, before the next one.
/// Services and directories stay in it as long as files do: these may need services stopped, and
/// directories are empty without them.
fn put_back(directory: &Path, journal: &mut Journal, control: Control<'_>, by: By) -> Vec<String> {
    let mut failures = Vec::new();
    let mut done = Vec::new();
    for number in (0..journal.undo.len()).rev() {
        let Some(undo) = journal.undo.get(number) else {
            continue;
        };
        if let Err(failure) = undo.apply(directory, control, by) {
            failures.push(failure.to_string());
            continue;
        }
        if undo.is_for_others() {
            done.push(undo.clone());
            continue;
        }
        journal.undo.remove(number);
        // On a full disk there is room again when all is back.
        drop(journal.write(directory));
    }
    // The copies stay for the user when something could not be put back from them.
    let ended = if failures.is_empty() {
        forget(directory)
    } else {
        journal.tidy(&done);
        journal.write(directory)
    };
    failures.extend(ended.err().map(|failure| failure.to_string()));
    failures
}

/// Removes what a killed command has written beside a file, and not given its name yet.
fn sweep(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let beside = |found: &str| {
        let rest = found.strip_prefix(&*name.to_string_lossy());
        let number = rest.and_then(|rest| rest.strip_prefix(".tmp."));
        number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if beside(&entry.file_name().to_string_lossy()) {
            // It harms nobody if it stays.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Writes the old configuration of the cluster as its newest, if it is still the changed one.
fn restore_conf(conf: &Path, old: &Path, new: &[PathBuf], lock: Option<u64>, by: By) -> Outcome {
    // The link is there while the cluster file system is.
    if conf.with_file_name("local").symlink_metadata().is_err() {
        return Err(Failure::failed(format!(
            "'{}' can not be put back while the cluster file system is not mounted: start it \
             with 'systemctl start pve-cluster'",
            conf.display()
        )));
    }
    let lock = lock.filter(|_| by == By::Next);
    let inherited = match lock {
        Some(number) => clusterconf::inherited(conf, number)?,
        None => None,
    };
    let new: Vec<Vec<u8>> = new.iter().flat_map(fs::read).collect();
    if by == By::Next {
        let beside = clusterconf::beside(conf);
        let begun = files::read(&beside)?;
        // Administrators use that name too.
        if begun.is_some_and(|begun| new.iter().any(|text| text.starts_with(&begun))) {
            files::remove(&beside)?;
        }
    }
    let changed = || -> Outcome<Option<Vec<u8>>> {
        let current = files::read(conf)?;
        Ok(current.filter(|current| new.contains(current)))
    };
    if changed()?.is_none() {
        return Ok(());
    }
    let _lock = match (inherited, lock) {
        (None, Some(_)) => Some(clusterconf::take(conf)?),
        (inherited, _) => inherited,
    };
    let Some(current) = changed()? else {
        return Ok(());
    };
    let parse = |path: &Path, text: &[u8]| {
        ClusterConf::parse(text).map_err(|error| failed("use", path, &io::Error::other(error)))
    };
    let text = fs::read(old).map_err(|error| failed("read", old, &error))?;
    let old = parse(old, &text)?;
    let reached = new.iter().position(|text| *text == current);
    let between = new.iter().take(reached.unwrap_or(0));
    let between: Vec<ClusterConf> = between.flat_map(|text| ClusterConf::parse(text)).collect();
    let way = parse(conf, &current)?.way_back(&between, &old);
    for (number, step) in way.iter().enumerate() {
        clusterconf::write_to(conf, &step.text())?;
        if number + 1 < way.len() {
            await_taken(step);
        }
    }
    Ok(())
}

/// Gives the nodes of the ring time to take a configuration before the next one.
fn await_taken(conf: &ClusterConf) {
    let ids: Vec<u32> = conf.nodes().iter().filter_map(|node| node.id).collect();
    // A daemon that does not answer takes nothing either.
    wait::until(STEP_PATIENCE, || {
        let versions = ring::versions(&ids).unwrap_or_default();
        let mut behind = versions
            .values()
            .filter(|version| **version < conf.version());
        behind.next().is_none().then_some(())
    });
}

/// Keeps what is there, and removes the journal with all copies.
///
/// # Errors
/// When it can not be removed.
pub fn forget(directory: &Path) -> Outcome {
    files::remove(&directory.join(JOURNAL))?;
    fs::remove_dir_all(directory).map_err(|error| failed("remove", directory, &error))
}

impl Undo {
    /// Whether it puts something in the place of what came after it.
    fn replaces(&self) -> bool {
        match self {
            Self::Services { verb, .. } => verb == Verb::Stop.word(),
            Self::NoDirectory { .. } => false,
            _ => true,
        }
    }

    /// Whether it is done for the sake of others, and may be done again with them.
    fn is_for_others(&self) -> bool {
        matches!(self, Self::Services { .. } | Self::NoDirectory { .. })
    }

    fn words(&self) -> String {
        match self {
            Self::Absent { path } => format!("remove '{}'", path.display()),
            Self::NoDirectory { path } => format!("remove '{}' if it is empty", path.display()),
            Self::Services { verb, units } => format!("{verb} {}", units.join(" ")),
            Self::Conf { path, .. } => {
                format!(
                    "write the old '{}', if nobody has changed it since",
                    path.display()
                )
            }
            Self::File { path, .. } | Self::Link { path, .. } | Self::Moved { from: path, .. } => {
                format!("put back '{}'", path.display())
            }
        }
    }

    fn apply(&self, directory: &Path, control: Control<'_>, by: By) -> Outcome {
        match self {
            Self::Conf {
                path,
                old,
                new,
                lock,
            } => {
                let new: Vec<PathBuf> = new.iter().map(|copy| directory.join(copy)).collect();
                restore_conf(path, &directory.join(old), &new, *lock, by)
            }
            Self::Absent { path } => {
                sweep(path);
                files::remove(path)
            }
            Self::File {
                path,
                copy,
                mode,
                owner,
            } => {
                sweep(path);
                let copy = directory.join(copy);
                let content = fs::read(&copy).map_err(|error| failed("read", &copy, &error))?;
                if let Some(above) = path.parent() {
                    files::make_directory(above)?;
                }
                files::replace_as(path, &content, *mode, *owner)
            }
            Self::Link { path, target } => {
                files::remove(path)?;
                symlink(target, path).map_err(|error| failed("link", path, &error))
            }
            Self::Services { verb, units } => {
                let units: Vec<&str> = units.iter().map(String::as_str).collect();
                control(verb, &units)
            }
            // Not there: it was not moved yet, or is back already.
            Self::Moved { to, .. } if to.symlink_metadata().is_err() => Ok(()),
            Self::Moved { from, to } => {
                fs::rename(to, from).map_err(|error| failed("move back", from, &error))
            }
            Self::NoDirectory { path } => match fs::remove_dir(path) {
                // Whatever else came to be in it belongs to somebody else.
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    Err(failed("remove", path, &error))
                }
                _ => Ok(()),
            },
        }
    }
}
