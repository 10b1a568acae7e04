//! What clients ask of the daemon.

use bytes::Bytes;
use pmxcfs::{
    dcdb::{Replica, guard},
    dfsm::Mode,
    memdb::Op,
    status::LogRequest,
    wire::fuse_msg::FuseMessage,
};

use super::{Answer, Daemon, Env, PROPOSE_LIMIT_MS, Proposal, RETRY_MS, Waiter};
use crate::sim::net::{Group, Refused};

impl Daemon {
    /// A client wants a change.
    pub fn propose(&mut self, env: &Env, client: usize, op: Op, unchecked: bool) {
        self.proposals.push_back(Proposal {
            client,
            op,
            unchecked,
            deadline_ms: env.now_ms + PROPOSE_LIMIT_MS,
            retry_ms: 0,
        });
    }

    pub(super) fn propose_waiting(&mut self, env: &mut Env) {
        let waiting = std::mem::take(&mut self.proposals);
        for mut proposal in waiting {
            let is_over = proposal.deadline_ms <= env.now_ms;
            if self.is_faulty || !self.quorate || is_over {
                self.answers.push((proposal.client, Answer::Refused));
            } else if self.config.mode() != Mode::Synced || proposal.retry_ms > env.now_ms {
                self.proposals.push_back(proposal);
            } else if !self.send_proposal(env, &proposal) {
                proposal.retry_ms = env.now_ms + RETRY_MS;
                self.proposals.push_back(proposal);
            }
        }
    }

    /// False when it has to be tried again.
    fn send_proposal(&mut self, env: &mut Env, proposal: &Proposal) -> bool {
        let client = proposal.client;
        let op = if proposal.unchecked {
            proposal.op.clone()
        } else {
            match guard::checked(self.config.app().tree(), proposal.op.clone()) {
                Ok(op) => op,
                Err(_) => {
                    self.answers.push((client, Answer::Refused));
                    return true;
                }
            }
        };
        let message = Replica::message_for(op);
        let now = self.seconds32(env);
        let (count, bytes) = self
            .config
            .make_normal(now, message.subtype(), message.encode());
        match env.net.send(Group::Config, self.member, &bytes) {
            Ok(()) => {
                let waiter = Waiter {
                    client,
                    deadline_ms: proposal.deadline_ms,
                    line: None,
                };
                self.waiters.insert(count, waiter);
                true
            }
            Err(Refused::Busy) => false,
            Err(_) => {
                self.answers.push((client, Answer::Unknown));
                true
            }
        }
    }

    /// A client asks for the release of a lock, as a time of 0 does.
    pub fn request_unlock(&mut self, env: &mut Env, path: &Bytes) {
        let entry = self
            .config
            .app()
            .tree()
            .find(path)
            .filter(|entry| entry.is_dir());
        let Some(checksum) = entry.map(|entry| entry.lock_checksum()) else {
            return;
        };
        if self.quorate && self.config.mode() == Mode::Synced {
            let path = path.clone();
            let message = FuseMessage::UnlockRequest { checksum, path };
            let now = self.seconds32(env);
            let (_, bytes) = self
                .config
                .make_normal(now, message.subtype(), message.encode());
            // Not waited for: it is asked again.
            env.net.send(Group::Config, self.member, &bytes).ok();
        }
    }

    /// A client sets a status key; an empty value removes it.
    pub fn set_key(&mut self, env: &mut Env, key: &[u8], value: Bytes) {
        let now = self.seconds32(env);
        if let Ok(message) = self.status.app_mut().set(now, key, value) {
            self.send_status(env, message.subtype, message.payload);
        }
    }

    /// A client writes into the cluster log.
    pub fn log(&mut self, env: &mut Env, text: &[u8]) {
        let now = self.seconds32(env);
        let request = LogRequest {
            pid: 1,
            priority: 6,
            ident: b"root",
            tag: b"sim",
            text,
        };
        if let Some(message) = self.status.app_mut().log(now, &request) {
            self.send_status(env, message.subtype, message.payload);
        }
    }

    fn send_status(&mut self, env: &mut Env, subtype: u16, payload: Bytes) {
        if self.status.mode() == Mode::Synced {
            let now = self.seconds32(env);
            let (_, bytes) = self.status.make_normal(now, subtype, payload);
            // What is not sent now goes out in the next round.
            env.net.send(Group::Status, self.member, &bytes).ok();
        }
    }
}
