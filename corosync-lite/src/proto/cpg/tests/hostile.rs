//! Anything in any order is taken.

use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "g", "h"])
}

fn piece() -> impl Strategy<Value = Piece> {
    prop::sample::select(vec![Piece::First, Piece::Continued, Piece::Last])
}

fn message() -> impl Strategy<Value = Message> {
    let text = || prop::sample::select(vec!["", "a", "abcdef"]);
    prop_oneof![
        (name(), 0u32..3).prop_map(|(name, pid)| join_message(name, pid)),
        (name(), 0u32..3, 0u32..7).prop_map(|(name, pid, reason)| {
            let reason = match reason {
                3 => wire::Reason::NodeDown,
                5 => wire::Reason::ProcessDown,
                other => wire::Reason::Other(other),
            };
            leave_message(name, pid, reason)
        }),
        prop::collection::vec((name(), 0u32..3), 0..4).prop_map(|entries| list(&entries)),
        (name(), 0u32..3, text()).prop_map(|(name, pid, text)| mcast_message(name, pid, text)),
        (name(), 0u32..3, piece(), 0u32..9, text()).prop_map(|(name, pid, piece, total, text)| {
            part_message(name, pid, piece, total, text)
        }),
        (any::<u32>(), prop::collection::vec(0u32..4, 0..4)).prop_map(|(old_members, left)| {
            let left = left.into_iter().map(NodeId).collect();
            Message::Downlist(wire::Downlist { old_members, left })
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Hear(u32, Message),
    Ask(u8, u8),
    Init(Vec<u32>, Vec<u32>),
    Process,
    Activate,
    Abort,
}

fn step() -> impl Strategy<Value = Step> {
    let nodes = || prop::collection::vec(0u32..4, 0..4);
    prop_oneof![
        6 => (0u32..4, message()).prop_map(|(node, message)| Step::Hear(node, message)),
        6 => (0u8..3, 0u8..9).prop_map(|(client, what)| Step::Ask(client, what)),
        1 => (nodes(), nodes()).prop_map(|(members, common)| Step::Init(members, common)),
        1 => Just(Step::Process),
        1 => Just(Step::Activate),
        1 => Just(Step::Abort),
    ]
}

fn ask(cpg: &mut Cpg, client: ClientId, what: u8) {
    let (guarantee, data, length) = (2, bytes("abc"), 6);
    let part = |part| Request::PartialMcast {
        guarantee,
        length,
        part,
        data: data.clone(),
    };
    let request = match what {
        0 => return cpg.client_connected(client),
        1 => return cpg.client_gone(client),
        2 => Request::Mcast {
            guarantee,
            data: data.clone(),
        },
        3 => part(Part::First),
        4 => part(Part::Last),
        5 => Request::Finalize,
        6 => Request::Leave {
            group: group("g"),
            pid: 1,
        },
        _ => Request::Join {
            group: group("g"),
            pid: u32::from(what) % 2,
            flags: 1,
        },
    };
    cpg.handle_request(client, request);
}

proptest! {
    #[test]
    fn no_history_makes_it_panic_or_tell_strangers(steps in prop::collection::vec(step(), 0..80)) {
        let mut cpg = Cpg::new(LOCAL);
        let mut here = BTreeSet::new();
        let nodes = |ids: &[u32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        for step in steps {
            match step {
                Step::Hear(node, message) => cpg.handle_message(NodeId(node), message),
                Step::Ask(client, what) => {
                    let client = ClientId(u64::from(client));
                    match what {
                        0 if here.contains(&client) => continue,
                        0 => drop(here.insert(client)),
                        1 => drop(here.remove(&client)),
                        _ => (),
                    }
                    ask(&mut cpg, client, what);
                }
                Step::Init(members, common) => {
                    cpg.sync_init(&nodes(&members), &nodes(&common), ring(4));
                }
                Step::Process => cpg.sync_process(),
                Step::Activate => cpg.sync_activate(),
                Step::Abort => cpg.sync_abort(),
            }
            while let Some(output) = cpg.poll_output() {
                if let Output::Event(client, _) | Output::Respond(client, _) = output {
                    prop_assert!(here.contains(&client));
                }
            }
        }
    }
}
