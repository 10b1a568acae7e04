//! The member over SSH, with the real programs: `ssh`, `ssh-copy-id` and `rsync`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::connection::{Connection, Run};
use super::peer::{Facts, Holder, Known, NotAdmitted, Peer, Request, Taken};
use super::version::Version;
use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome};
use crate::host::files::failed;
use crate::host::pve::{self, Members};
use crate::host::{Host, calendar};
use crate::info::Admitted;
use crate::value::NodeName;

/// A member that root of this node can log in to.
pub struct SshPeer<'a> {
    name: String,
    /// Root's key.
    key: PathBuf,
    /// Where the files of the cluster are copied to.
    scratch: PathBuf,
    connection: Connection<'a>,
    run: Run<'a>,
}

impl std::fmt::Debug for SshPeer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshPeer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> SshPeer<'a> {
    /// A member; nothing is asked of it yet, and never with more than `idle` in between.
    #[must_use]
    pub fn new(host: &Host, name: &str, idle: Duration, run: Run<'a>) -> Self {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let scratch = format!(".pvecm_add.tmp.{}", std::process::id());
        Self {
            name: bare.to_owned(),
            key: host.paths.ssh("id_rsa"),
            scratch: host.paths.database(scratch),
            connection: Connection::new(host, bare, idle, run),
            run,
        }
    }

    /// Logs in. When ssh has to ask the user for something, which `unknown` is told before, the member
    /// accepts root's key of this node after that.
    ///
    /// # Errors
    /// When the member does not let root in, and what `unknown` says.
    pub fn open(&mut self, unknown: &dyn Fn() -> Outcome) -> Outcome {
        if self.connection.opens_silently() {
            return Ok(());
        }
        unknown()?;
        let mut args = Vec::new();
        let asked = self.connection.opens_asking();
        let at = format!("root can not log in to '{}'", self.name);
        if asked.map_err(|failure| failure.within(at))? {
            // To look first whether it is there takes a login of its own.
            args.push("-f".to_owned());
            if let Some(option) = self.connection.sharing() {
                args.extend(["-o".to_owned(), option]);
            }
        }
        let key = self.key.display().to_string();
        args.extend(["-i".to_owned(), key, format!("root@{}", self.name)]);
        let copied = (self.run)("ssh-copy-id", &args);
        copied
            .map(drop)
            .map_err(|failure| failure.within("unable to copy ssh ID"))
    }

    fn remote(&self, command: &[&str]) -> Outcome<String> {
        self.connection.remote(command)
    }

    /// What the member runs.
    fn version(&self) -> Option<Version> {
        let own = self.remote(&["pvecm", "--version"]).ok();
        own.and_then(|text| Version::of_program(&text)).or_else(|| {
            let text = self.remote(&["pveversion"]).ok()?;
            Version::of_original(&text)
        })
    }

    fn copy_files(&self) -> Outcome<(Vec<u8>, Vec<u8>)> {
        // A command of the same number that was killed may have left it.
        drop(fs::remove_dir_all(&self.scratch));
        let made = DirBuilder::new().mode(0o700).create(&self.scratch);
        made.map_err(|error| failed("make directory", &self.scratch, &error))?;
        let at = if self.name.contains(':') {
            format!("[{}]", self.name)
        } else {
            self.name.clone()
        };
        let args = [
            format!("--rsh=ssh -l root {}", self.connection.options().join(" ")),
            "-Lq".to_owned(),
            format!("{at}:/etc/corosync/authkey"),
            format!("{at}:/etc/pve/corosync.conf"),
            format!("{}/", self.scratch.display()),
        ];
        let copied = (self.run)("rsync", &args).and_then(|_| {
            let read = |name: &str| {
                let path = self.scratch.join(name);
                fs::read(&path).map_err(|error| failed("read", &path, &error))
            };
            Ok((read("authkey")?, read("corosync.conf")?))
        });
        let removed = fs::remove_dir_all(&self.scratch);
        removed.map_err(|error| failed("remove", &self.scratch, &error))?;
        copied
    }
}

impl Peer for SshPeer<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn reopen(&mut self) -> Outcome {
        self.open(&|| Ok(()))
    }

    fn facts(&mut self) -> Outcome<Facts> {
        let version = self.remote(&["pvecm", "apiver"]).ok();
        let version = version.and_then(|text| text.trim().parse().ok());
        let before = calendar().as_secs();
        let there = self.remote(&["date", "+%s"]).ok();
        let there = there.and_then(|text| text.trim().parse::<i64>().ok());
        let here = i64::try_from(before.midpoint(calendar().as_secs())).unwrap_or(i64::MAX);
        let mut facts = Facts {
            api_version: version.unwrap_or(0),
            ahead: there.map(|there| there - here),
            version: self.version(),
            ..Facts::default()
        };
        let Ok(text) = self.remote(&["cat", "/etc/pve/corosync.conf"]) else {
            // Without a way to the member this says so; with one the file is not there.
            self.remote(&["true"])?;
            return Ok(facts);
        };
        let conf = ClusterConf::parse(text.as_bytes()).map_err(|error| {
            Failure::failed(format!(
                "the configuration of the cluster of '{}': {error}",
                self.name
            ))
        })?;
        let members = self.remote(&["cat", "/etc/pve/.members"])?;
        let members: Members = serde_json::from_str(&members).map_err(|error| {
            Failure::failed(format!("/etc/pve/.members on '{}': {error}", self.name))
        })?;
        facts.cluster = Some(conf.cluster_name().unwrap_or_default().to_owned());
        facts.quorate = members.cluster.map(|cluster| cluster.quorate == 1);
        facts.links = conf.links();
        facts.has_device = conf.has_device();
        let known = |node: crate::conf::NodeEntry| {
            let member = members.nodelist.get(&node.name);
            Known {
                id: node.id,
                addresses: node.addresses,
                api: member.and_then(|member| member.ip),
                online: member.map(|member| member.online == 1),
                name: node.name,
            }
        };
        facts.nodes = conf.nodes().into_iter().map(known).collect();
        Ok(facts)
    }

    fn taken(&mut self, ids: &[u32]) -> Outcome<BTreeMap<u32, Taken>> {
        let text = self.remote(&["cat", "/etc/pve/.vmlist"])?;
        let taken = pve::guests_of(text.as_bytes());
        let taken = taken.map_err(|error| {
            Failure::failed(format!("/etc/pve/.vmlist on '{}': {error}", self.name))
        })?;
        let mut found = BTreeMap::new();
        for id in ids {
            let Some(guest) = taken.get(id) else { continue };
            let folder = guest.folder();
            let path = format!("/etc/pve/nodes/{}/{folder}/{id}.conf", guest.node);
            let holder = Holder {
                conf: self.remote(&["cat", &path])?.into_bytes(),
                node: guest.node.clone(),
                folder: folder.to_owned(),
            };
            found.insert(*id, Taken::By(holder));
        }
        Ok(found)
    }

    fn admit(&mut self, request: &Request) -> Result<Admitted, NotAdmitted> {
        let node = request.name.as_str();
        let ask = |probation: bool| {
            let mut command = vec!["pvecm".to_owned(), "addnode".to_owned(), node.to_owned()];
            for (name, value) in request.parameters(1, probation) {
                command.extend([format!("--{name}"), value]);
            }
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            self.remote(&command)
        };
        let asked = match ask(true) {
            // A member of the original does not know the option, and has done nothing.
            Err(failure) if failure.to_string().contains("probation") => ask(false),
            asked => asked,
        };
        asked.map_err(|failure| {
            let text = format!("unable to add node: {failure}\nCluster join aborted!");
            // What ssh itself says begins so; then nobody knows how far the command got.
            let is_ssh = ["ssh: ", "Connection ", "Timeout, server"];
            // A shared connection breaks without a word.
            let is_silent = failure.text().ends_with("exit status: 255: ");
            if is_silent || is_ssh.iter().any(|begin| text.contains(begin)) {
                NotAdmitted::Unknown(text)
            } else {
                NotAdmitted::Refused(text)
            }
        })?;
        let (authkey, conf) = self
            .copy_files()
            .map_err(|failure| NotAdmitted::Unknown(failure.to_string()))?;
        Ok(Admitted {
            authkey,
            conf,
            warnings: Vec::new(),
        })
    }

    fn withdraw(&mut self, name: &NodeName) -> Outcome {
        match self.remote(&["pvecm", "delnode", name.as_str()]) {
            Err(failure) if !failure.to_string().contains("is not a known host") => Err(failure),
            _ => Ok(()),
        }
    }
}
