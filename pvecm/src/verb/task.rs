//! Commands that the original runs as tasks leave a log where those are.
//!
//! Invariant: a log that can not be written is said, and keeps nobody from the work.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use crate::failure::Outcome;
use crate::host::files::{failed, make_directory};
use crate::host::{Host, calendar};
use crate::serve::task::{MARK, Upid, began, new_log};
use crate::tell;

/// Who a command line works for.
const USER: &str = "root@pam";

/// Does `work` as a task of that kind, about `id`: what the user is told goes into its log too, and how it
/// ended is its last line. The API starts its tasks itself; they have a log.
///
/// # Errors
/// What `work` says.
pub fn logged(host: &Host, kind: &str, id: &str, work: impl FnOnce() -> Outcome) -> Outcome {
    if std::env::var_os(MARK).is_some() {
        return work();
    }
    let log = open(host, kind, id).and_then(|(path, log)| {
        let copy = log.try_clone();
        let copy = copy.map_err(|error| failed("write the log", &path, &error))?;
        Ok((log, copy))
    });
    match log {
        Ok((log, copy)) => {
            tell::copy_to(Some(copy));
            let outcome = work();
            tell::copy_to(None);
            end(log, &outcome);
            outcome
        }
        Err(failure) => {
            tell::tell(&format!("this leaves no task log: {failure}"));
            work()
        }
    }
}

fn open(host: &Host, kind: &str, id: &str) -> Outcome<(PathBuf, File)> {
    let pid = std::process::id();
    let upid = Upid {
        node: host.name.clone(),
        pid,
        pstart: began(pid).unwrap_or(0),
        start: calendar().as_secs(),
        kind: kind.to_owned(),
        id: id.to_owned(),
        user: USER.to_owned(),
    };
    let path = upid.log(&host.paths);
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    let log = new_log(&path).map_err(|error| failed("make the log", &path, &error))?;
    Ok((path, log))
}

/// Writes how it ended.
fn end(mut log: File, outcome: &Outcome) {
    let text = match outcome {
        Ok(()) => "TASK OK\n".to_owned(),
        Err(failure) => {
            let said = failure.to_string();
            let (before, last) = said.rsplit_once('\n').unwrap_or(("", &said));
            let before = match before {
                "" => String::new(),
                lines => format!("{lines}\n"),
            };
            let last = match last {
                "" => format!("it ended with code {}", failure.code()),
                line => line.to_owned(),
            };
            format!("{before}TASK ERROR: {last}\n")
        }
    };
    // The work is done, and its outcome is what counts.
    drop(log.write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::host::test_node::test_node;
    use crate::serve::task::status;
    use std::fs;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// A process has one log.
    fn alone() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the one task of a node, and its log; it is removed.
    fn only(host: &Host) -> (String, String) {
        let root = host.paths.at("var/log/pve/tasks");
        let folders = fs::read_dir(root).unwrap().flatten();
        let mut logs = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
        let log = logs.next().unwrap();
        assert!(logs.next().is_none());
        let text = fs::read_to_string(log.path()).unwrap();
        fs::remove_file(log.path()).unwrap();
        (log.file_name().into_string().unwrap(), text)
    }

    #[test]
    fn what_is_said_and_how_it_ended_is_in_the_log() {
        let _alone = alone();
        let (_directory, host) = test_node("n1", &[]);
        let good = logged(&host, "clustercreate", "lab", || {
            tell::announce("begun");
            tell::tell("half-way");
            Ok(())
        });
        good.unwrap();
        let (name, text) = only(&host);
        assert!(name.starts_with("UPID:n1:"), "{name}");
        assert!(name.ends_with(":clustercreate:lab:root@pam:"), "{name}");
        // Other tests tell things meanwhile.
        let lines: Vec<&str> = text.lines().collect();
        let at = |line: &str| lines.iter().position(|it| *it == line);
        assert!(at("begun") < at("half-way") && at("begun").is_some());
        assert_eq!(lines.last(), Some(&"TASK OK"));

        let bad = logged(&host, "clusterjoin", "", || {
            Err(Failure::refused("detected the following error(s):\n* a"))
        });
        assert_eq!(bad.unwrap_err().code(), 2);
        let (name, text) = only(&host);
        assert!(name.contains(":clusterjoin::root@pam:"), "{name}");
        let wanted = "detected the following error(s):\nTASK ERROR: * a\n";
        assert!(text.ends_with(wanted), "{text}");
    }

    #[test]
    fn a_command_that_runs_is_a_task_that_runs() {
        let _alone = alone();
        let (_directory, host) = test_node("n1", &[]);
        let outcome = logged(&host, "clusterjoin", "", || {
            let folder = host.paths.at("var/log/pve/tasks");
            let folder = fs::read_dir(folder).unwrap().flatten().next().unwrap();
            let log = fs::read_dir(folder.path()).unwrap().flatten().next();
            let name = log.unwrap().file_name().into_string().unwrap();
            let found = status(&host.paths, &name.parse().unwrap())?;
            assert_eq!(found["status"], "running");
            Err(Failure::quiet(1))
        });
        outcome.unwrap_err();
        let (_, text) = only(&host);
        assert!(
            text.ends_with("TASK ERROR: it ended with code 1\n"),
            "{text}"
        );
    }

    #[test]
    fn without_a_place_for_the_log_the_work_is_done() {
        let (_directory, host) = test_node("n1", &[]);
        fs::write(host.paths.at("var"), "").unwrap();
        let mut is_done = false;
        let outcome = logged(&host, "clustercreate", "lab", || {
            is_done = true;
            Ok(())
        });
        outcome.unwrap();
        assert!(is_done);
    }
}
