//! What a client on a host keeps of what its daemon tells it.

use std::cell::RefCell;
use std::thread::LocalKey;

use rust_corosync::cpg;

use super::protocol::{Event, Print, Process};
use crate::member::Told;

thread_local! {
    static INBOX: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

impl Told for Event {
    const GROUP: &'static str = "mixed\0";

    fn inbox() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &INBOX
    }

    fn message(from: u32, message: &[u8]) -> Self {
        Self::Message {
            from,
            print: Print::of(message),
        }
    }

    fn view(members: &[cpg::Address], left: &[cpg::Address], joined: &[cpg::Address]) -> Self {
        let mut members: Vec<u32> = members.iter().map(|it| it.nodeid.into()).collect();
        members.sort_unstable();
        Self::View {
            members,
            left: processes(left),
            joined: processes(joined),
        }
    }
}

fn processes(list: &[cpg::Address]) -> Vec<Process> {
    let reason = |reason: &cpg::Reason| match reason {
        cpg::Reason::Undefined => 0,
        cpg::Reason::Join => 1,
        cpg::Reason::Leave => 2,
        cpg::Reason::NodeDown => 3,
        cpg::Reason::NodeUp => 4,
        cpg::Reason::ProcDown => 5,
    };
    let mut all: Vec<_> = list
        .iter()
        .map(|it| (it.nodeid.into(), reason(&it.reason)))
        .collect();
    all.sort_unstable();
    all
}
