//! What a join changes on this node, in order, and how all of it is put back.
//!
//! Invariant: each change is in the journal before it is made. So a failed step, a signal and a kill
//! at any moment leave something that can be put back; a kill by the next command.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::Plan;
use super::database::{self, FILES};
use super::guests::{self, Guest};
use super::leftover;
use super::machine::{Machine, Step};
use super::member;
use super::peer::{Facts, NotAdmitted, Peer};
use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome, code};
use crate::host::files::{KEY, PUBLIC, failed};
use crate::host::services::{self, FILE_SYSTEM, MESSAGING, Verb};
use crate::host::stop::interrupted;
use crate::host::wait::until;
use crate::host::{Host, calendar, clusterconf};
use crate::info::Admitted;
use crate::transaction::{self, Transaction};

/// Sizes that the messaging daemon takes as a key.
const KEY_SIZES: std::ops::RangeInclusive<usize> = 128..=4096;
/// How long a member may take to see that this node is gone.
const GONE_PATIENCE: Duration = Duration::from_secs(15);
/// How long the running cluster may take to see a changed configuration.
const CONF_PATIENCE: Duration = Duration::from_secs(30);

/// So many times the messaging daemon is started before its end is a failure.
const OVERTAKEN: usize = 3;

/// Looks for quorum for each question whether the messaging daemon has ended.
const LOOKS_PER_QUESTION: u32 = 5;

/// What came of waiting for quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Quorate,
    /// The messaging daemon has ended.
    Overtaken,
}

/// How far the cluster knows of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    None,
    /// It is there, or may be.
    Made,
    /// It was there before.
    Replaced,
}

struct Join<'a> {
    host: &'a Host,
    plan: &'a Plan,
    facts: &'a Facts,
    machine: &'a dyn Machine,
    transaction: Transaction,
    entry: Entry,
    /// The services were started: the others may see this node.
    is_seen: bool,
    /// It counts for the quorum of the others, or may.
    has_votes: bool,
    /// Guests that are carried over, as they are when nobody can change them any more.
    guests: Option<Vec<Guest>>,
    /// Files of guests that were carried over.
    imported: Vec<PathBuf>,
}

/// Joins. All checks are passed.
///
/// # Errors
/// When a step fails; what could not be put back is in the text.
pub fn run(
    host: &Host,
    plan: &Plan,
    facts: &Facts,
    peer: &mut dyn Peer,
    machine: &dyn Machine,
) -> Outcome {
    let command = format!("pvecm add {}", peer.name());
    let mut join = Join {
        host,
        plan,
        facts,
        machine,
        transaction: Transaction::begin(&transaction::directory(&host.paths), &command)?,
        entry: Entry::None,
        is_seen: false,
        has_votes: true,
        guests: plan.import.clone(),
        imported: Vec::new(),
    };
    match join.all(peer) {
        Ok(()) => join.keep(),
        Err(failure) => Err(join.put_back(peer, failure)),
    }
}

impl Join<'_> {
    fn all(&mut self, peer: &mut dyn Peer) -> Outcome {
        self.prepare_ssh()?;
        let admitted = self.ask(peer)?;
        let mut conf = self.examine(&admitted)?;
        self.has_votes = !member::is_on_probation(&conf, self.host.name.as_str());
        self.machine.say("Join request OK, finishing setup locally");
        self.stop()?;
        self.configure(&admitted)?;
        self.put_database_aside()?;
        self.start()?;
        self.machine.say("waiting for quorum...");
        for left in (0..OVERTAKEN).rev() {
            if self.wait(&conf, left > 0)? == Waited::Quorate {
                break;
            }
            conf = self.again(peer, &conf)?;
        }
        self.machine.reached(Step::Quorate)?;
        self.vote()?;
        self.machine.cluster_files(self.host)?;
        self.machine.reached(Step::Certified)?;
        self.import()
    }

    fn prepare_ssh(&mut self) -> Outcome {
        self.machine.prepare_ssh(self.host, &mut self.transaction)?;
        self.machine.reached(Step::Prepared)
    }

    fn ask(&mut self, peer: &mut dyn Peer) -> Outcome<Admitted> {
        let mut request = self.plan.request.clone();
        // Some may only replace what is left of the earlier join, and not remove it.
        if self.plan.replaces_leftover && peer.withdraw(&request.name).is_err() {
            request.force = true;
        }
        leftover::remember(self.host, self.facts)?;
        self.machine.say("Request addition of this node");
        self.entry = if self.plan.request.force {
            Entry::Replaced
        } else {
            Entry::Made
        };
        match peer.admit(&request) {
            Ok(admitted) => {
                for warning in &admitted.warnings {
                    self.machine.say(&format!("cluster: {warning}"));
                }
                self.machine.reached(Step::Admitted)?;
                Ok(admitted)
            }
            Err(NotAdmitted::Refused(text)) => {
                self.entry = Entry::None;
                leftover::forget(self.host)?;
                Err(Failure::refused(text))
            }
            Err(NotAdmitted::Unknown(text)) => Err(Failure::failed(format!(
                "'{}' was asked to add this node, and it is not known whether it did: {text}",
                peer.name()
            ))),
        }
    }

    /// What the member has sent is about to be trusted.
    fn examine(&self, admitted: &Admitted) -> Outcome<ClusterConf> {
        if !KEY_SIZES.contains(&admitted.authkey.len()) {
            return Err(Failure::failed(format!(
                "the key that the member sent has {} bytes: corosync takes {} to {}",
                admitted.authkey.len(),
                KEY_SIZES.start(),
                KEY_SIZES.end()
            )));
        }
        let conf = ClusterConf::parse(&admitted.conf).map_err(|error| {
            Failure::failed(format!("the configuration that the member sent: {error}"))
        })?;
        let own = self.host.name.as_str();
        let entry = conf.node(own).ok_or_else(|| {
            Failure::failed(format!(
                "the configuration that the member sent has no node '{own}'"
            ))
        })?;
        let is_own = |address: &String| {
            let address = address.parse();
            address.is_ok_and(|address| self.plan.own_addresses().contains(&address))
        };
        if entry.addresses.is_empty() || !entry.addresses.values().all(is_own) {
            return Err(Failure::failed(format!(
                "the configuration that the member sent has node '{own}' at other addresses than asked for"
            )));
        }
        Ok(conf)
    }

    fn stop(&mut self) -> Outcome {
        if let Some(seen) = self.guests.take() {
            self.guests = Some(guests::again(self.host, &seen)?);
        }
        self.machine.say("stopping pve-cluster service");
        let mut units = vec![FILE_SYSTEM];
        if self.machine.messaging_runs() {
            units.push(MESSAGING);
        }
        let machine = self.machine;
        let control = move |verb: &str, units: &[&str]| machine.control(verb, units);
        self.transaction
            .services_with(&control, Verb::Stop, &units, Verb::Start)?;
        self.machine.reached(Step::Stopped)
    }

    fn configure(&mut self, admitted: &Admitted) -> Outcome {
        let paths = &self.host.paths;
        self.transaction.make_directory(&paths.corosync(""))?;
        let key = paths.corosync("authkey");
        self.transaction.replace(&key, &admitted.authkey, KEY)?;
        let conf = paths.corosync("corosync.conf");
        self.transaction.replace(&conf, &admitted.conf, PUBLIC)?;
        self.machine.reached(Step::Configured)
    }

    fn put_database_aside(&mut self) -> Outcome {
        let paths = &self.host.paths;
        let current = paths.database("config.db");
        let time = calendar().as_secs();
        let mut kept_whole = None;
        if current.exists() {
            let directory = paths.database("backup");
            let copy = directory.join(database::copy_name(time));
            self.machine
                .say(&format!("backup old database to '{}'", copy.display()));
            database::make_directory(&directory, &mut self.transaction)?;
            self.transaction.save(&copy)?;
            match database::dump(&current, &copy, &transaction::directory(&self.host.paths)) {
                Ok(()) => {}
                Err(error) if error.is_full() => {
                    return Err(Failure::failed(format!(
                        "can not keep the old database in '{}': {error}; make room there",
                        directory.display()
                    )));
                }
                Err(error) => {
                    let whole = paths.database(format!("config.db.{time}.bak"));
                    self.machine.say(&format!(
                        "warning: no backup of the old database as text: {error}; it is kept as '{}'",
                        whole.display()
                    ));
                    kept_whole = Some(whole);
                }
            }
        }
        self.machine.reached(Step::BackedUp)?;
        if let Some(whole) = kept_whole {
            self.transaction.save(&whole)?;
            fs::hard_link(&current, &whole).map_err(|error| failed("keep", &whole, &error))?;
        }
        for name in FILES {
            let path = paths.database(name);
            if path.exists() {
                self.transaction.move_away(&path)?;
            } else {
                self.transaction.save(&path)?;
            }
        }
        self.machine.reached(Step::MovedAway)
    }

    fn start(&mut self) -> Outcome {
        let machine = self.machine;
        let control = move |verb: &str, units: &[&str]| machine.control(verb, units);
        let units = [MESSAGING, FILE_SYSTEM];
        self.is_seen = true;
        let started = self
            .transaction
            .services_with(&control, Verb::Start, &units, Verb::Stop);
        started.map_err(|failure| {
            failure.within("corosync and pve-cluster do not start ('journalctl -u corosync -u pve-cluster' says why)")
        })?;
        self.machine.reached(Step::Started)
    }

    /// Waits for quorum. With `may_end` the end of the messaging daemon is no failure yet.
    fn wait(&self, conf: &ClusterConf, may_end: bool) -> Outcome<Waited> {
        let timeout = self.plan.timeout;
        let mut looks = 0_u32;
        let seen = until(timeout, || {
            if self.machine.interrupted() {
                return Some(Err(interrupted()));
            }
            // The cluster's files come after quorum.
            let is_there = self.machine.is_quorate(self.host)
                && clusterconf::read(self.host)
                    .is_ok_and(|conf| conf.node(self.host.name.as_str()).is_some());
            if is_there {
                return Some(Ok(Waited::Quorate));
            }
            // To ask that takes a process.
            looks = looks.wrapping_add(1);
            let asks = may_end && looks.is_multiple_of(LOOKS_PER_QUESTION);
            (asks && self.machine.messaging_has_ended()).then_some(Ok(Waited::Overtaken))
        });
        if let Some(waited) = seen {
            if matches!(waited, Ok(Waited::Quorate)) {
                self.machine.say("OK");
            }
            return waited;
        }
        let mut text = format!("no quorum within {} seconds", timeout.as_secs());
        for line in self.machine.diagnosis(self.host, conf) {
            text += &format!("\n* {line}");
        }
        Err(Failure::failed(text))
    }

    /// Starts once more with the configuration that the cluster has now. Corosync ends itself when the
    /// ring that it comes to has a newer one than it was started with: somebody has changed the
    /// cluster while this node was on its way.
    fn again(&mut self, peer: &mut dyn Peer, conf: &ClusterConf) -> Outcome<ClusterConf> {
        self.machine.say(
            "corosync has ended, as it does when the cluster's configuration changes meanwhile; asking \
             for the present one",
        );
        let mut request = self.plan.request.clone();
        request.force = true;
        let own = conf.node(self.host.name.as_str());
        request.id = own.and_then(|node| node.id).or(request.id);
        let admitted = peer.admit(&request).map_err(|refused| {
            let (NotAdmitted::Refused(text) | NotAdmitted::Unknown(text)) = refused;
            Failure::failed(format!(
                "corosync ended on this node ('journalctl -u corosync' says why), and '{}' does not give \
                 this node the cluster's configuration again: {text}",
                peer.name()
            ))
        })?;
        let conf = self.examine(&admitted)?;
        let path = self.host.paths.corosync("corosync.conf");
        self.transaction.replace(&path, &admitted.conf, PUBLIC)?;
        self.machine.control(Verb::Start.word(), &[MESSAGING])?;
        Ok(conf)
    }

    /// Ends the probation of this node, if the member has put it on one.
    fn vote(&mut self) -> Outcome {
        let votes = self.plan.request.votes.unwrap_or(1);
        let machine = self.machine;
        let give = move |id: u32, votes: u32| machine.give_votes(id, votes);
        let own = self.host.name.as_str();
        member::await_others(self.host, own, || self.machine.interrupted());
        self.has_votes = true;
        if let Some(version) = member::confirm(self.host, own, votes, &give)? {
            self.machine.say(&format!(
                "this node takes part, and votes from version {version} of the configuration on"
            ));
            self.await_taken(version)?;
        }
        self.machine.reached(Step::Voting)
    }

    /// Waits until the running cluster has a version of its configuration.
    fn await_taken(&self, version: u64) -> Outcome {
        let taken = until(CONF_PATIENCE, || {
            if self.machine.interrupted() {
                return Some(Err(interrupted()));
            }
            let members = crate::host::pve::members(&self.host.paths).ok()?;
            let cluster = members.cluster?;
            (cluster.version >= version && cluster.quorate == 1).then_some(Ok(()))
        });
        taken.unwrap_or_else(|| {
            Err(Failure::failed(format!(
                "the cluster has not taken version {version} of its configuration within {} seconds",
                CONF_PATIENCE.as_secs()
            )))
        })
    }

    /// Carries over the guests.
    fn import(&mut self) -> Outcome {
        if let Some(guests) = &self.guests {
            for line in guests::import(self.host, guests, &mut self.imported)? {
                self.machine.say(&line);
            }
        }
        self.machine.reached(Step::Imported)
    }

    fn keep(self) -> Outcome {
        self.transaction.keep()?;
        // The next join finds this node in the cluster whatever the note says.
        drop(leftover::forget(self.host));
        for old in database::prune(&self.host.paths.database("backup")) {
            self.machine
                .say(&format!("delete old backup '{}'", old.display()));
        }
        Ok(())
    }

    /// Puts everything back. The member is asked first if it may need this node for its quorum. Else
    /// this node does not wait for an answer that may never come. It is asked when this node is gone, or
    /// again then: it may not want to take out one that is there.
    fn put_back(self, peer: &mut dyn Peer, failure: Failure) -> Failure {
        let Self {
            host,
            plan,
            machine,
            transaction,
            entry,
            is_seen,
            has_votes,
            imported,
            ..
        } = self;
        machine.say("the join did not succeed; putting back what was changed");
        let name = &plan.request.name;
        // As long as this node can still change the cluster.
        let mut left = guests::remove(&imported);
        let mut withdraw = || match entry {
            Entry::None => Ok(()),
            Entry::Replaced => Err(Failure::failed("the entry was there before, and stays")),
            Entry::Made => peer.withdraw(name),
        };
        let asked = has_votes.then(&mut withdraw);
        let control = |verb: &str, units: &[&str]| machine.put_back(verb, units);
        left.extend(transaction.put_back_with(&control));
        let mut withdrawn = asked.unwrap_or_else(withdraw);
        if withdrawn.is_err() && entry == Entry::Made && is_seen {
            machine.say(&format!(
                "'{}' has not taken this node out yet; asking again for {} seconds",
                peer.name(),
                GONE_PATIENCE.as_secs()
            ));
            let again = || peer.withdraw(name).ok();
            withdrawn = until(GONE_PATIENCE, again).map_or(withdrawn, Ok);
        }
        let mut text = failure.to_string();
        let member = peer.name();
        match (entry, withdrawn) {
            (Entry::Made, Ok(())) => {
                drop(leftover::forget(host));
                machine.say(&format!("'{member}' has taken this node out again"));
            }
            (Entry::None, _) | (_, Ok(())) => {}
            (_, Err(why)) => {
                text += &format!(
                    "\nNode '{name}' is still in the configuration of the cluster: {why}\nRun 'pvecm delnode \
                     {name}' on '{member}', if the cluster has no quorum after 'pvecm expected 1'; or \
                     mend what is wrong and join again from here."
                );
            }
        }
        if left.is_empty() {
            text += "\nThis node is as it was before.";
        } else {
            text += &format!(
                "\nThis node is not as it was before: {}",
                crate::verb::change::rest(host, &left)
            );
        }
        if failure.code() == code::REFUSED && entry == Entry::None {
            Failure::refused(text)
        } else {
            Failure::failed(text)
        }
    }
}

/// What follows a join that is done: nothing of it can make the join undone.
pub fn finish(host: &Host, machine: &dyn Machine) {
    machine.say("generated new node certificate, restart pveproxy and pvedaemon services");
    machine.say(&format!(
        "successfully added node '{}' to cluster.",
        host.name
    ));
    for failure in services::reload_api(&|verb, units| machine.control(verb, units)) {
        machine.say(&format!("warning: {failure}"));
    }
}
