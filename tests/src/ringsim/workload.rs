//! What processes do: connect, join, send, leave, die.

use bytes::Bytes;
use corosync_lite::{
    proto::node::{Request, Service},
    service::{
        ClientId, Status,
        cpg::{self, Event, Group, MESSAGE_MAX, Part},
    },
};

use super::{
    check::payload,
    member::{Member, Owner, Process, Stage},
    network::Happening,
    options::Defect,
    world::{MS, World},
};

/// Messages longer than this may go in parts.
const PARTS_FROM: usize = 100_000;
/// Length of a part.
const PART: usize = 300_000;
/// Longest message that processes send here.
const LONGEST: u64 = 1_100_000;

impl World {
    /// A process does something, and thinks of the next time.
    pub(super) fn deed(&mut self, id: u32, slot: u32) {
        if !self.busy {
            self.finish_partial(id, slot);
            return;
        }
        let gap = self.rng.between(1, 2 * self.options.deed_gap_ms);
        self.agenda
            .plan(self.now + gap * MS, Happening::Deed(id, slot));
        if self.member(id).awake().is_none() {
            return;
        }
        let process = self.process(id, slot);
        let (stage, is_partial) = (process.stage, process.partial.is_some());
        match stage {
            Stage::Away => self.appear(id, slot),
            Stage::Idle => self.join(id, slot),
            Stage::Joined if is_partial => self.send_part(id, slot),
            Stage::Joined => match self.rng.below(100) {
                0 | 1 => self.quit(id, slot),
                2 => self.die(id, slot),
                // Nobody hears from it for some time.
                3..20 => {}
                _ => {
                    let count = self.rng.between(1, 6);
                    self.send_some(id, slot, count);
                }
            },
            Stage::Joining | Stage::Leaving if self.rng.chance(5) => self.die(id, slot),
            Stage::Joining | Stage::Leaving => {}
        }
    }

    /// The rest of a message that is sent in parts follows also when nothing new is begun.
    fn finish_partial(&mut self, id: u32, slot: u32) {
        let is_awake = self.member(id).awake().is_some();
        let process = self.process(id, slot);
        if process.stage == Stage::Joined && process.partial.is_some() {
            if is_awake {
                self.send_part(id, slot);
            }
            self.agenda
                .plan(self.now + 10 * MS, Happening::Deed(id, slot));
        }
    }

    fn process(&mut self, id: u32, slot: u32) -> &mut Process {
        let slot = usize::try_from(slot).unwrap_or(0);
        &mut self.member(id).processes[slot]
    }

    fn appear(&mut self, id: u32, slot: u32) {
        let owner = Owner::Process(usize::try_from(slot).unwrap_or(0));
        if let Some(client) = self.connect(id, Service::Cpg, owner) {
            let process = self.process(id, slot);
            process.client = Some(client);
            process.stage = Stage::Idle;
        }
    }

    fn join(&mut self, id: u32, slot: u32) {
        if self.member(id).is_blocked {
            return;
        }
        let pid = self.new_number();
        let number = self.rng.below(self.options.groups);
        let process = self.process(id, slot);
        let Some(client) = process.client else { return };
        *process = Process {
            stage: Stage::Joining,
            client: Some(client),
            pid,
            group: number,
            ..Process::default()
        };
        self.check.joining(id, client, number, pid);
        let request = cpg::Request::Join {
            group: group(number),
            pid,
            flags: 0,
        };
        self.request(id, client, Request::Cpg(request));
    }

    fn quit(&mut self, id: u32, slot: u32) {
        if self.member(id).is_blocked {
            return;
        }
        let process = self.process(id, slot);
        let Some(client) = process.client else { return };
        process.stage = Stage::Leaving;
        let request = cpg::Request::Leave {
            group: group(process.group),
            pid: process.pid,
        };
        self.request(id, client, Request::Cpg(request));
    }

    /// A process is gone without a word.
    pub(super) fn die(&mut self, id: u32, slot: u32) {
        let process = self.process(id, slot);
        let client = process.client.take();
        *process = Process::default();
        if let Some(client) = client {
            self.hang_up(id, client);
        }
    }

    /// A process sends as many messages as are taken.
    pub(super) fn send_some(&mut self, id: u32, slot: u32, count: u64) {
        for _ in 0..count {
            let process = self.process(id, slot);
            let (stage, pid) = (process.stage, process.pid);
            let (number, client) = (process.sent - process.short, process.client);
            let is_partial = process.partial.is_some();
            let member = &self.members[Self::at(id)];
            let Some(client) = client else { return };
            if stage != Stage::Joined || member.is_blocked || member.node.is_none() || is_partial {
                return;
            }
            let len = self.message_len();
            let data = payload(pid, number, len, &mut self.rng);
            if data.len() > MESSAGE_MAX || (data.len() > PARTS_FROM && self.rng.chance(500)) {
                self.process(id, slot).partial = Some((data, 0));
                self.send_part(id, slot);
                if !self.busy {
                    self.agenda.plan(self.now + MS, Happening::Deed(id, slot));
                }
                return;
            }
            let is_short = data.len() < super::check::HEAD;
            let process = self.process(id, slot);
            process.sent += 1;
            process.short += u32::from(is_short);
            self.check.counts.sent += 1;
            let request = cpg::Request::Mcast { guarantee: 0, data };
            self.request(id, client, Request::Cpg(request));
        }
    }

    fn message_len(&mut self) -> u64 {
        let most = self.options.message_max.min(LONGEST);
        match self.rng.below(40) {
            0 => 1 + self.rng.below(8),
            1..4 if most <= 20_000 => self.rng.between(1, most),
            1 if self.rng.chance(300) => self.rng.between(1, most),
            2..20 => self.rng.between(1, most.min(2000)),
            _ => self.rng.between(1, most.min(100)),
        }
    }

    fn send_part(&mut self, id: u32, slot: u32) {
        if self.member(id).is_blocked {
            return;
        }
        let process = self.process(id, slot);
        let Some(client) = process.client else { return };
        let Some((data, at)) = process.partial.clone() else {
            return;
        };
        let end = data.len().min(at + PART);
        let part = if at == 0 {
            Part::First
        } else if end == data.len() {
            Part::Last
        } else {
            Part::Middle
        };
        process.partial = (part != Part::Last).then(|| (data.clone(), end));
        if part == Part::Last {
            process.sent += 1;
        }
        let request = cpg::Request::PartialMcast {
            guarantee: 0,
            length: u32::try_from(data.len()).unwrap_or(0),
            part,
            data: data.slice(at..end),
        };
        self.request(id, client, Request::Cpg(request));
    }

    /// A process is answered.
    pub(super) fn responded(&mut self, id: u32, owner: Owner, response: &cpg::Response) {
        let slot = match owner {
            Owner::Process(slot) => slot,
            Owner::Replica(_) | Owner::Passerby => return,
        };
        let process = &mut self.member(id).processes[slot];
        match response {
            cpg::Response::Join(status) | cpg::Response::Leave(status) if *status != Status::OK => {
                let text = format!("n{id}: {status:?} in {:?}", process.stage);
                self.check.fail("joins and leaves are taken", text);
            }
            // A change of members breaks a message in parts off: it is sent anew, or not at all.
            cpg::Response::PartialMcast(status) if *status != Status::OK => {
                let was_last = process.partial.take().is_none();
                process.sent -= u32::from(was_last);
            }
            _ => {}
        }
    }

    /// A process is told something.
    pub(super) fn told(&mut self, id: u32, owner: Owner, event: Event) {
        let slot = match owner {
            Owner::Process(slot) => slot,
            Owner::Replica(kind) => {
                let ring = self.check.ring_of(id);
                let is_breaking = !self.check.is_operational(id);
                if let Some(replicas) = &mut self.replicas {
                    if is_breaking {
                        replicas.breaking(id, kind);
                    }
                    replicas.told(id, kind, ring, event);
                }
                return;
            }
            Owner::Passerby => return,
        };
        let process = &mut self.member(id).processes[slot];
        if let Event::Confchg { left, joined, .. } = event {
            let is_it = |it: &cpg::Address| it.nodeid == id && it.pid == process.pid;
            if joined.iter().any(is_it) && process.stage == Stage::Joining {
                process.stage = Stage::Joined;
            } else if left.iter().any(is_it) && process.stage == Stage::Leaving {
                process.stage = Stage::Idle;
            }
        }
    }

    /// Whether all processes are at rest.
    pub(super) fn is_at_rest(&self) -> bool {
        let rests = |process: &Process| {
            !matches!(process.stage, Stage::Joining | Stage::Leaving) && process.partial.is_none()
        };
        let mut members = self.members.iter();
        members.all(|member| !member.is_blocked && member.processes.iter().all(rests))
    }

    /// Passes events on with a defect.
    pub(super) fn spoil(
        &mut self,
        id: u32,
        client: ClientId,
        owner: Option<Owner>,
        mut event: Event,
    ) {
        let due = self.check.counts.delivered > 60 && self.check.counts.spoiled == 0;
        let (is_message, is_change) = (
            matches!(event, Event::Deliver { .. }),
            matches!(event, Event::Confchg { .. }),
        );
        let spoils = due && matches!(owner, Some(Owner::Process(_)));
        let defect = self.options.defect.map(|(defect, _)| defect);
        match defect {
            Some(Defect::LoseMessage) if spoils && is_message => {
                self.check.counts.spoiled += 1;
                return;
            }
            Some(Defect::DeliverTwice) if spoils && is_message => {
                self.check.counts.spoiled += 1;
                self.cpg_event(id, client, owner, event.clone());
            }
            Some(Defect::SwapMessages) if spoils && is_message => {
                self.check.counts.spoiled += 1;
                self.check.held = Some((client, event));
                return;
            }
            Some(Defect::HideChange) if spoils && is_change => {
                self.check.counts.spoiled += 1;
                return;
            }
            Some(Defect::SpoilMessage) if spoils => {
                if let Event::Deliver { data, .. } = &mut event {
                    self.check.counts.spoiled += 1;
                    let mut bytes = data.to_vec();
                    if let Some(last) = bytes.last_mut() {
                        *last ^= 1;
                    }
                    *data = Bytes::from(bytes);
                }
            }
            _ => {}
        }
        self.cpg_event(id, client, owner, event);
        if is_message
            && let Some((first, held)) = self.check.held.take_if(|(first, _)| *first == client)
        {
            self.cpg_event(id, first, owner, held);
        }
    }
}

/// Name of a group.
fn group(number: u64) -> Group {
    Group::new(format!("group{number}").as_bytes()).unwrap_or_default()
}

impl Member {
    /// Slots of its processes.
    pub(super) fn slots(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.processes.len()).unwrap_or(0)
    }
}
