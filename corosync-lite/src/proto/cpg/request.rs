//! What clients ask.

use bytes::Bytes;

use super::client::{Client, Membership, Sending, State};
use super::table::Table;
use super::wire::{self, Message, Piece};
use super::{Cpg, FLAG_RING, LIST_MAX, Output, address, holder};
use crate::service::cpg::{Group, MESSAGE_MAX, Part, Reason, Request, Response};
use crate::service::{ClientId, Status};
use crate::wire::NodeId;
use crate::wire::exec::Source;

impl Cpg {
    /// Takes a request of a client. There has to be room for what [`super::cost`] says.
    pub fn handle_request(&mut self, client: ClientId, request: Request) {
        if !self.clients.contains_key(&client) {
            return;
        }
        let response = match request {
            Request::Join { group, pid, flags } => {
                Response::Join(self.join(client, group, pid, flags))
            }
            Request::Leave { group, .. } => Response::Leave(self.leave(client, &group)),
            Request::Mcast { data, .. } => {
                self.mcast(client, data);
                return;
            }
            Request::PartialMcast {
                length, part, data, ..
            } => Response::PartialMcast(status(self.partial_mcast(client, length, part, data))),
            Request::Membership { group } => {
                let members = self.table.members(group.as_bytes()).take(LIST_MAX);
                Response::Membership(
                    members
                        .map(|process| address(process, Reason::None))
                        .collect(),
                )
            }
            Request::LocalNode => Response::LocalNode(self.local.0),
            Request::Finalize => {
                self.with_client(client, |client, _| client.finalized = true);
                Response::Finalize(Status::OK)
            }
            Request::ZeroCopy { .. } => Response::ZeroCopy(Status::NOT_SUPPORTED),
            Request::IterInit { group, kind } => Response::IterInit(
                self.with_client(client, |client, _| client.walk_start(kind, group))
                    .unwrap_or(Err(Status::LIBRARY)),
            ),
            Request::IterNext { handle } => Response::IterNext(
                self.with_client(client, |client, table| client.walk_next(handle, table))
                    .unwrap_or(Err(Status::LIBRARY)),
            ),
            Request::IterFinalize { handle } => Response::IterFinalize(
                self.with_client(client, |client, _| client.walk_end(handle))
                    .unwrap_or(Status::LIBRARY),
            ),
        };
        self.outputs.push_back(Output::Respond(client, response));
    }

    fn with_client<T>(
        &mut self,
        client: ClientId,
        act: impl FnOnce(&mut Client, &Table) -> T,
    ) -> Option<T> {
        let client = self.clients.get_mut(&client)?;
        Some(act(client, &self.table))
    }

    fn join(&mut self, client: ClientId, group: Group, pid: u32, flags: u32) -> Status {
        if let Some(holder) = holder(&mut self.holders, group.as_bytes(), pid) {
            let live = holder.and_then(|holder| self.clients.get(&holder));
            return match live {
                Some(live) if !live.finalized => Status::EXIST,
                // On its way out.
                _ => Status::TRY_AGAIN,
            };
        }
        let full = self.table.len(group.as_bytes()) >= LIST_MAX;
        let Some(joining) = self.clients.get_mut(&client) else {
            return Status::LIBRARY;
        };
        match joining.state {
            State::Leaving(_) => return Status::BUSY,
            State::Joining(_) | State::Joined(_) => return Status::EXIST,
            State::Idle if full => return Status::NO_RESOURCES,
            State::Idle => (),
        }
        joining.state = State::Joining(Membership {
            group: group.clone(),
            pid,
            wants_ring: flags & FLAG_RING != 0,
            since: 0,
            sending: Sending::Nothing,
        });
        self.mcast_ordinary(Message::Join(wire::Process {
            group: group.to_bytes(),
            pid,
            reason: wire::Reason::Join,
        }));
        let holders = self.holders.entry(group).or_default();
        holders.insert(pid, Some(client));
        Status::OK
    }

    /// The process is the one that joined: a client that has forked says another number.
    fn leave(&mut self, client: ClientId, group: &Group) -> Status {
        let Some(leaving) = self.clients.get_mut(&client) else {
            return Status::LIBRARY;
        };
        match std::mem::take(&mut leaving.state) {
            State::Joined(member) if member.group == *group => {
                let gone = Membership {
                    group: member.group.clone(),
                    ..member
                };
                leaving.state = State::Leaving(member);
                self.mcast_leave(&gone, wire::Reason::Leave);
                Status::OK
            }
            State::Joining(member) if member.group == *group => {
                leaving.state = State::Joining(member);
                Status::BUSY
            }
            other => {
                leaving.state = other;
                Status::NOT_EXIST
            }
        }
    }

    /// A client that may not send is not told: its library does not wait for an answer.
    fn mcast(&mut self, client: ClientId, data: Bytes) {
        let sending = self.clients.get_mut(&client);
        let Some(member) = sending.and_then(Client::sender) else {
            return;
        };
        if data.len() > MESSAGE_MAX {
            return;
        }
        let message = Message::Mcast(wire::Mcast {
            group: member.group.to_bytes(),
            pid: member.pid,
            source: source(self.local, client),
            payload: data,
        });
        self.mcast_ordinary(message);
    }

    fn partial_mcast(
        &mut self,
        client: ClientId,
        length: u32,
        part: Part,
        data: Bytes,
    ) -> Result<(), Status> {
        let sending = self.clients.get_mut(&client);
        let member = sending.and_then(Client::sender).ok_or(Status::NOT_EXIST)?;
        member.take_part(part, length, data.len())?;
        let message = Message::Partial(wire::Partial {
            group: member.group.to_bytes(),
            total: length,
            pid: member.pid,
            piece: match part {
                Part::First => Piece::First,
                Part::Middle => Piece::Continued,
                Part::Last => Piece::Last,
            },
            source: source(self.local, client),
            payload: data,
        });
        self.mcast_ordinary(message);
        Ok(())
    }
}

pub(super) fn source(node: NodeId, client: ClientId) -> Source {
    Source {
        node,
        connection: client.0,
    }
}

fn status(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::OK)
}
