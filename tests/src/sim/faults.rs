//! What goes wrong, and when it ends.

use pmxcfs::{dfsm::Mode, wire::MemberId};

use super::{
    net::{Group, Node},
    node::Daemon,
    options::Fault,
    world::World,
};

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum Repair {
    Connect,
    Toggle(Node, u32),
    Restart(Node),
    Unpause(Node),
    StartMessaging(Node),
    DiskWorks(Node),
    NotBusy(Node),
    EndSilent(MemberId),
}

/// Faults that have not ended yet.
#[derive(Debug, Default)]
pub(super) struct Repairs(Vec<(u64, Repair)>);

impl World {
    /// Perhaps something goes wrong.
    pub(super) fn inject(&mut self) {
        let options = &self.env.options;
        if options.faults.is_empty() || self.env.rng.below(options.fault_gap) != 0 {
            return;
        }
        let fault = *self.env.rng.pick(&self.env.options.faults);
        let node = self.env.rng.index(self.env.options.nodes);
        self.cause(fault, node);
    }

    /// Something goes wrong on a node.
    pub(super) fn cause(&mut self, fault: Fault, node: Node) {
        let now = self.env.now_ms;
        self.env.trace.say(now, node, format!("fault: {fault:?}"));
        match fault {
            Fault::Partition => self.partition(),
            Fault::OneWay => self.later(1500, Repair::Toggle(node, 3)),
            Fault::Crash | Fault::DieInRound => self.crash(fault, node),
            Fault::PowerLoss | Fault::LostDatabase | Fault::OldDatabase => {
                self.crash(fault, node);
            }
            Fault::Pause => {
                self.daemons[node].paused = self.daemons[node].is_up;
                self.later(8000, Repair::Unpause(node));
            }
            Fault::Freeze => {
                self.daemons[node].paused = self.daemons[node].is_up;
                self.env.net.set_side(node, 10 + side(node));
                self.later(6000, Repair::Unpause(node));
                self.later(6000, Repair::Connect);
            }
            Fault::MessagingLoss => {
                self.env.net.crash_daemon(node);
                self.later(8000, Repair::StartMessaging(node));
            }
            Fault::DiskFull => {
                self.daemons[node].disk.full = true;
                self.later(12_000, Repair::DiskWorks(node));
            }
            Fault::Backpressure => {
                self.env.net.set_busy(node, true);
                self.later(5000, Repair::NotBusy(node));
            }
            Fault::SendFailure => self.env.net.fail_sends(node, 1),
            Fault::SilentMember => self.silent_member(node),
            Fault::Burst => self.add_clients(node, 10),
        }
    }

    fn later(&mut self, within_ms: u64, repair: Repair) {
        let at = self.env.now_ms + self.env.rng.below(within_ms);
        self.repairs.0.push((at, repair));
    }

    fn partition(&mut self) {
        let sides = 1 + self.env.rng.below(2);
        for node in 0..self.env.options.nodes {
            let side = u8::try_from(self.env.rng.below(sides + 1)).unwrap_or(0);
            self.env.net.set_side(node, side);
        }
        self.later(15_000, Repair::Connect);
    }

    fn crash(&mut self, fault: Fault, node: Node) {
        let node = if fault == Fault::DieInRound {
            let in_round = |daemon: &&Daemon| {
                matches!(daemon.config.mode(), Mode::StartSync | Mode::Update)
                    || self
                        .daemons
                        .iter()
                        .any(|other| other.config.mode() == Mode::Update)
            };
            match self
                .daemons
                .iter()
                .find(|daemon| daemon.is_up && in_round(daemon))
            {
                Some(daemon) => daemon.node,
                None => return,
            }
        } else {
            node
        };
        if !self.daemons[node].is_up {
            return;
        }
        self.daemons[node].crash(&mut self.env);
        let before = self.daemons[node].disk.line();
        let disk = &mut self.daemons[node].disk;
        match fault {
            Fault::PowerLoss => {
                disk.lose_power(&mut self.env.rng);
                self.env.net.crash_daemon(node);
                self.later(3000, Repair::StartMessaging(node));
            }
            Fault::LostDatabase => disk.lose_everything(),
            Fault::OldDatabase => disk.restore_copy(),
            _ => {}
        }
        let after = self.daemons[node].disk.line();
        self.env.check.lines.erode(before, after);
        self.daemons[node].line = after;
        self.later(8000, Repair::Restart(node));
    }

    fn silent_member(&mut self, node: Node) {
        self.env.last_pid += 1;
        let member = MemberId {
            node: self.daemons[node].member.node,
            pid: self.env.last_pid,
        };
        for group in Group::ALL {
            if self.has_group(group) {
                self.env.net.join_silent(group, member);
            }
        }
        self.later(6000, Repair::EndSilent(member));
    }

    /// Ends the faults whose time has come.
    pub(super) fn repair(&mut self) {
        let now = self.env.now_ms;
        while let Some(at) = self.repairs.0.iter().position(|(at, _)| *at <= now) {
            let (_, repair) = self.repairs.0.remove(at);
            self.do_repair(repair);
        }
    }

    fn do_repair(&mut self, repair: Repair) {
        match repair {
            Repair::Connect => {
                for node in 0..self.env.options.nodes {
                    self.env.net.set_side(node, 0);
                }
            }
            Repair::Toggle(node, left) => {
                let away = if left % 2 == 1 { 20 + side(node) } else { 0 };
                self.env.net.set_side(node, away);
                if left > 0 {
                    self.later(1500, Repair::Toggle(node, left - 1));
                }
            }
            Repair::Restart(node) => self.restart(node),
            Repair::Unpause(node) => self.daemons[node].paused = false,
            Repair::StartMessaging(node) => self.env.net.start_daemon(node),
            Repair::DiskWorks(node) => self.daemons[node].disk.full = false,
            Repair::NotBusy(node) => self.env.net.set_busy(node, false),
            Repair::EndSilent(member) => {
                for group in Group::ALL {
                    self.env.net.leave(group, member);
                }
            }
        }
    }

    fn restart(&mut self, node: Node) {
        let daemon = &self.daemons[node];
        if daemon.is_up {
            return;
        }
        let (disk, ahead) = (daemon.disk.clone(), daemon.clock_ahead);
        let answers = daemon.answers.clone();
        self.env.trace.say(self.env.now_ms, node, "starts".into());
        self.daemons[node] = Daemon::start(node, disk, &mut self.env, ahead);
        self.daemons[node].answers = answers;
    }

    /// Ends everything that went wrong.
    pub(super) fn repair_all(&mut self) {
        for (_, repair) in std::mem::take(&mut self.repairs.0) {
            if !matches!(repair, Repair::Toggle(..)) {
                self.do_repair(repair);
            }
        }
        self.do_repair(Repair::Connect);
        for node in 0..self.env.options.nodes {
            self.env.net.start_daemon(node);
            self.env.net.fail_sends(node, 0);
            self.restart(node);
        }
    }
}

fn side(node: Node) -> u8 {
    u8::try_from(node).unwrap_or(0)
}
