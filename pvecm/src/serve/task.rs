//! Tasks: work that goes on after the answer, in a process of its own, with a log that can be read.
//!
//! A task is `pvecm` itself below a shell that adds the last line to the log, and both are in a control
//! group of their own where there is a service manager: neither the end of this server nor its restart
//! ends the task or hides how it ended.
//!
//! Invariant: a task's name leads to its log and to nothing else.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::failure::{Failure, Outcome};
use crate::host::command::PATH;
use crate::host::files::{failed, make_directory};
use crate::host::{Host, Paths, calendar, services};
use crate::value::NodeName;

/// Where logs are.
const LOGS: &str = "var/log/pve/tasks";
/// It is in the environment of what a task runs, which has a log.
pub(crate) const MARK: &str = "PVECM_TASK";
/// What the shell does: the work, and a last line that says how it went.
const SCRIPT: &str = r#"
"$@" 2>&1
code=$?
if [ "$code" = 0 ]; then
    echo "TASK OK"
else
    last=$(tail -n 1 "/proc/$$/fd/1")
    echo "TASK ERROR: ${last:-it ended with code $code}"
fi
exit "$code"
"#;

/// What is to be done.
#[derive(Debug)]
pub struct Work {
    /// Kind of task, as the original calls it.
    pub kind: &'static str,
    /// What it is about, or nothing.
    pub id: String,
    /// Who wants it.
    pub user: String,
    /// Arguments of `pvecm`.
    pub args: Vec<String>,
    /// What it reads: a password is nowhere else.
    pub input: Zeroizing<String>,
}

/// Name of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upid {
    /// Where it runs.
    pub node: NodeName,
    /// Number of its process.
    pub pid: u32,
    /// When that process began, in the kernel's ticks.
    pub pstart: u64,
    /// The same in seconds since 1970.
    pub start: u64,
    /// Kind of task.
    pub kind: String,
    /// What it is about.
    pub id: String,
    /// Who wanted it.
    pub user: String,
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UPID:{}:{:08X}:{:08X}:{:08X}:{}:{}:{}:",
            self.node, self.pid, self.pstart, self.start, self.kind, self.id, self.user
        )
    }
}

/// A text that names no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse worker upid")]
pub struct NotAUpid;

impl FromStr for Upid {
    type Err = NotAUpid;

    fn from_str(text: &str) -> Result<Self, NotAUpid> {
        let parts: Vec<&str> = text.split(':').collect();
        let [tag, node, pid, pstart, start, kind, id, user, end] = parts.as_slice() else {
            return Err(NotAUpid);
        };
        let hex = |text: &str, lengths: &[usize]| {
            let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u64::from_str_radix(text, 16).ok();
            number.filter(|_| is_hex && lengths.contains(&text.len()))
        };
        let is_word = |text: &str| {
            text.len() <= 128
                && !text.contains(|letter: char| {
                    letter == '/' || letter.is_whitespace() || letter.is_control()
                })
        };
        let is_plain = *tag == "UPID"
            && end.is_empty()
            && [kind, id, user].into_iter().all(|text| is_word(text))
            && !kind.is_empty()
            && !user.is_empty();
        if !is_plain {
            return Err(NotAUpid);
        }
        let pid = hex(pid, &[8]).and_then(|pid| u32::try_from(pid).ok());
        Ok(Self {
            node: node.parse().map_err(|_| NotAUpid)?,
            pid: pid.ok_or(NotAUpid)?,
            pstart: hex(pstart, &[8, 9]).ok_or(NotAUpid)?,
            start: hex(start, &[8]).ok_or(NotAUpid)?,
            kind: (*kind).to_owned(),
            id: (*id).to_owned(),
            user: (*user).to_owned(),
        })
    }
}

impl Upid {
    pub(crate) fn log(&self, paths: &Paths) -> PathBuf {
        let last = format!("{:X}", self.start & 0xf);
        paths.at(LOGS).join(last).join(self.to_string())
    }
}

/// Starts `program` with the task's arguments.
///
/// # Errors
/// When it can not be started, or there can be no log.
pub fn start(host: &Host, program: &Path, work: Work) -> Outcome<Upid> {
    let start = calendar().as_secs();
    let logs = host.paths.at(LOGS).join(format!("{:X}", start & 0xf));
    make_directory(&logs)?;
    // The name of the log holds the number of the process, which is not known yet.
    let unnamed = logs.join(format!(".starting.{}.{start}", std::process::id()));
    let log = new_log(&unnamed).map_err(|error| failed("make the log", &unnamed, &error))?;
    let apart = services::of_its_own(&host.paths, &format!("task {} of pvecm", work.kind));
    let started = spawn(&apart, program, &work, log);
    let mut child = started.map_err(|error| {
        drop(fs::remove_file(&unnamed));
        Failure::failed(format!("can not start '{}': {error}", program.display()))
    })?;
    let pid = child.id();
    let upid = Upid {
        node: host.name.clone(),
        pid,
        pstart: began(pid).unwrap_or(0),
        start,
        kind: work.kind.to_owned(),
        id: work.id,
        user: work.user,
    };
    let named = fs::rename(&unnamed, upid.log(&host.paths));
    // It waits for its input, so nothing has been done yet if there is no log.
    let fed = named.and_then(|()| match child.stdin.take() {
        Some(mut input) => input.write_all(work.input.as_bytes()),
        None => Ok(()),
    });
    if let Err(error) = &fed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        drop(child.kill());
        drop(child.wait());
        return Err(Failure::failed(format!("the task does not start: {error}")));
    }
    tracing::info!("starting task {upid}");
    std::thread::spawn(move || {
        // Nobody asks how it ended: that is in its log. It must not stay behind as a zombie.
        drop(child.wait());
    });
    Ok(upid)
}

/// Makes the log of a task.
pub(crate) fn new_log(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
}

fn spawn(
    apart: &[String],
    program: &Path,
    work: &Work,
    log: File,
) -> io::Result<std::process::Child> {
    let shell = "/bin/sh".to_owned();
    let mut words = apart.iter().chain([&shell]);
    let mut command = Command::new(words.next().unwrap_or(&shell));
    command
        .args(words)
        .args(["-c", SCRIPT, "task"])
        .arg(program)
        .args(&work.args)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LANG", "C")
        .env(MARK, "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stderr(log.try_clone()?)
        .stdout(log)
        .process_group(0);
    command.spawn()
}

/// When a process began, in the kernel's ticks.
pub(crate) fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// What the API says of a task of this node.
///
/// # Errors
/// When there is no such task.
pub fn status(paths: &Paths, upid: &Upid) -> Outcome<Value> {
    let log = upid.log(paths);
    if !log.is_file() {
        return Err(Failure::refused("no such task"));
    }
    let is_running = began(upid.pid) == Some(upid.pstart);
    let mut status = json!({
        "upid": upid.to_string(),
        "node": upid.node.as_str(),
        "pid": upid.pid,
        "pstart": upid.pstart,
        "starttime": upid.start,
        "type": upid.kind,
        "id": upid.id,
        "user": upid.user,
        "status": if is_running { "running" } else { "stopped" },
    });
    if !is_running {
        status["exitstatus"] = exit_status(&log).into();
    }
    Ok(status)
}

fn exit_status(log: &Path) -> String {
    let (lines, _) = lines(log, 0, usize::MAX).unwrap_or_default();
    let last = lines.last().map_or("", |(_, line)| line.as_str());
    match last.strip_prefix("TASK ") {
        Some("OK") => "OK".to_owned(),
        Some(warnings) if warnings.starts_with("WARNINGS: ") => warnings.to_owned(),
        Some(error) => match error.strip_prefix("ERROR: ") {
            Some(error) => error.to_owned(),
            None => "unexpected status".to_owned(),
        },
        None => "unexpected status".to_owned(),
    }
}

/// Lines of a task's log, from `first` (0 is the first) at most `count`, and how many there are.
///
/// # Errors
/// When there is no such task.
pub fn log(paths: &Paths, upid: &Upid, first: usize, count: usize) -> Outcome<(Value, usize)> {
    let path = upid.log(paths);
    let read = lines(&path, first, count);
    let (lines, total) = read.map_err(|_| Failure::refused("no such task"))?;
    let lines: Vec<Value> = lines
        .into_iter()
        .map(|(number, line)| json!({"n": number, "t": line}))
        .collect();
    if total == 0 {
        return Ok((json!([{"n": 1, "t": "no content"}]), 1));
    }
    Ok((lines.into(), total))
}

type Lines = Vec<(usize, String)>;

fn lines(path: &Path, first: usize, count: usize) -> io::Result<(Lines, usize)> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut lines = Vec::new();
    let mut total = 0;
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        total += 1;
        if total > first && lines.len() < count {
            let text = String::from_utf8_lossy(&line);
            lines.push((total, text.trim_end_matches('\n').to_owned()));
        }
        line.clear();
    }
    Ok((lines, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use crate::host::test_node::test_node;
    use crate::host::wait::until;
    use proptest::prelude::*;

    fn host() -> (tempfile::TempDir, Host) {
        test_node("n1", &[])
    }

    fn run(host: &Host, script: &str, input: &str) -> (Upid, Value) {
        let work = Work {
            kind: "clusterjoin",
            id: String::new(),
            user: "root@pam".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            input: Zeroizing::new(input.to_owned()),
        };
        let upid = start(host, Path::new("/bin/sh"), work).unwrap();
        let ended = until(Duration::from_secs(30), || {
            let status = status(&host.paths, &upid).unwrap();
            (status["status"] == "stopped").then_some(status)
        });
        (upid, ended.unwrap())
    }

    #[test]
    fn a_task_leaves_its_output_and_how_it_ended() {
        let (_directory, host) = host();
        let (upid, status) = run(&host, "read word; echo got $word; echo odd >&2", "secret\n");
        assert_eq!(status["exitstatus"], "OK");
        assert_eq!(status["type"], "clusterjoin");
        assert_eq!(upid.to_string().parse(), Ok(upid.clone()));
        let (lines, total) = log(&host.paths, &upid, 0, 50).unwrap();
        let wanted = json!([
            {"n": 1, "t": "got secret"}, {"n": 2, "t": "odd"}, {"n": 3, "t": "TASK OK"}
        ]);
        assert_eq!((lines, total), (wanted, 3));
        let (lines, total) = log(&host.paths, &upid, 1, 1).unwrap();
        assert_eq!((lines, total), (json!([{"n": 2, "t": "odd"}]), 3));
    }

    #[test]
    fn a_task_that_fails_says_why() {
        let (_directory, host) = host();
        let (_, status) = run(&host, "echo begun; echo it broke >&2; exit 3", "");
        assert_eq!(status["exitstatus"], "it broke");
        let (_, status) = run(&host, "exit 3", "");
        assert_eq!(status["exitstatus"], "it ended with code 3");
        let (_, status) = run(&host, "kill -9 $PPID", "");
        assert_eq!(status["exitstatus"], "unexpected status");
    }

    #[test]
    fn a_task_that_is_put_apart_is_the_same_process() {
        let (_directory, host) = host();
        let log = host.paths.at("log");
        // As the service manager's program does it: it becomes what it is to start.
        let apart = ["/bin/sh", "-c", r#"echo "$$"; exec "$@""#, "apart"];
        let work = Work {
            kind: "clusterjoin",
            id: String::new(),
            user: "root@pam".to_owned(),
            args: vec![
                "-c".to_owned(),
                "read word; echo $PPID $word $PVECM_TASK".to_owned(),
            ],
            input: Zeroizing::new("secret\n".to_owned()),
        };
        let apart = apart.map(str::to_owned);
        let file = new_log(&log).unwrap();
        let mut child = spawn(&apart, Path::new("/bin/sh"), &work, file).unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(work.input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let pid = child.id();
        let told = fs::read_to_string(&log).unwrap();
        assert_eq!(told, format!("{pid}\n{pid} secret 1\nTASK OK\n"));
    }

    #[test]
    fn names_that_are_none_lead_nowhere() {
        let good = "UPID:n1:000004D2:0000ABCD:69000000:clusterjoin::root@pam:";
        assert!(good.parse::<Upid>().is_ok());
        let (_directory, host) = host();
        let unknown = status(&host.paths, &good.parse().unwrap()).unwrap_err();
        assert_eq!(unknown.to_string(), "no such task");
        for refused in [
            "",
            "UPID:",
            &good[1..],
            "UPID:n1:000004D2:0000ABCD:69000000:../../x::root@pam:",
            "UPID:../x:000004D2:0000ABCD:69000000:a::root@pam:",
            "UPID:n1:+00004D2:0000ABCD:69000000:a::root@pam:",
            "UPID:n1:000004D2:0000ABCD:69000000:::root@pam:",
            "UPID:n1:000004D2:0000ABCD:69000000:a:b c:root@pam:",
        ] {
            assert!(refused.parse::<Upid>().is_err(), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn a_name_leads_below_the_logs(text in "UPID:[a-zA-Z0-9./-]{1,9}:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[a-z./]{1,9}:.{0,9}:.{1,9}:") {
            if let Ok(upid) = text.parse::<Upid>() {
                let log = upid.log(&Paths::below("/r"));
                prop_assert_eq!(log.components().count(), 8);
                prop_assert!(log.starts_with("/r/var/log/pve/tasks"));
            }
        }
    }
}
