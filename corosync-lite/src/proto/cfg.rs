//! Cluster-wide commands: reload, change of keys, kill and shutdown, and what tools ask about links.
//!
//! A core without I/O. Requests of clients and messages of the group come in, [`Cfg::poll_output`]
//! gives what is to be done, in order. What it has to know of the ring is asked through [`View`].
//!
//! Commands that concern the cluster are carried out when they come back in the total order, on the
//! sender too: all nodes do them at the same place in the stream.
//!
//! A reload that comes while one is under way is done after it, once, however many there are.
//!
//! A change of keys has two steps after the key was loaded, each with a message of every node. The
//! first message of a node says that it accepts the new key: when all members have said so, it is
//! sent with. The second one says that the node sends with it: when all have said so, the old key
//! is forgotten. So nobody sends what a member can not read, however far behind that is. (The
//! original goes by its own messages alone, and loses members that lag behind.) A member that has
//! not loaded the key holds the change up until it reloads or leaves.
//!
//! A member of the original waits for nobody: it sends with the new key one visit of the token after
//! it has loaded it, and forgets the old one at the next. So when a member uses the new key, or says
//! so, before all accept it, this node [follows](Cfg::follow).
//!
//! Invariants: each request gets one response, unless its client goes. What is kept grows with the
//! number of clients alone, whatever the network or a client sends. A step of an older change of
//! keys never undoes a newer one.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;

use super::srp::Lane;
use crate::service::cfg::{Event, Request, Response};
use crate::service::{ClientId, Status};
use crate::wire::NodeId;
use crate::wire::cfg::{CryptoPhase, Message};
use crate::wire::exec::Source;

mod view;
mod vote;

pub use view::{FromConfig, LinkState, View};
use vote::{Decision, Vote};

/// The one version of the answer to [`Request::NodeStatus`].
const NODE_STATUS_VERSION: u32 = 1;
/// Most bytes of a reason, its NUL included.
const REASON_MAX: usize = 256;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To all nodes.
    Mcast {
        /// Always [`Lane::Ordinary`].
        lane: Lane,
        /// What is sent.
        message: Message,
    },
    /// Answers a client.
    Respond(ClientId, Response),
    /// Tells a client.
    Event(ClientId, Event),
    /// Read the configuration file and apply it before anything else is delivered, then call
    /// [`Cfg::reload_done`].
    Reload,
    /// Close the log files and open them again.
    ReopenLogs,
    /// The transport sends with the key that the last reload prepared.
    ActivateKeys,
    /// The transport accepts the old key no longer.
    CleanupKeys,
    /// Members may have missed what was sent with the new key before they had it: send it again with
    /// the old one when the token comes, then call [`Cfg::follow`].
    Repeat,
    /// Leave the ring in order and stop.
    Shutdown,
    /// Stop at once with exit status 255, without leaving the ring.
    Killed {
        /// Who asked for it.
        by: NodeId,
        /// Why, in printable characters.
        reason: String,
    },
    /// For the log.
    Log(Log),
}

/// What the log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// A node asked all to reload.
    ReloadAsked {
        /// Which one.
        by: NodeId,
    },
    /// Another node is to be killed.
    KillAsked {
        /// The one to go.
        node: NodeId,
        /// Who asked.
        by: NodeId,
    },
    /// A node leaves because somebody there asked for it.
    ShutDown {
        /// Which one.
        node: NodeId,
    },
    /// This node sends with the new key.
    KeysInUse {
        /// Because others do, before all have said that they accept it.
        follows: bool,
    },
    /// All members send with the new key, and this node has forgotten the old one.
    KeysChanged,
    /// A vote on the shutdown of this node has ended.
    ShutdownVote {
        /// It stops.
        stops: bool,
        /// Clients that agreed.
        yes: usize,
        /// Clients that did not.
        no: usize,
        /// Clients that did not answer in time.
        silent: usize,
    },
}

/// What a reload led to, as far as this service goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The new configuration is in force.
    Applied {
        /// The transport was given another key, cipher or hash, which it does not send with yet.
        keys_changed: bool,
    },
    /// The running configuration stays.
    Refused,
}

/// The command service of one node.
#[derive(Debug)]
pub struct Cfg {
    local: NodeId,
    /// Who wants to be asked before a shutdown.
    trackers: BTreeSet<ClientId>,
    vote: Option<Vote>,
    /// Clients whose reload has been multicast but not come back.
    asked: BTreeSet<ClientId>,
    /// The reload under way, and who waits for it.
    running: Option<BTreeSet<ClientId>>,
    /// The reload to be done after it, and who waits for that.
    next: Option<BTreeSet<ClientId>>,
    /// The ring.
    members: BTreeSet<NodeId>,
    /// Own messages of each phase that have not come back.
    activations: usize,
    cleanups: usize,
    /// Own messages have come back, those of others are waited for.
    waits_to_activate: bool,
    waits_to_clean_up: bool,
    /// Members that accept the new key.
    accept: BTreeSet<NodeId>,
    /// Members that send with it.
    send: BTreeSet<NodeId>,
    output: VecDeque<Output>,
}

impl Cfg {
    /// The service on node `local`.
    #[must_use]
    pub fn new(local: NodeId) -> Self {
        Self {
            local,
            trackers: BTreeSet::new(),
            vote: None,
            asked: BTreeSet::new(),
            running: None,
            next: None,
            members: BTreeSet::new(),
            activations: 0,
            cleanups: 0,
            waits_to_activate: false,
            waits_to_clean_up: false,
            accept: BTreeSet::new(),
            send: BTreeSet::new(),
            output: VecDeque::new(),
        }
    }

    /// Takes a request.
    pub fn handle_request(
        &mut self,
        now: Instant,
        client: ClientId,
        request: Request,
        view: &dyn View,
    ) {
        let response = match request {
            Request::RingStatus => Response::RingStatus(view::ring_status(view)),
            // Links come back on their own.
            Request::RingReenable => Response::RingReenable(Status::NOT_SUPPORTED),
            Request::KillNode { nodeid, reason } => self.kill(NodeId(nodeid), &reason, view),
            Request::TryShutdown { flags } => return self.try_shutdown(now, client, flags, view),
            Request::ReplyToShutdown { yes } => return self.reply(client, yes),
            Request::NodeAddresses { nodeid } => Response::NodeAddresses(addresses(nodeid, view)),
            Request::LocalNode => Response::LocalNode(view.local().0),
            Request::Reload => return self.ask_for_reload(client),
            Request::ReopenLogs => {
                self.output.push_back(Output::ReopenLogs);
                Response::ReopenLogs(Status::OK)
            }
            Request::NodeStatus { nodeid, version } => {
                let status = view::node_status(NodeId(nodeid), view);
                Response::NodeStatus(Box::new(match status {
                    None => Err(Status::FAILED_OPERATION),
                    Some(_) if version != NODE_STATUS_VERSION => Err(Status::NOT_SUPPORTED),
                    Some(status) => Ok(status),
                }))
            }
            Request::TrackStart => {
                self.start_tracking(client);
                Response::TrackStart(Status::OK)
            }
            Request::TrackStop => {
                self.stop_tracking(client);
                Response::TrackStop(Status::OK)
            }
        };
        self.respond(client, response);
    }

    /// Forgets a client. One that was asked about a shutdown no longer objects.
    pub fn client_gone(&mut self, client: ClientId) {
        self.asked.remove(&client);
        for waiting in [&mut self.running, &mut self.next].into_iter().flatten() {
            waiting.remove(&client);
        }
        if self.vote.as_ref().is_some_and(|vote| vote.asker == client) {
            self.vote = None;
        }
        self.stop_tracking(client);
    }

    /// Takes a message of the group, own ones included, in their order.
    pub fn handle_message(&mut self, sender: NodeId, message: &Message) {
        match message {
            Message::RingReenable(_) => {}
            Message::KillNode { node, reason } if *node == self.local => {
                self.output.push_back(Output::Killed {
                    by: sender,
                    reason: printable(reason),
                });
            }
            Message::KillNode { node, .. } => self.log(Log::KillAsked {
                node: *node,
                by: sender,
            }),
            Message::Shutdown => {
                self.log(Log::ShutDown { node: sender });
                if sender == self.local {
                    self.output.push_back(Output::Shutdown);
                }
            }
            Message::Reload(source) => {
                if self.running.is_none() && !self.is_changing() {
                    // Of members that were late for the last change.
                    self.accept.clear();
                }
                let connection = ClientId(source.connection);
                let own = sender == self.local && self.asked.remove(&connection);
                self.log(Log::ReloadAsked { by: sender });
                self.reload(own.then_some(connection));
            }
            Message::CryptoReconfig(phase) => self.step_keys(sender, *phase),
        }
    }

    /// A regular configuration was installed.
    pub fn set_members(&mut self, members: &[NodeId]) {
        self.members = members.iter().copied().collect();
        self.accept.retain(|node| self.members.contains(node));
        self.send.retain(|node| self.members.contains(node));
        self.change_keys();
    }

    /// Says how the reload of [`Output::Reload`] went.
    pub fn reload_done(&mut self, result: Reloaded) {
        let Some(waiting) = self.running.take() else {
            return;
        };
        if let Reloaded::Applied { keys_changed: true } = result {
            self.activations += 1;
            self.mcast(Message::CryptoReconfig(CryptoPhase::Activate));
        }
        let status = match result {
            Reloaded::Applied { .. } => Status::OK,
            Reloaded::Refused => Status::INVALID_PARAM,
        };
        for client in waiting {
            self.respond(client, Response::Reload(status));
        }
        if let Some(next) = self.next.take() {
            self.running = Some(next);
            self.output.push_back(Output::Reload);
        }
    }

    /// Ends a vote that took too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(vote) = self.vote.as_mut() else {
            return;
        };
        if now < vote.deadline {
            return;
        }
        vote.end();
        let flags = vote.flags;
        self.count_votes();
        for client in &self.trackers {
            let event = Event {
                status: Status::TIMEOUT,
                flags,
            };
            self.output.push_back(Output::Event(*client, event));
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.vote.as_ref().map(|vote| vote.deadline)
    }

    /// The next thing to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    fn kill(&mut self, node: NodeId, reason: &str, view: &dyn View) -> Response {
        if !view.is_member(node) {
            return Response::KillNode(Status::NOT_EXIST);
        }
        let mut reason = reason.as_bytes().to_vec();
        reason.truncate(REASON_MAX - 1);
        reason.push(0);
        self.mcast(Message::KillNode {
            node,
            reason: Bytes::from(reason),
        });
        Response::KillNode(Status::OK)
    }

    fn try_shutdown(&mut self, now: Instant, client: ClientId, flags: u32, view: &dyn View) {
        if flags == vote::IMMEDIATE {
            return self.agree(client);
        }
        if self.vote.is_some() {
            return self.respond(client, Response::TryShutdown(Status::EXIST));
        }
        let voters = self.trackers.iter().copied().filter(|id| *id != client);
        let vote = Vote::new(client, flags, now + view.shutdown_timeout(), voters);
        for voter in vote.silent() {
            self.output.push_back(Output::Event(voter, vote.question()));
        }
        if vote.decision().is_some() {
            // Nobody to ask.
            return self.agree(client);
        }
        self.vote = Some(vote);
    }

    /// The answer to the one who asked for the shutdown leaves before that to the one who agreed.
    fn reply(&mut self, client: ClientId, yes: bool) {
        let counts = self
            .vote
            .as_mut()
            .is_some_and(|vote| vote.reply(client, yes));
        self.count_votes();
        let status = if counts { Status::OK } else { Status::ACCESS };
        self.respond(client, Response::ReplyToShutdown(status));
    }

    fn start_tracking(&mut self, client: ClientId) {
        if !self.trackers.insert(client) {
            return;
        }
        if let Some(vote) = self.vote.as_mut().filter(|vote| vote.asker != client) {
            vote.add(client);
            let question = vote.question();
            self.output.push_back(Output::Event(client, question));
        }
    }

    fn stop_tracking(&mut self, client: ClientId) {
        if self.trackers.remove(&client)
            && let Some(vote) = self.vote.as_mut()
        {
            vote.reply(client, true);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let Some(vote) = self.vote.take() else {
            return;
        };
        let Some(Decision { stops, log }) = vote.decision() else {
            self.vote = Some(vote);
            return;
        };
        self.log(log);
        if stops {
            self.agree(vote.asker);
        } else {
            self.respond(vote.asker, Response::TryShutdown(Status::BUSY));
        }
    }

    fn agree(&mut self, client: ClientId) {
        self.respond(client, Response::TryShutdown(Status::OK));
        self.mcast(Message::Shutdown);
    }

    fn ask_for_reload(&mut self, client: ClientId) {
        let waits = [&self.running, &self.next]
            .into_iter()
            .flatten()
            .any(|clients| clients.contains(&client));
        // Libraries ask one thing at a time; one that does not is told apart by its answers.
        if waits || !self.asked.insert(client) {
            return self.respond(client, Response::Reload(Status::TRY_AGAIN));
        }
        self.mcast(Message::Reload(Source {
            node: self.local,
            connection: client.0,
        }));
    }

    fn reload(&mut self, client: Option<ClientId>) {
        if self.running.is_some() {
            self.next.get_or_insert_default().extend(client);
        } else {
            self.running = Some(client.into_iter().collect());
            self.output.push_back(Output::Reload);
        }
    }

    fn step_keys(&mut self, sender: NodeId, phase: CryptoPhase) {
        let (known, count, waits) = match phase {
            CryptoPhase::Activate => (
                &mut self.accept,
                &mut self.activations,
                &mut self.waits_to_activate,
            ),
            CryptoPhase::Cleanup => (
                &mut self.send,
                &mut self.cleanups,
                &mut self.waits_to_clean_up,
            ),
        };
        let is_member = self.members.contains(&sender);
        if is_member {
            known.insert(sender);
        }
        // None is on the way if it is of a daemon that had this number before.
        if sender == self.local && *count > 0 {
            *count -= 1;
            *waits = *count == 0;
        }
        if phase == CryptoPhase::Cleanup && is_member && sender != self.local && self.may_follow() {
            return self.activate(true);
        }
        self.change_keys();
    }

    /// A new key is loaded and not sent with.
    fn is_changing(&self) -> bool {
        self.activations > 0 || self.waits_to_activate
    }

    /// Others that are ahead are so with this change, not with one before it.
    fn may_follow(&self) -> bool {
        self.is_changing() && self.cleanups == 0 && !self.waits_to_clean_up
    }

    /// A member sends with the new key, and this node does not.
    pub fn next_keys_used(&mut self) {
        if self.may_follow() {
            self.output.push_back(Output::Repeat);
        }
    }

    /// The token was passed on after [`Output::Repeat`]. The member that uses the new key forgets the
    /// old one when it gets the token again, and all others have had the token with the key loaded.
    pub fn follow(&mut self) {
        if self.may_follow() {
            self.activate(true);
        }
    }

    fn activate(&mut self, follows: bool) {
        // Own messages that are on the way have nothing to say any more.
        self.activations = 0;
        self.waits_to_activate = false;
        self.accept.clear();
        self.output.push_back(Output::ActivateKeys);
        self.log(Log::KeysInUse { follows });
        self.cleanups += 1;
        self.mcast(Message::CryptoReconfig(CryptoPhase::Cleanup));
    }

    /// Takes the steps that nobody has to be waited for any more. A newer key that was loaded
    /// meanwhile comes first.
    fn change_keys(&mut self) {
        if self.activations > 0 {
            return;
        }
        if self.waits_to_activate && self.members.is_subset(&self.accept) {
            self.activate(false);
        }
        let idle = self.cleanups == 0 && !self.waits_to_activate;
        if idle && self.waits_to_clean_up && self.members.is_subset(&self.send) {
            self.waits_to_clean_up = false;
            self.send.clear();
            self.output.push_back(Output::CleanupKeys);
            self.log(Log::KeysChanged);
        }
    }

    fn mcast(&mut self, message: Message) {
        self.output.push_back(Output::Mcast {
            lane: Lane::Ordinary,
            message,
        });
    }

    fn respond(&mut self, client: ClientId, response: Response) {
        self.output.push_back(Output::Respond(client, response));
    }

    fn log(&mut self, log: Log) {
        self.output.push_back(Output::Log(log));
    }
}

fn addresses(nodeid: u32, view: &dyn View) -> Result<Vec<IpAddr>, Status> {
    let node = if nodeid == 0 {
        view.local()
    } else {
        NodeId(nodeid)
    };
    let addresses = view.addresses(node);
    if addresses.is_empty() {
        return Err(Status::NOT_EXIST);
    }
    Ok(addresses.into_values().collect())
}

/// What a stranger wrote, fit for a line of the log.
fn printable(text: &[u8]) -> String {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let shown = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(text).chars().map(shown).collect()
}

#[cfg(test)]
mod tests;
