//! This node joins a cluster.

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::cli::Add;
use crate::failure::{Failure, Outcome};
use crate::host::command::program;
use crate::host::stop::Signals;
use crate::host::{Host, clusterconf};
use crate::info::JoinInfo;
use crate::join::api::{Ask, Credentials, Session, authenticate};
use crate::join::client::{Client, PORT, Target, Trust};
use crate::join::machine::{Machine, ThisMachine};
use crate::join::over_ssh::SshPeer;
use crate::join::peer::{Peer, Request};
use crate::join::secret::{self, Prompt, Secret};
use crate::join::{self, Leaving, Plan, checks, guests, steps};
use crate::serve::token::JoinToken;
use crate::value::Fingerprint;
use crate::verb::change::{begin, begin_unless, need_root};
use crate::verb::{task, two_node};

/// What comes before and after the wait for quorum takes no longer.
const PAUSE: Duration = Duration::from_secs(60);

/// Joins.
///
/// # Errors
/// When a check says no, or a step fails: then this node is as it was.
pub fn run(host: &Host, args: &Add) -> Outcome {
    Joining { host, args }.as_task(|it| it.alone(false))
}

/// Joins, also where the cluster still has an entry of this node, which is off.
///
/// # Errors
/// As [`run`].
pub fn again(host: &Host, args: &Add) -> Outcome {
    Joining { host, args }.as_task(|it| it.alone(true))
}

/// As [`again`], for a node that is in a cluster still: it leaves that, with `leave`, when all that
/// can be checked before is.
///
/// # Errors
/// When a check says no: nothing is changed then. What comes after `leave` is put back, but the node
/// has left.
pub fn after_leaving(host: &Host, args: &Add, leave: &dyn Fn() -> Outcome) -> Outcome {
    Joining { host, args }.as_task(|it| it.after(leave))
}

#[derive(Clone, Copy)]
struct Joining<'a> {
    host: &'a Host,
    args: &'a Add,
}

/// What is done with a member that lets this node log in.
type Work<'a> = &'a mut dyn FnMut(&mut dyn Peer) -> Outcome;

impl Joining<'_> {
    /// Leaves a log of what `work` does, unless the user only wants to know what that would be.
    fn as_task(self, work: impl FnOnce(Self) -> Outcome) -> Outcome {
        need_root()?;
        if self.args.dry_run {
            return work(self);
        }
        task::logged(self.host, "clusterjoin", "", || work(self))
    }

    /// Of a node that is in no cluster.
    fn alone(self, again: bool) -> Outcome {
        let Self { host, args } = self;
        let signals = begin_watch(host)?;
        let machine = ThisMachine::new(&signals);
        let whom = Whom::find(args, &Prompt::new(&signals))?;
        let lock = begin_unless(args.dry_run, host)?;
        if let Some(cluster) = join::is_member(host, &whom.host, &machine, args.dry_run)? {
            machine.say(&format!(
                "node '{}' is already a member of cluster '{cluster}': nothing to do",
                host.name
            ));
            return Ok(());
        }
        join::refuse_self(host, &whom.host, args.use_ssh, &machine)?;
        let mut plan = self.plan(&machine, again, false)?;
        self.with_member(whom, &machine, &signals, &mut |peer| {
            join::join(host, &mut plan, peer, &machine, args.dry_run)
        })?;
        // Services that are told to start again run commands that need the lock.
        drop(lock);
        self.finish(&machine);
        Ok(())
    }

    /// Of a node that is in a cluster until `leave` is done.
    fn after(self, leave: &dyn Fn() -> Outcome) -> Outcome {
        let Self { host, args } = self;
        let signals = begin_watch(host)?;
        let machine = ThisMachine::new(&signals);
        let whom = Whom::find(args, &Prompt::new(&signals))?;
        join::refuse_self(host, &whom.host, args.use_ssh, &machine)?;
        let mut plan = self.plan(&machine, true, true)?;
        let settle = || Ok((begin(host)?, self.plan(&machine, true, false)?));
        let leaving = Leaving {
            leave,
            settle: &settle,
        };
        self.with_member(whom, &machine, &signals, &mut |peer| {
            join::leave_and_join(host, &mut plan, &leaving, peer, &machine, args.dry_run)
        })?;
        self.finish(&machine);
        Ok(())
    }

    /// Looks at this node: as it is, or as it will be when it has left its cluster.
    fn plan(self, machine: &dyn Machine, again: bool, leaves: bool) -> Outcome<Plan> {
        let Self { host, args } = self;
        let mut links = args.links.given();
        let import = match args.import_guests {
            true => Some(guests::gather(host)?),
            false => None,
        };
        let look = if leaves {
            checks::leaving
        } else {
            checks::local
        };
        let found = look(host, machine, &mut links, import.as_deref());
        found.settle(args.force, &|line| machine.say(line))?;
        let fallback = match links.is_empty() {
            true => {
                let address = machine.own_address(host)?;
                machine.say(&format!(
                    "No cluster network links passed explicitly, fallback to local node IP '{address}'"
                ));
                Some(address)
            }
            false => None,
        };
        Ok(Plan {
            request: Request {
                name: host.name.clone(),
                links,
                fallback,
                id: args.nodeid,
                votes: args.votes,
                force: false,
            },
            replaces_leftover: false,
            again,
            leaves,
            force: args.force,
            timeout: Duration::from_secs(args.timeout),
            import,
        })
    }

    fn with_member(
        self,
        whom: Whom,
        machine: &ThisMachine<'_>,
        signals: &Signals,
        work: Work<'_>,
    ) -> Outcome {
        if self.args.use_ssh {
            over_ssh(self.host, &whom, machine, self.args, work)
        } else {
            over_https(whom, machine, signals, self.args, work)
        }
    }

    fn finish(self, machine: &dyn Machine) {
        if !self.args.dry_run {
            steps::finish(self.host, machine);
            let conf = clusterconf::read(self.host).ok();
            if let Some(hint) = conf.and_then(|conf| two_node::hint(&conf)) {
                machine.say(&hint);
            }
        }
    }
}

/// What comes before everything else; signals are seen from here on.
fn begin_watch(host: &Host) -> Outcome<Signals> {
    need_root()?;
    join::check_working_directory(host, &std::env::current_dir().unwrap_or_default())?;
    Signals::block()
}

/// Who is talked to, and what is known of it.
struct Whom {
    host: String,
    fingerprint: Option<Fingerprint>,
    /// What a request carries instead of a login.
    authorization: Option<Secret>,
}

impl Whom {
    fn find(args: &Add, prompt: &Prompt<'_>) -> Outcome<Self> {
        let mut whom = Self {
            host: String::new(),
            fingerprint: None,
            authorization: None,
        };
        if let Some(path) = &args.token_file {
            let text = if path.as_os_str() == "-" && Prompt::is_terminal() {
                prompt.secret("Join token: ")?
            } else {
                secret::from_file(path)?
            };
            let token: JoinToken = text.expose().parse().map_err(Failure::refused)?;
            whom.fingerprint = Some(token.fingerprint);
            whom.authorization = Some(Secret::new(token.authorization().as_str()));
            whom.host = token.address;
        }
        if let Some(text) = &args.info {
            let info: JoinInfo = text
                .parse()
                .map_err(|error| Failure::usage(format!("--info: {error}")))?;
            whom.fingerprint = Some(info.fingerprint);
            whom.host = info.address;
        }
        if let Some(host) = &args.hostname {
            whom.host.clone_from(host);
        }
        if whom.host.is_empty() {
            return Err(Failure::usage(
                "say which member to talk to: its address or name, --info, or --token-file",
            ));
        }
        // What the user says himself counts.
        whom.fingerprint = args.fingerprint.or(whom.fingerprint);
        Ok(whom)
    }
}

struct Person<'a>(Prompt<'a>);

impl Ask for Person<'_> {
    fn line(&self, question: &str) -> Outcome<String> {
        self.0.line(question)
    }

    fn secret(&self, question: &str) -> Outcome<Secret> {
        self.0.secret(question)
    }
}

fn over_https(
    whom: Whom,
    machine: &ThisMachine<'_>,
    signals: &Signals,
    args: &Add,
    work: Work<'_>,
) -> Outcome {
    let person = Person(Prompt::new(signals));
    let credentials = match (whom.authorization, &args.password_file) {
        (Some(authorization), _) => Credentials::Token(authorization),
        (None, Some(path)) => Credentials::Password(secret::from_file(path)?),
        (None, None) => {
            let question = format!(
                "Please enter superuser (root) password for '{}': ",
                whom.host
            );
            Credentials::Password(person.secret(&question)?)
        }
    };
    let interrupted = || machine.interrupted();
    let client = Client::new(Target::new(&whom.host, PORT), &interrupted)?;
    machine.say(&format!(
        "Establishing API connection with host '{}'",
        whom.host
    ));
    let trust = whom.fingerprint.map_or(Trust::System, Trust::Pinned);
    let trust = authenticate(&client, trust, &person, &|line| machine.say(line))?;
    let mut session = Session::login(client, trust, &credentials, &person)?;
    machine.say("Login succeeded.");
    work(&mut session)
}

fn over_ssh(
    host: &Host,
    whom: &Whom,
    machine: &ThisMachine<'_>,
    args: &Add,
    work: Work<'_>,
) -> Outcome {
    let run = |name: &str, args: &[String]| program(name, args).output();
    // The longest pause is the wait for quorum.
    let idle = Duration::from_secs(args.timeout).saturating_add(PAUSE);
    let mut peer = SshPeer::new(host, &whom.host, idle, &run);
    peer.open(&|| {
        if args.dry_run {
            return Err(Failure::refused(format!(
                "root of this node can not log in to '{0}' over SSH yet, so its cluster can not be \
                 checked: 'ssh-copy-id root@{0}' lets it",
                whom.host
            )));
        }
        if !host.paths.ssh("id_rsa.pub").exists() {
            machine.make_root_key(host)?;
        }
        if !std::io::stdin().is_terminal() {
            machine.say(
                "root's key is not known there yet: ssh asks for the password on the terminal",
            );
        }
        Ok(())
    })?;
    work(&mut peer)
}
