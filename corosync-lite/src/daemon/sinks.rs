//! Where lines end up: the journal or the system log, files, standard error.
//!
//! What can not be written is lost: a log that fails must not stop the daemon. A file that can not
//! be opened is told of on the other ways, once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::fstat;

use super::logging::{DEBUG, Rules, Settings, Timestamp};
use super::sys::local_time;

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";
/// How the daemon is called in the system log.
const NAME: &str = "corosync-lite";
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// As the system log numbers severities; one more for trace.
    pub(super) priority: u8,
    pub(super) subsystem: &'static str,
    pub(super) text: String,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) time: Duration,
    pub(super) place: Option<(&'static str, u32)>,
    pub(super) module: Option<&'static str>,
}

/// All that is open.
#[derive(Debug, Default)]
pub(super) struct Sinks {
    settings: Arc<Settings>,
    /// Whether somebody may read standard error.
    foreground: bool,
    system: Option<System>,
    files: BTreeMap<PathBuf, Option<File>>,
}

/// What the host logs to.
#[derive(Debug)]
enum System {
    Journal(UnixDatagram),
    Syslog(UnixDatagram),
}

impl Sinks {
    pub(super) fn open(settings: Arc<Settings>, foreground: bool) -> Self {
        Self {
            settings,
            foreground,
            ..Self::default()
        }
    }

    pub(super) fn set(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        let all = self
            .settings
            .subsystems
            .values()
            .chain([&self.settings.rules]);
        let wanted: Vec<_> = all.filter_map(|rules| rules.file.clone()).collect();
        // A file that could not be opened is tried again.
        self.files
            .retain(|path, file| file.is_some() && wanted.contains(path));
    }

    pub(super) fn reopen(&mut self) {
        self.files.clear();
    }

    pub(super) fn write(&mut self, line: &Line) {
        let settings = Arc::clone(&self.settings);
        let rules = settings.rules(line.subsystem);
        if rules.reaches_syslog(line.priority) {
            self.write_system(line, rules);
        }
        if !rules.reaches_files(line.priority) {
            return;
        }
        let text = format_line(line, &settings);
        if let Some(path) = &rules.file {
            self.write_file(path, &text);
        }
        if rules.to_stderr && self.foreground && !(rules.to_syslog && stderr_is_journal()) {
            io::stderr().write_all(text.as_bytes()).ok();
        }
    }

    fn write_file(&mut self, path: &Path, text: &str) {
        if !self.files.contains_key(path) {
            let opened = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path);
            if let Err(error) = &opened {
                let note = Line {
                    priority: 3,
                    subsystem: "MAIN",
                    text: format!("Can't open logfile {}: {error}", path.display()),
                    fields: Vec::new(),
                    time: crate::clock::since_1970(),
                    place: None,
                    module: None,
                };
                let rules = self.settings.rules.clone();
                if rules.to_syslog {
                    self.write_system(&note, &rules);
                }
                if self.foreground {
                    let text = format_line(&note, &self.settings);
                    io::stderr().write_all(text.as_bytes()).ok();
                }
            }
            self.files.insert(path.to_owned(), opened.ok());
        }
        if let Some(Some(file)) = self.files.get_mut(path) {
            file.write_all(text.as_bytes()).ok();
        }
    }

    fn write_system(&mut self, line: &Line, rules: &Rules) {
        // Once more with a new socket, if the log has been started again.
        for _ in 0..2 {
            if self.system.is_none() {
                self.system = System::connect();
            }
            let sent = match &self.system {
                Some(System::Journal(socket)) => socket.send(&journal_entry(line, rules)),
                Some(System::Syslog(socket)) => socket.send(&syslog_entry(line, rules)),
                None => return,
            };
            if sent.is_ok() {
                return;
            }
            self.system = None;
        }
    }
}

impl System {
    fn connect() -> Option<Self> {
        let connect = |path: &str| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect(path).ok()?;
            Some(socket)
        };
        connect(JOURNAL)
            .map(Self::Journal)
            .or_else(|| connect(SYSLOG).map(Self::Syslog))
    }
}

/// Under systemd standard error ends in the journal, too: once is enough.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stat = fstat(io::stderr().as_fd());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
        && fs::exists(JOURNAL).unwrap_or(false)
}

fn message(line: &Line) -> String {
    let mut text = format!("[{:<6}] {}", line.subsystem, line.text);
    for (name, value) in &line.fields {
        // Writing to a String does not fail.
        write!(text, " {name}={value}").ok();
    }
    text
}

fn format_line(line: &Line, settings: &Settings) -> String {
    let mut text = timestamp(line.time, settings.timestamp);
    if settings.fileline
        && let Some((file, number)) = line.place
    {
        write!(text, "{file}:{number} ").ok();
    }
    if settings.function_name
        && let Some(module) = line.module
    {
        write!(text, "{module} ").ok();
    }
    let level = match line.priority {
        0..=3 => "error",
        4 => "warning",
        5 => "notice",
        6 => "info",
        DEBUG => "debug",
        _ => "trace",
    };
    writeln!(text, "{level:<7} {}", message(line).replace('\n', " ")).ok();
    text
}

fn timestamp(time: Duration, kind: Timestamp) -> String {
    if kind == Timestamp::Off {
        return String::new();
    }
    let time = local_time(time);
    let month = MONTHS.get(time.month).copied().unwrap_or("???");
    let (day, hour, minute, second) = (time.day, time.hour, time.minute, time.second);
    let mut text = format!("{month} {day:02} {hour:02}:{minute:02}:{second:02}");
    if kind == Timestamp::Milliseconds {
        write!(text, ".{:03}", time.millisecond).ok();
    }
    text.push(' ');
    text
}

fn syslog_entry(line: &Line, rules: &Rules) -> Vec<u8> {
    let priority = (rules.facility << 3) | line.priority.min(DEBUG);
    let text = message(line).replace('\n', " ");
    format!("<{priority}>{NAME}[{}]: {text}", std::process::id()).into_bytes()
}

fn journal_entry(line: &Line, rules: &Rules) -> Vec<u8> {
    let mut entry = String::new();
    let mut field = |name: &str, value: &str| {
        // One line a field: what could be taken for another field is not sent.
        writeln!(entry, "{name}={}", value.replace('\n', " ")).ok();
    };
    field("PRIORITY", &line.priority.min(DEBUG).to_string());
    field("SYSLOG_FACILITY", &rules.facility.to_string());
    field("SYSLOG_IDENTIFIER", NAME);
    field("COROSYNC_SUBSYSTEM", line.subsystem);
    for (name, value) in &line.fields {
        field(&format!("COROSYNC_{}", name.to_uppercase()), value);
    }
    if let Some((file, number)) = line.place {
        field("CODE_FILE", file);
        field("CODE_LINE", &number.to_string());
    }
    field("MESSAGE", &message(line));
    entry.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::logging::Settings;

    fn line(text: &str) -> Line {
        Line {
            priority: 5,
            subsystem: "TOTEM",
            text: text.to_owned(),
            fields: vec![("node", "3".to_owned())],
            time: Duration::from_millis(1_000_000_000_123),
            place: Some(("a.rs", 7)),
            module: Some("a"),
        }
    }

    #[test]
    fn lines_look_as_those_of_corosync() {
        let mut settings = Settings {
            timestamp: Timestamp::Off,
            ..Settings::default()
        };
        let text = format_line(&line("A new membership"), &settings);
        assert_eq!(text, "notice  [TOTEM ] A new membership node=3\n");
        settings.fileline = true;
        settings.timestamp = Timestamp::Milliseconds;
        let text = format_line(&line("two\nlines"), &settings);
        assert!(
            text.contains(".123 a.rs:7 notice  [TOTEM ] two lines"),
            "{text}"
        );
        assert!(text.starts_with("Sep 0"), "{text}");
    }

    #[test]
    fn nothing_in_a_message_becomes_a_field_of_the_journal() {
        let entry = journal_entry(&line("x\nPRIORITY=0"), &Rules::default());
        let entry = String::from_utf8(entry).unwrap();
        assert_eq!(entry.matches("\nPRIORITY").count(), 0);
        assert!(entry.starts_with("PRIORITY=5\n"));
        assert!(entry.contains("\nCOROSYNC_NODE=3\n"));
        let entry = syslog_entry(&line("x"), &Rules::default());
        assert!(entry.starts_with(b"<29>corosync-lite["));
    }

    #[test]
    fn files_are_written_and_reopened() {
        let root = tempfile::tempdir().unwrap();
        let (path, moved) = (root.path().join("log"), root.path().join("moved"));
        let rules = Rules {
            to_syslog: false,
            file: Some(path.clone()),
            ..Rules::default()
        };
        let settings = Settings {
            rules,
            ..Settings::default()
        };
        let mut sinks = Sinks::open(Arc::new(settings), false);
        sinks.write(&line("one"));
        fs::rename(&path, &moved).unwrap();
        sinks.write(&line("two"));
        sinks.reopen();
        sinks.write(&line("three"));
        let count = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((count(&moved), count(&path)), (2, 1));
        let mut debug = line("no");
        debug.priority = DEBUG;
        sinks.write(&debug);
        assert_eq!(count(&path), 1);
    }
}
