//! Which message goes where: the section `logging`, in force at once when it changes.
//!
//! Messages are `tracing` events; their target is the subsystem, named as Corosync names them
//! (`TOTEM`, `KNET`, `QUORUM`, ...). An event of the level `info` is what Corosync calls a notice.
//!
//! The thread of the node never waits for a disk or another program: it hands lines to a thread
//! that writes them. When that one can not keep up, lines are dropped and counted.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry};

use super::sinks::{Line, Sinks};
use crate::clock;
use crate::config::Keys;

/// Lines that wait for the thread that writes them.
const QUEUE: usize = 4096;
/// How long the end of the daemon waits for the last lines.
const FLUSH: Duration = Duration::from_secs(2);

/// Severities below notice do not exist in the program, but in the configuration.
pub(super) const DEBUG: u8 = 7;
/// More than debug.
pub(super) const TRACE: u8 = 8;

/// What goes where, for one subsystem or all without rules of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// To standard error.
    pub to_stderr: bool,
    /// To the journal, or the system log.
    pub to_syslog: bool,
    /// To this file.
    pub file: Option<PathBuf>,
    /// Facility of the system log.
    pub facility: u8,
    /// Least urgent severity for the system log, as it numbers them.
    pub syslog_priority: u8,
    /// The same for files and standard error.
    pub file_priority: u8,
    /// Debug messages pass both: the severity up to which they do, or 0.
    pub debug: u8,
}

/// The section `logging`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For all subsystems that have none of their own.
    pub rules: Rules,
    /// By subsystem.
    pub subsystems: BTreeMap<String, Rules>,
    /// In front of lines of files and standard error.
    pub timestamp: Timestamp,
    /// Source file and line.
    pub fileline: bool,
    /// The module.
    pub function_name: bool,
}

/// Key `timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the values of the key")]
pub enum Timestamp {
    Off,
    Seconds,
    Milliseconds,
}

const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

fn priority(text: &str) -> Option<u8> {
    Some(match text {
        "emerg" => 0,
        "alert" => 1,
        "crit" => 2,
        "err" | "error" => 3,
        "warning" => 4,
        "notice" => 5,
        "info" => 6,
        "debug" => DEBUG,
        _ => return None,
    })
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            to_stderr: true,
            to_syslog: true,
            file: None,
            facility: 3,
            syslog_priority: 6,
            file_priority: 6,
            debug: 0,
        }
    }
}

impl Rules {
    /// What the keys below `prefix` say; what they leave out is as in `base`.
    fn read(keys: &Keys, prefix: &str, base: &Self) -> Self {
        let text = |name: &str| keys.text(&format!("{prefix}{name}"));
        let is_on = |name: &str| text(name).map(|text| matches!(text, "yes" | "on"));
        let level = |names: [&str; 2], base| {
            let found = names.into_iter().find_map(text).and_then(priority);
            found.unwrap_or(base)
        };
        let path = text("logfile")
            .map(PathBuf::from)
            .or_else(|| base.file.clone());
        let wants_file = is_on("to_logfile").or_else(|| is_on("to_file"));
        let debug = match text("debug") {
            Some("on") => DEBUG,
            Some("trace") => TRACE,
            Some(_) => 0,
            None => base.debug,
        };
        let facility = text("syslog_facility");
        let facility = FACILITIES.iter().find(|(name, _)| Some(*name) == facility);
        Self {
            to_stderr: is_on("to_stderr").unwrap_or(base.to_stderr),
            to_syslog: is_on("to_syslog").unwrap_or(base.to_syslog),
            file: path.filter(|_| wants_file.unwrap_or(base.file.is_some())),
            facility: facility.map_or(base.facility, |(_, number)| *number),
            syslog_priority: level(["syslog_priority", "syslog_level"], base.syslog_priority),
            file_priority: level(["logfile_priority", "logfile_priority"], base.file_priority),
            debug,
        }
    }

    /// Whether the system log gets messages of this severity.
    pub(super) fn reaches_syslog(&self, severity: u8) -> bool {
        self.to_syslog && severity <= self.syslog_priority.max(self.debug)
    }

    /// Whether files and standard error get messages of this severity.
    pub(super) fn reaches_files(&self, severity: u8) -> bool {
        (self.to_stderr || self.file.is_some()) && severity <= self.file_priority.max(self.debug)
    }

    /// Least urgent severity that anybody reads.
    fn most(&self) -> u8 {
        let reaches =
            |severity: &u8| self.reaches_syslog(*severity) || self.reaches_files(*severity);
        (0..=TRACE).rev().find(reaches).unwrap_or(0)
    }
}

impl Settings {
    /// Reads the section, which has been checked.
    pub fn read(keys: &Keys) -> Self {
        let rules = Rules::read(keys, "logging.", &Rules::default());
        let all = "logging.logger_subsys.";
        let names = keys.with_prefix(all).filter_map(|(key, _)| {
            let (name, _) = key.strip_prefix(all)?.split_once('.')?;
            Some(name.to_owned())
        });
        let subsystems = names
            .map(|name| {
                let rules = Rules::read(keys, &format!("{all}{name}."), &rules);
                (name, rules)
            })
            .collect();
        let is_on = |key| keys.text(key) == Some("on");
        Self {
            rules,
            subsystems,
            timestamp: match keys.text("logging.timestamp") {
                Some("off") => Timestamp::Off,
                Some("on") => Timestamp::Seconds,
                _ => Timestamp::Milliseconds,
            },
            fileline: is_on("logging.fileline"),
            function_name: is_on("logging.function_name"),
        }
    }

    pub(super) fn rules(&self, subsystem: &str) -> &Rules {
        self.subsystems.get(subsystem).unwrap_or(&self.rules)
    }

    fn most(&self) -> u8 {
        let subsystems = self.subsystems.values().map(Rules::most);
        subsystems.chain([self.rules.most()]).max().unwrap_or(0)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::read(&Keys::default())
    }
}

/// The running log. Copies are the same log.
#[derive(Clone, Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: RwLock<Arc<Settings>>,
    way: Mutex<Way>,
}

#[derive(Debug)]
enum Way {
    /// As long as there is one thread, which may have to fork.
    Direct(Box<Sinks>),
    Thread {
        queue: SyncSender<Job>,
        dropped: u64,
        thread: JoinHandle<()>,
    },
}

#[derive(Debug)]
enum Job {
    Line(Line),
    Settings(Arc<Settings>),
    Reopen,
    End(SyncSender<()>),
}

impl Log {
    /// Starts logging; to standard error as well if `foreground`.
    ///
    /// # Errors
    /// When the process logs already.
    pub fn start(settings: Settings, foreground: bool) -> Result<Self, String> {
        let settings = Arc::new(settings);
        let sinks = Sinks::open(Arc::clone(&settings), foreground);
        let log = Self(Arc::new(Shared {
            settings: RwLock::new(settings),
            way: Mutex::new(Way::Direct(Box::new(sinks))),
        }));
        let subscriber = Registry::default().with(ToLog(log.clone()));
        tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
        Ok(log)
    }

    /// From now on a thread does the writing. After the fork, if there is one.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start_thread(&self) -> std::io::Result<()> {
        let mut way = self.way();
        let Way::Direct(sinks) = &mut *way else {
            return Ok(());
        };
        let sinks = std::mem::take(&mut **sinks);
        let (queue, jobs) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(sinks, &jobs))?;
        *way = Way::Thread {
            queue,
            dropped: 0,
            thread,
        };
        Ok(())
    }

    /// Whether these settings are in force.
    pub fn has(&self, settings: &Settings) -> bool {
        *self.settings() == *settings
    }

    /// Changes what goes where.
    pub fn set(&self, settings: Settings) {
        let settings = Arc::new(settings);
        let mut current = self
            .0
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::clone(&settings);
        drop(current);
        self.send(Job::Settings(settings));
        tracing::callsite::rebuild_interest_cache();
    }

    /// Opens files anew, which somebody has moved away.
    pub fn reopen(&self) {
        self.send(Job::Reopen);
    }

    /// Waits a moment until all lines are written.
    pub fn finish(&self) {
        let (done, wait) = sync_channel(1);
        let way = self.way();
        if let Way::Thread { queue, thread, .. } = &*way
            && !thread.is_finished()
            && queue.try_send(Job::End(done)).is_ok()
        {
            // A log that hangs does not keep the daemon from ending.
            wait.recv_timeout(FLUSH).ok();
        }
    }

    fn settings(&self) -> Arc<Settings> {
        let settings = self
            .0
            .settings
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&settings)
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.0.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, job: Job) {
        match &mut *self.way() {
            Way::Direct(sinks) => {
                handle(sinks, job);
            }
            Way::Thread { queue, dropped, .. } => {
                if *dropped > 0 && queue.try_send(Job::Line(dropped_line(*dropped))).is_ok() {
                    *dropped = 0;
                }
                if let Err(TrySendError::Full(Job::Line(_))) = queue.try_send(job) {
                    *dropped += 1;
                }
            }
        }
    }
}

fn dropped_line(count: u64) -> Line {
    Line {
        priority: 4,
        subsystem: "MAIN",
        text: format!("{count} messages were dropped: the log could not keep up"),
        fields: Vec::new(),
        time: clock::since_1970(),
        place: None,
        module: None,
    }
}

fn write_all(mut sinks: Sinks, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        if let Some(done) = handle(&mut sinks, job) {
            done.send(()).ok();
        }
    }
}

fn handle(sinks: &mut Sinks, job: Job) -> Option<SyncSender<()>> {
    match job {
        Job::Line(line) => sinks.write(&line),
        Job::Settings(settings) => sinks.set(settings),
        Job::Reopen => sinks.reopen(),
        Job::End(done) => return Some(done),
    }
    None
}

/// Turns events into lines.
#[derive(Debug)]
struct ToLog(Log);

impl<S: Subscriber> Layer<S> for ToLog {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let settings = self.0.settings();
        severity(metadata) <= settings.rules(metadata.target()).most()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.0.settings().most() {
            0..=2 => LevelFilter::OFF,
            3 => LevelFilter::ERROR,
            4 => LevelFilter::WARN,
            5..=6 => LevelFilter::INFO,
            DEBUG => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line {
            priority: severity(metadata),
            subsystem: metadata.target(),
            text: String::new(),
            fields: Vec::new(),
            time: clock::since_1970(),
            place: metadata.file().zip(metadata.line()),
            module: metadata.module_path(),
        };
        event.record(&mut Fields(&mut line));
        self.0.send(Job::Line(line));
    }
}

fn severity(metadata: &Metadata<'_>) -> u8 {
    match *metadata.level() {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 5,
        Level::DEBUG => DEBUG,
        Level::TRACE => TRACE,
    }
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String does not fail.
            write!(self.0.text, "{value:?}").ok();
        } else {
            self.0.fields.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.text.push_str(value);
        } else {
            self.0.fields.push((field.name(), value.to_owned()));
        }
    }
}

#[cfg(test)]
#[path = "logging_tests.rs"]
mod tests;
