//! One connection to a member for all that is asked over SSH: who logs in with a password, or with a
//! key that has one, is asked once.
//!
//! The first login leaves a process of OpenSSH behind, a "master", that holds the connection; what
//! comes after goes through its socket. Where that is not possible each command logs in itself, as it
//! does when the master has ended.
//!
//! Invariant: only root gets at the socket. The master ends with the [`Connection`], also when a join
//! fails or is broken off; after a kill it ends when nobody has used it for the idle time.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::files::failed;

/// Runs a program to its end and returns what it wrote.
pub type Run<'a> = &'a dyn Fn(&str, &[String]) -> Outcome<String>;

/// Seconds that a login may take, without the user's answers.
const LOGIN: u8 = 10;
/// A member that is gone is given up after three times as many seconds: the socket does not show it.
const ALIVE: u8 = 5;
/// What ssh says when another try would end as this one did. The last is how a program is broken off.
const FINAL: [&str; 4] = [
    "Permission denied",
    "Host key verification failed",
    "ssh: ",
    "signal: ",
];

/// A connection to root on a member.
pub struct Connection<'a> {
    member: String,
    directory: PathBuf,
    idle: Duration,
    /// The master was started, and its socket is in the directory.
    is_shared: bool,
    run: Run<'a>,
}

impl<'a> Connection<'a> {
    /// Nobody is logged in yet. Nothing is asked for longer than `idle` in between.
    pub fn new(host: &Host, member: &str, idle: Duration, run: Run<'a>) -> Self {
        let directory = format!("run/pvecm-ssh.{}", std::process::id());
        Self {
            member: member.to_owned(),
            directory: host.paths.at(directory),
            idle,
            is_shared: false,
            run,
        }
    }

    /// Whether root of this node can log in without being asked anything.
    pub fn opens_silently(&mut self) -> bool {
        if self.is_shared && self.remote(&["true"]).is_ok() {
            return true;
        }
        match self.start(true) {
            Ok(()) => true,
            Err(failure) => !is_final(&failure) && self.remote(&["true"]).is_ok(),
        }
    }

    /// Logs in; ssh asks the user on the terminal. Whether that is good for all that follows: if not,
    /// a connection can not be shared.
    ///
    /// # Errors
    /// When the member does not let the user in.
    pub fn opens_asking(&mut self) -> Outcome<bool> {
        match self.start(false) {
            Ok(()) => Ok(true),
            Err(failure) if is_final(&failure) => Err(failure),
            Err(_) => Ok(false),
        }
    }

    /// Runs a command on the member.
    ///
    /// # Errors
    /// When it fails, or there is no way to the member.
    pub fn remote(&self, command: &[&str]) -> Outcome<String> {
        let mut args = self.options();
        args.extend(["-l", "root", &self.member, "--"].map(str::to_owned));
        args.extend(command.iter().map(|&word| word.to_owned()));
        (self.run)("ssh", &args)
    }

    /// Options of ssh for what nobody is asked for.
    pub fn options(&self) -> Vec<String> {
        let mut options = [
            "BatchMode=yes".to_owned(),
            format!("ConnectTimeout={LOGIN}"),
        ]
        .to_vec();
        options.extend(self.sharing());
        given(&options)
    }

    /// The option of ssh that leads through the master, if there is one.
    pub fn sharing(&self) -> Option<String> {
        let socket = self.directory.join("master");
        let option = format!("ControlPath={}", socket.display());
        self.is_shared.then_some(option)
    }

    /// Starts the master.
    fn start(&mut self, is_silent: bool) -> Outcome {
        self.end();
        let made = DirBuilder::new().mode(0o700).create(&self.directory);
        made.map_err(|error| failed("make directory", &self.directory, &error))?;
        self.is_shared = true;
        let mut options = vec![
            format!("ConnectTimeout={LOGIN}"),
            format!("ServerAliveInterval={ALIVE}"),
            "ControlMaster=yes".to_owned(),
            format!("ControlPersist={}", self.idle.as_secs()),
        ];
        options.extend(self.sharing());
        if is_silent {
            options.push("BatchMode=yes".to_owned());
        }
        let mut args = given(&options);
        args.extend(["-l", "root", &self.member, "--", "true"].map(str::to_owned));
        let started = (self.run)("ssh", &args).map(drop);
        started.inspect_err(|_: &Failure| self.end())
    }

    /// Ends the master, if there is one, and removes what a killed command of this number may have left.
    fn end(&mut self) {
        if self.is_shared {
            let mut args = given(&self.sharing().into_iter().collect::<Vec<_>>());
            args.extend(["-O", "exit", &self.member].map(str::to_owned));
            // It ends by itself later, if it is not gone already.
            drop((self.run)("ssh", &args));
        }
        self.is_shared = false;
        drop(fs::remove_dir_all(&self.directory));
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_final(failure: &Failure) -> bool {
    FINAL.iter().any(|text| failure.text().contains(text))
}

/// As arguments.
fn given(options: &[String]) -> Vec<String> {
    let each = options.iter();
    each.flat_map(|option| ["-o".to_owned(), option.clone()])
        .collect()
}
