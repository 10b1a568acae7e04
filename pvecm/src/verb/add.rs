//! This node joins a cluster.

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::cli::Add;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::command::program;
use crate::host::stop::Signals;
use crate::info::JoinInfo;
use crate::join::api::{Ask, Credentials, Session, authenticate};
use crate::join::client::{Client, PORT, Target, Trust};
use crate::join::machine::{Machine, ThisMachine};
use crate::join::over_ssh::SshPeer;
use crate::join::peer::Request;
use crate::join::secret::{self, Prompt, Secret};
use crate::join::{self, Plan, checks, guests, steps};
use crate::serve::token::JoinToken;
use crate::value::Fingerprint;
use crate::verb::change::{begin_unless, need_root};

/// Joins.
///
/// # Errors
/// When a check says no, or a step fails: then this node is as it was.
pub fn run(host: &Host, args: &Add) -> Outcome {
    join_as(host, args, false)
}

/// Joins, also where the cluster still has an entry of this node, which is off.
///
/// # Errors
/// As [`run`].
pub fn again(host: &Host, args: &Add) -> Outcome {
    join_as(host, args, true)
}

fn join_as(host: &Host, args: &Add, again: bool) -> Outcome {
    need_root()?;
    join::check_working_directory(host, &std::env::current_dir().unwrap_or_default())?;
    let signals = Signals::block()?;
    let machine = ThisMachine::new(&signals);
    let peer = Whom::find(args, &Prompt::new(&signals))?;
    let lock = begin_unless(args.dry_run, host)?;
    if let Some(cluster) = join::is_member(host, &peer.host, &machine, args.dry_run)? {
        machine.say(&format!(
            "node '{}' is already a member of cluster '{cluster}': nothing to do",
            host.name
        ));
        return Ok(());
    }
    let mut links = args.links.given();
    let import = match args.import_guests {
        true => Some(guests::gather(host)?),
        false => None,
    };
    let found = checks::local(host, &machine, &mut links, import.as_deref());
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
    let mut plan = Plan {
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
        force: args.force,
        timeout: Duration::from_secs(args.timeout),
        import,
    };
    if args.use_ssh {
        over_ssh(host, &mut plan, &peer, &machine, args.dry_run)?;
    } else {
        over_https(host, &mut plan, peer, &machine, &signals, args)?;
    }
    // Services that are told to start again run commands that need the lock.
    drop(lock);
    if !args.dry_run {
        steps::finish(host, &machine);
    }
    Ok(())
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
    host: &Host,
    plan: &mut Plan,
    whom: Whom,
    machine: &ThisMachine<'_>,
    signals: &Signals,
    args: &Add,
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
    join::join(host, plan, &mut session, machine, args.dry_run)
}

fn over_ssh(
    host: &Host,
    plan: &mut Plan,
    whom: &Whom,
    machine: &ThisMachine<'_>,
    dry_run: bool,
) -> Outcome {
    let run = |name: &str, args: &[String]| program(name, args).output();
    let mut peer = SshPeer::new(host, &whom.host, &run);
    if !peer.is_open() {
        if dry_run {
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
        peer.copy_key(host)?;
    }
    join::join(host, plan, &mut peer, machine, dry_run)
}
