//! What the client on a host keeps of what its daemon delivers: headers only. No payload is copied,
//! so that the time measured is that of the daemon.

use std::cell::RefCell;
use std::thread::LocalKey;

use anyhow::Result;
use rust_corosync::cpg;

use super::protocol::Header;
use crate::member::{Member, Told};

/// The client's connection.
pub type Client = Member<Delivery>;

thread_local! {
    static INBOX: RefCell<Vec<Delivery>> = const { RefCell::new(Vec::new()) };
}

/// What was delivered.
#[derive(Debug)]
pub enum Delivery {
    /// A message.
    Message {
        /// Its sender.
        node: u32,
        /// Its header, or what is wrong with the message.
        header: Result<Header>,
    },
    /// A membership: how many members.
    Members(usize),
}

impl Told for Delivery {
    const GROUP: &'static str = "ringbench\0";

    fn inbox() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &INBOX
    }

    fn message(node: u32, message: &[u8]) -> Self {
        Self::Message {
            node,
            header: Header::read(message),
        }
    }

    fn view(members: &[cpg::Address], _left: &[cpg::Address], _joined: &[cpg::Address]) -> Self {
        Self::Members(members.len())
    }
}
