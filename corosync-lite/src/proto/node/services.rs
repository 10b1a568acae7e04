//! Requests, messages and outputs of the services.

use std::time::Instant;

use super::facts::{Connection, Facts, facts};
use super::lanes::Outgoing;
use super::log::{Level, Log};
use super::request::{ClientEvent, Request, Response, Service};
use super::surface::{Output, ShutdownReason};
use super::{Node, words};
use crate::proto::srp::Lane;
use crate::proto::{cfg, cmap, cpg, quorum};
use crate::service::ClientId;
use crate::wire::{NodeId, exec};

impl Node {
    pub(super) fn pass_request(&mut self, now: Instant, client: ClientId, request: Request) {
        let Some(connection) = self.connections.get_mut(&client) else {
            return;
        };
        connection.requests += 1;
        match request {
            Request::Cmap(request) => {
                let facts = facts!(self);
                self.cmap.handle_request(now, client, request, &facts);
            }
            Request::Cfg(request) => {
                let facts = cfg::FromConfig {
                    local: self.local,
                    config: &self.config,
                    members: &self.members,
                    links: self.transport.links(),
                    shutdown_timeout_ms: self.cmap.shutdown_timeout_ms(),
                };
                self.cfg.handle_request(now, client, request, &facts);
            }
            Request::Cpg(request) => self.cpg.handle_request(client, request),
            Request::Quorum(request) => self.quorum.handle_quorum_request(client, request),
            Request::Votequorum(request) => {
                self.quorum.handle_votequorum_request(now, client, request);
            }
        }
    }

    pub(super) fn forget_client(&mut self, client: ClientId) {
        let Some(connection) = self.connections.remove(&client) else {
            return;
        };
        self.closed += 1;
        match connection.service {
            Service::Cmap => self.cmap.client_gone(client),
            Service::Cfg => self.cfg.client_gone(client),
            Service::Cpg => self.cpg.client_gone(client),
            Service::Quorum | Service::Votequorum => self.quorum.client_gone(client),
        }
    }

    pub(super) fn forget_clients_of(&mut self, service: Service) {
        let of_service = |(id, connection): (&ClientId, &Connection)| {
            (connection.service == service).then_some(*id)
        };
        let clients: Vec<_> = self.connections.iter().filter_map(of_service).collect();
        for client in clients {
            self.forget_client(client);
        }
    }

    /// A message of a service came in the common order.
    pub(super) fn pass_message(&mut self, sender: NodeId, message: exec::Message) {
        let (service, function) = message.number();
        self.traffic.received(service, function);
        match message {
            exec::Message::Cmap(message) => self.cmap.handle_message(sender, &message),
            exec::Message::Cfg(message) => self.cfg.handle_message(sender, &message),
            exec::Message::Cpg(message) => self.cpg.handle_message(sender, message),
            exec::Message::Votequorum(message) => self.quorum.handle_message(sender, message),
        }
    }

    fn mcast(&mut self, lane: Lane, message: exec::Message) {
        let (service, function) = message.number();
        self.traffic.sent(service, function);
        self.lanes.push(lane, Outgoing::Executive(message));
    }

    fn respond(&mut self, client: ClientId, response: Response) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.responses += 1;
            self.outputs.push_back(Output::Respond(client, response));
        }
    }

    fn tell(&mut self, client: ClientId, event: ClientEvent) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.events += 1;
            self.outputs.push_back(Output::Event(client, event));
        }
    }

    pub(super) fn say(&mut self, (level, text): (Level, String)) {
        self.log(Log::Service { level, text });
    }

    /// Does what the services want done. They act on each other: until none wants anything.
    pub(super) fn drain_services(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.cpg.poll_output() {
                self.handle_cpg(output);
            } else if let Some(output) = self.quorum.poll_output() {
                self.handle_quorum(output);
            } else if let Some(output) = self.cmap.poll_output() {
                self.handle_cmap(now, output);
            } else if let Some(output) = self.cfg.poll_output() {
                self.handle_cfg(now, output);
            } else {
                break;
            }
        }
    }

    fn handle_cpg(&mut self, output: cpg::Output) {
        match output {
            cpg::Output::Mcast { lane, message } => self.mcast(lane, exec::Message::Cpg(message)),
            cpg::Output::Respond(client, response) => {
                self.respond(client, Response::Cpg(response));
            }
            cpg::Output::Event(client, event) => self.tell(client, ClientEvent::Cpg(event)),
            cpg::Output::Log(log) => self.say(words::of_cpg(&log)),
        }
    }

    fn handle_quorum(&mut self, output: quorum::Output) {
        match output {
            quorum::Output::Mcast { lane, message } => {
                self.mcast(lane, exec::Message::Votequorum(message));
            }
            quorum::Output::RespondQuorum(client, response) => {
                self.respond(client, Response::Quorum(response));
            }
            quorum::Output::RespondVotequorum(client, response) => {
                self.respond(client, Response::Votequorum(response));
            }
            quorum::Output::EventQuorum(client, event) => {
                self.tell(client, ClientEvent::Quorum(event));
            }
            quorum::Output::EventVotequorum(client, event) => {
                self.tell(client, ClientEvent::Votequorum(event));
            }
            // Process groups work without quorum; their users ask for themselves.
            quorum::Output::Quorate { .. } => {}
            quorum::Output::Track(votes) => {
                self.outputs.push_back(Output::PersistExpectedVotes(votes));
            }
            quorum::Output::Key(key, value) => self.cmap.update(|map| map.set(key, value)),
            quorum::Output::Log(log) => {
                if let quorum::Log::Changed(status) = &log {
                    self.log(Log::Quorate(status.quorate));
                }
                self.say(words::of_quorum(&log));
            }
        }
    }

    fn handle_cmap(&mut self, now: Instant, output: cmap::Output) {
        match output {
            cmap::Output::Mcast { lane, message } => {
                self.mcast(lane, exec::Message::Cmap(message));
            }
            cmap::Output::Respond(client, response) => {
                self.respond(client, Response::Cmap(response));
            }
            cmap::Output::Event(client, event) => self.tell(client, ClientEvent::Cmap(event)),
            cmap::Output::Reconfigure(reload) => self.apply(now, &reload.plan),
            cmap::Output::CancelWaitForAll => self.quorum.cancel_wait_for_all(),
            cmap::Output::ForceGather => self.srp.gather(now),
            cmap::Output::DumpState => {
                let text = words::of_state(self);
                self.say((Level::Info, text));
            }
            cmap::Output::DumpFlightData => {
                let text = "there is no flight recorder: the journal has the log".to_owned();
                self.say((Level::Info, text));
            }
            cmap::Output::ClearStatistics(which) => self.clear_statistics(which),
            cmap::Output::Stop { own, highest } => {
                let reason = ShutdownReason::OutdatedConfig { own, highest };
                self.outputs.push_back(Output::Shutdown(reason));
            }
            cmap::Output::Log(log) => self.say(words::of_cmap(&log)),
        }
    }

    fn handle_cfg(&mut self, now: Instant, output: cfg::Output) {
        match output {
            cfg::Output::Mcast { lane, message } => self.mcast(lane, exec::Message::Cfg(message)),
            cfg::Output::Respond(client, response) => {
                self.respond(client, Response::Cfg(response));
            }
            cfg::Output::Event(client, event) => self.tell(client, ClientEvent::Cfg(event)),
            cfg::Output::Reload => {
                self.hold(now);
                self.outputs.push_back(Output::Reload);
            }
            cfg::Output::ReopenLogs => self.outputs.push_back(Output::ReopenLogs),
            cfg::Output::ActivateKeys => self.transport.activate_keys(now),
            cfg::Output::CleanupKeys => self.transport.cleanup_keys(),
            cfg::Output::Repeat => self.srp.repeat(),
            cfg::Output::Shutdown => {
                let reason = ShutdownReason::Requested;
                self.outputs.push_back(Output::Shutdown(reason));
            }
            cfg::Output::Killed { by, reason } => {
                let reason = ShutdownReason::Killed { by, reason };
                self.outputs.push_back(Output::Shutdown(reason));
            }
            cfg::Output::Log(log) => self.say(words::of_cfg(&log)),
        }
    }

    fn clear_statistics(&mut self, which: cmap::Counters) {
        use cmap::Counters::{All, Ipc, Knet, Schedmiss, Totem};
        if matches!(which, All | Knet) {
            self.transport.clear_stats();
        }
        if matches!(which, All | Totem) {
            self.srp.clear_stats();
        }
        if matches!(which, All | Ipc) {
            self.closed = 0;
            self.connections.values_mut().for_each(Connection::clear);
        }
        if matches!(which, All | Schedmiss) {
            self.pauses.clear();
        }
    }
}
