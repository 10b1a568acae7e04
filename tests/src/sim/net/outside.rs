//! The same service where the messages really go elsewhere: hosts hand out what their processes
//! ask for, and take what is to be handed to these. Nothing is ordered here.

use pmxcfs::wire::MemberId;

use super::{Entry, Event, Group, Host, Net, Node, node_of};

/// What a process asks of the messaging daemon.
#[derive(Clone, Debug)]
pub enum Asked {
    /// To be a member.
    Join(Group, MemberId),
    /// To be none any more.
    Leave(Group, MemberId),
    /// To send.
    Send(Group, bytes::Bytes),
}

impl Net {
    /// What the process of a host asked for first.
    pub fn take_asked(&mut self, node: Node) -> Option<Asked> {
        let entry = self.hosts[node].outgoing.pop_front()?;
        Some(match entry {
            Entry::Join(group, member) => Asked::Join(group, member),
            Entry::Leave(group, member) => Asked::Leave(group, member),
            Entry::Data(group, _, bytes) => Asked::Send(group, bytes),
        })
    }

    /// Whether the process of a host is waiting for something that it asked for.
    #[must_use]
    pub fn has_asked(&self, node: Node) -> bool {
        !self.hosts[node].outgoing.is_empty()
    }

    /// The process of a host gets an event of a group, if it still wants any.
    pub fn tell(&mut self, node: Node, group: Group, event: Event) {
        let host = &mut self.hosts[node];
        let wants = |local: &super::Local| local.group == group && !local.is_leaving;
        if host.locals.iter().any(wants) {
            host.events[group as usize].push_back(event);
        }
    }

    /// The process of a host is told of quorum.
    pub fn tell_quorum(&mut self, node: Node, quorate: bool) {
        self.hosts[node].is_quorate = quorate;
        self.hosts[node].quorum.push_back(quorate);
    }

    /// A process has left everywhere.
    pub fn has_left(&mut self, group: Group, member: MemberId) {
        let host = &mut self.hosts[node_of(member)];
        host.locals
            .retain(|local| local.group != group || local.member != member);
    }

    /// The messaging daemon of a host is gone.
    pub fn daemon_gone(&mut self, node: Node) {
        self.hosts[node] = Host {
            is_disconnected: true,
            ..Host::default()
        };
    }
}
