//! One host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::unistd::sethostname;

use super::namespaces::{Namespaces, command};
use super::program::{Process, Program};
use super::{LINKS, SharedNamespaces, address, below_root};

/// Directories of the machine of which a host has a private copy, made on write.
const COPIED: [&str; 4] = ["/etc", "/var/lib", "/var/log", "/root"];
/// Directories of a host that are directories of the lab.
const DISKS: [&str; 3] = ["etc/corosync", "var/lib/corosync", "var/lib/pve-cluster"];

/// A host of a [`Lab`](super::Lab).
#[derive(Debug)]
pub struct Host {
    id: usize,
    /// How many hosts the lab has.
    count: usize,
    dir: PathBuf,
    namespaces: Option<SharedNamespaces>,
    processes: Mutex<Vec<Weak<Process>>>,
}

impl Host {
    pub(super) fn new(id: usize, count: usize, lab: &Path) -> Self {
        let dir = lab.join(format!("n{id}"));
        Self {
            id,
            count,
            dir,
            namespaces: None,
            processes: Mutex::default(),
        }
    }

    /// Its number, from 1.
    #[must_use]
    pub fn id(&self) -> usize {
        self.id
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("n{}", self.id)
    }

    /// Its address on a link.
    #[must_use]
    pub fn address(&self, link: usize) -> String {
        address(self.id, link)
    }

    /// Process 1 of the host, as the machine sees it: for `nsenter`.
    ///
    /// # Errors
    /// When the host is powered off.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.namespaces()?.pid())
    }

    /// A path of the host, for use from outside. It stays valid until the host is powered off.
    ///
    /// # Panics
    /// When the host is powered off.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let namespaces = self.namespaces.as_ref();
        let pid = namespaces
            .map(|it| it.pid())
            .unwrap_or_else(|| panic!("n{} is off", self.id));
        below_root(pid, path.as_ref())
    }

    /// Where a directory of the host is on the disk of this machine, also while it is off:
    /// `etc/corosync`, `var/lib/corosync` or `var/lib/pve-cluster`.
    #[must_use]
    pub fn disk(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join("disk").join(path)
    }

    /// Runs a shell command on the host and waits for its end.
    ///
    /// # Errors
    /// When it cannot be started; its own failure is in the output.
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.namespaces()?.inside(|| {
            let mut shell = command("bash");
            shell.args(["-c", script]).stdin(Stdio::null());
            Ok(shell.output()?)
        })
    }

    /// Runs a shell command that must succeed, and gives what it printed.
    ///
    /// # Errors
    /// When it fails; the text holds what it wrote to its error output.
    pub fn sh_ok(&self, script: &str) -> Result<String> {
        let output = self.sh(script)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: '{script}' failed: {}: {}",
            self.name(),
            output.status,
            errors.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program in the background, with its output in the log `NAME.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, name: &str, program: &Path, args: &[&str]) -> Result<Program> {
        let log = self.dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let program = program
            .to_str()
            .context("the path of the program is not text")?;
        let child = self.namespaces()?.inside(|| {
            command(program)
                .args(args)
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file)
                // A Ctrl-C at the terminal is for the test, which then ends its programs.
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {program} on {}", self.name()))
        })?;
        let (program, process) = Program::new(format!("{name} on {}", self.name()), log, child);
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        processes.retain(|process| process.strong_count() > 0);
        processes.push(Arc::downgrade(&process));
        Ok(program)
    }

    /// Runs an interactive program on the terminal of this process, until it ends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn interactive(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
        let mut child = self.namespaces()?.inside(|| {
            Ok(command(program)
                .args(args)
                .envs(env.iter().copied())
                .spawn()?)
        })?;
        child.wait()?;
        Ok(())
    }

    /// Makes its namespaces and mounts.
    pub(super) fn boot(&mut self) -> Result<SharedNamespaces> {
        if self.namespaces.is_some() {
            bail!("{} is running already", self.name());
        }
        for disk in DISKS {
            fs::create_dir_all(self.disk(disk))?;
        }
        let namespaces = Arc::new(Namespaces::new(|| self.set_up())?);
        self.namespaces = Some(Arc::clone(&namespaces));
        Ok(namespaces)
    }

    /// Kills all its processes.
    pub(super) fn power_off(&mut self) {
        let Some(namespaces) = self.namespaces.take() else {
            return;
        };
        namespaces.kill(|| {
            let processes = self
                .processes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for process in processes.iter().filter_map(Weak::upgrade) {
                process.end();
            }
        });
    }

    fn namespaces(&self) -> Result<&SharedNamespaces> {
        self.namespaces
            .as_ref()
            .with_context(|| format!("{} is powered off", self.name()))
    }

    /// Runs inside the new namespaces.
    fn set_up(&self) -> Result<()> {
        sethostname(self.name()).context("cannot set the host name")?;
        for dir in COPIED {
            self.mount_copy(dir)?;
        }
        for path in DISKS {
            let at = Path::new("/").join(path);
            fs::create_dir_all(&at)?;
            bind(&self.disk(path), &at)?;
        }
        fs::create_dir_all("/etc/pve")?;
        mount_tmpfs("/run", "mode=755")?;
        fs::create_dir("/run/lock")?;
        mount_tmpfs("/dev/shm", "mode=1777")?;
        fs::write("/etc/hostname", format!("{}\n", self.name()))?;
        fs::write("/etc/hosts", self.hosts_file())?;
        Ok(())
    }

    fn hosts_file(&self) -> String {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for id in 1..=self.count {
            text += &format!("{} n{id}.lab n{id}\n", address(id, 0));
            for link in 1..LINKS {
                text += &format!("{} n{id}-{link}\n", address(id, link));
            }
        }
        text
    }

    fn mount_copy(&self, dir: &str) -> Result<()> {
        let name = dir.trim_start_matches('/').replace('/', "-");
        let upper = self.dir.join("copy").join(&name);
        let work = self.dir.join("copy").join(format!("{name}.work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!(
            "lowerdir={dir},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        mount(
            Some("overlay"),
            dir,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| {
            format!(
                "cannot mount a private copy of {dir} (overlay, {options}); if {} is itself \
                     on an overlay, set PMXCFS_LAB_DIR to a directory on a disk",
                self.dir.display()
            )
        })
    }
}

fn bind(source: &Path, at: &Path) -> Result<()> {
    mount(
        Some(source),
        at,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("cannot mount {} at {}", source.display(), at.display()))
}

fn mount_tmpfs(at: &str, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("cannot mount a tmpfs at {at}"))
}
