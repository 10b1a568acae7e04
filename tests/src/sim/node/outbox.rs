//! What the state machines of a node want done: messages are sent, groups left.

use pmxcfs::dfsm::Action;

use super::super::net::{Group, Refused};
use super::{ATTEMPTS, Answer, Daemon, Env, Item, Membership, REJOIN_PAUSE_MS, RETRY_MS};

impl Daemon {
    /// Does what the state machines want, until they want nothing more.
    pub(super) fn drain(&mut self, env: &mut Env) {
        loop {
            self.drain_config(env);
            self.drain_status(env);
            let failed_config = self.flush(env, Group::Config);
            if !failed_config && !self.flush(env, Group::Status) {
                break;
            }
        }
    }

    fn drain_config(&mut self, env: &mut Env) {
        let mut leave = None;
        while let Some(action) = self.config.poll_action() {
            match action {
                Action::Send { message, or_leave } => {
                    let outbox = &mut self.members[Group::Config as usize].outbox;
                    outbox.push_back((message, or_leave, 0));
                }
                Action::Answer { count, result } => {
                    self.items.push_back(Item::Answer(count, result));
                }
                Action::Leave { reason } => leave = Some(reason),
                Action::Log(_) => {}
            }
        }
        if let Some(reason) = leave {
            env.check.counts.leaves += 1;
            env.check.counts.refused += u64::from(!self.quorate);
            env.trace
                .say(env.now_ms, self.node, format!("leaves: {reason}"));
            env.net.leave(Group::Config, self.member);
            self.config.restart();
            self.members[Group::Config as usize] = Membership {
                join_ms: env.now_ms + REJOIN_PAUSE_MS,
                ..Membership::default()
            };
            self.abort_waiters(Answer::Unknown);
        }
    }

    fn drain_status(&mut self, env: &mut Env) {
        while let Some(action) = self.status.poll_action() {
            match action {
                Action::Send { message, or_leave } => {
                    let outbox = &mut self.members[Group::Status as usize].outbox;
                    outbox.push_back((message, or_leave, 0));
                }
                Action::Leave { reason } => {
                    env.trace
                        .say(env.now_ms, self.node, format!("leaves status: {reason}"));
                    env.net.leave(Group::Status, self.member);
                    self.status.restart();
                    self.members[Group::Status as usize] = Membership {
                        join_ms: env.now_ms + REJOIN_PAUSE_MS,
                        ..Membership::default()
                    };
                }
                Action::Answer { .. } | Action::Log(_) => {}
            }
        }
    }

    /// True when a failure gives a state machine something to do.
    fn flush(&mut self, env: &mut Env, group: Group) -> bool {
        loop {
            let membership = &mut self.members[group as usize];
            let Some((message, or_leave, attempts)) = membership.outbox.front_mut() else {
                return false;
            };
            *attempts += 1;
            match env.net.send(group, self.member, message) {
                Ok(()) => {
                    membership.outbox.pop_front();
                    continue;
                }
                Err(Refused::Busy) if *attempts < ATTEMPTS => {
                    membership.send_ms = env.now_ms + RETRY_MS;
                    return false;
                }
                Err(_) => {}
            }
            let must_leave = *or_leave;
            membership.outbox.pop_front();
            if must_leave {
                match group {
                    Group::Config => self.config.handle_send_failure("no"),
                    Group::Status => self.status.handle_send_failure("no"),
                }
                return true;
            }
        }
    }
}
