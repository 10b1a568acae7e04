//! Where the callbacks of the client libraries put what they get.
//!
//! The crate takes plain functions as callbacks and holds one lock for all handles of a service
//! while it runs them. So they do nothing but copy into this thread's inbox. Dispatching is
//! synchronous: whoever dispatches a handle and then takes the inbox has exactly the events of
//! that handle, and connections of other threads never mix in.

use std::cell::RefCell;

use bytes::Bytes;
use rust_corosync::{NodeId, cpg, quorum};

use crate::group::{GroupEvent, GroupName, MemberId};

thread_local! {
    static INBOX: RefCell<Vec<Item>> = const { RefCell::new(Vec::new()) };
}

/// One callback.
#[derive(Debug)]
pub(super) enum Item {
    Deliver {
        from: MemberId,
        payload: Bytes,
    },
    Confchg {
        members: Vec<MemberId>,
        left: Vec<MemberId>,
        joined: Vec<MemberId>,
    },
    Quorum {
        quorate: bool,
        members: Vec<u32>,
    },
}

/// Takes what callbacks of this thread left since the last call.
pub(super) fn take() -> Vec<Item> {
    INBOX.take()
}

/// Turns an item from a group's handle into its event.
pub(super) fn group_event(group: GroupName, item: Item) -> Option<GroupEvent> {
    match item {
        Item::Deliver { from, payload } => Some(GroupEvent::Deliver {
            group,
            from,
            payload,
        }),
        Item::Confchg {
            members,
            left,
            joined,
        } => Some(GroupEvent::Confchg {
            group,
            members,
            left,
            joined,
        }),
        Item::Quorum { .. } => None,
    }
}

/// Turns an item from the quorum handle into its event.
pub(super) fn quorum_event(item: Item) -> Option<GroupEvent> {
    match item {
        Item::Quorum { quorate, members } => Some(GroupEvent::Quorum { quorate, members }),
        Item::Deliver { .. } | Item::Confchg { .. } => None,
    }
}

/// Callbacks for a group's handle.
pub(super) fn cpg_model() -> cpg::ModelData {
    cpg::ModelData::ModelV1(cpg::Model1Data {
        flags: cpg::Model1Flags::None,
        deliver_fn: Some(on_deliver),
        confchg_fn: Some(on_confchg),
        totem_confchg_fn: None,
    })
}

/// Callbacks for the quorum handle.
pub(super) fn quorum_model() -> quorum::ModelData {
    quorum::ModelData::ModelV1(quorum::Model1Data {
        flags: quorum::Model1Flags::None,
        quorum_notification_fn: Some(on_quorum),
        nodelist_notification_fn: None,
    })
}

fn push(item: Item) {
    INBOX.with_borrow_mut(|inbox| inbox.push(item));
}

fn on_deliver(
    _handle: &cpg::Handle,
    _group: String,
    node: NodeId,
    pid: u32,
    message: &[u8],
    _length: usize,
) {
    let from = MemberId {
        node: node.into(),
        pid,
    };
    push(Item::Deliver {
        from,
        payload: Bytes::copy_from_slice(message),
    });
}

fn on_confchg(
    _handle: &cpg::Handle,
    _group: &str,
    members: Vec<cpg::Address>,
    left: Vec<cpg::Address>,
    joined: Vec<cpg::Address>,
) {
    push(Item::Confchg {
        members: member_ids(&members),
        left: member_ids(&left),
        joined: member_ids(&joined),
    });
}

fn on_quorum(_handle: &quorum::Handle, quorate: bool, _ring: quorum::RingId, members: Vec<NodeId>) {
    push(Item::Quorum {
        quorate,
        members: members.into_iter().map(u32::from).collect(),
    });
}

fn member_ids(addresses: &[cpg::Address]) -> Vec<MemberId> {
    let mut ids: Vec<_> = addresses
        .iter()
        .map(|a| MemberId {
            node: a.nodeid.into(),
            pid: a.pid,
        })
        .collect();
    ids.sort_unstable();
    ids
}
