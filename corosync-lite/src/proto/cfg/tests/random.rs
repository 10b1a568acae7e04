//! Any order of requests, messages and time.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Ask(u64, Request),
    Gone(u64),
    Deliver(u32, Message),
    Own,
    Done(Reloaded),
    Wait(u64),
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::RingStatus),
        Just(Request::RingReenable),
        (0..4_u32, ".{0,300}").prop_map(|(nodeid, reason)| Request::KillNode { nodeid, reason }),
        (0..4_u32).prop_map(|flags| Request::TryShutdown { flags }),
        any::<bool>().prop_map(|yes| Request::ReplyToShutdown { yes }),
        (0..4_u32).prop_map(|nodeid| Request::NodeAddresses { nodeid }),
        Just(Request::LocalNode),
        Just(Request::Reload),
        Just(Request::ReopenLogs),
        (0..4_u32, 0..3_u32).prop_map(|(nodeid, version)| Request::NodeStatus { nodeid, version }),
        Just(Request::TrackStart),
        Just(Request::TrackStop),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![
        (0..9_u64).prop_map(|connection| Message::Reload(Source {
            node: LOCAL,
            connection
        })),
        (0..3_u32, bytes).prop_map(|(node, reason)| Message::KillNode {
            node: NodeId(node),
            reason
        }),
        Just(Message::Shutdown),
        Just(Message::CryptoReconfig(CryptoPhase::Activate)),
        Just(Message::CryptoReconfig(CryptoPhase::Cleanup)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_u64, request()).prop_map(|(client, request)| Step::Ask(client, request)),
        1 => (0..5_u64).prop_map(Step::Gone),
        2 => (2..4_u32, message()).prop_map(|(sender, message)| Step::Deliver(sender, message)),
        4 => Just(Step::Own),
        2 => any::<bool>().prop_map(|keys_changed| Step::Done(Reloaded::Applied { keys_changed })),
        1 => (0..6000_u64).prop_map(Step::Wait),
    ]
}

/// Messages on the way and requests without an answer.
#[derive(Default)]
struct Open {
    on_the_way: VecDeque<Message>,
    unanswered: BTreeMap<ClientId, usize>,
    prepared: bool,
}

impl Open {
    fn take(&mut self, setup: &mut Setup) {
        for output in setup.drain() {
            match output {
                Output::Mcast { message, .. } => self.on_the_way.push_back(message),
                Output::Respond(client, _) => {
                    let open = self.unanswered.get_mut(&client).expect("a request");
                    *open = open.checked_sub(1).expect("one answer to each request");
                }
                Output::ActivateKeys => assert!(self.prepared),
                Output::CleanupKeys => self.prepared = false,
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn each_request_is_answered_once_and_little_is_kept(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let (mut setup, mut open) = (Setup::new(), Open::default());
        for step in steps {
            match step {
                Step::Ask(client, request) => {
                    *open.unanswered.entry(ClientId(client)).or_default() += 1;
                    setup.cfg.handle_request(setup.now, ClientId(client), request, &setup.view);
                }
                Step::Gone(client) => {
                    setup.cfg.client_gone(ClientId(client));
                    open.unanswered.remove(&ClientId(client));
                }
                Step::Deliver(sender, message) => setup.cfg.handle_message(NodeId(sender), &message),
                Step::Own => {
                    if let Some(message) = open.on_the_way.pop_front() {
                        setup.cfg.handle_message(LOCAL, &message);
                    }
                }
                Step::Done(result) => {
                    let counts = setup.cfg.running.is_some();
                    open.prepared |= counts && result != Reloaded::Refused;
                    setup.cfg.reload_done(result);
                }
                Step::Wait(ms) => {
                    setup.now += Duration::from_millis(ms);
                    setup.cfg.handle_timeout(setup.now);
                }
            }
            open.take(&mut setup);
            let waiting = [&setup.cfg.running, &setup.cfg.next];
            let kept: usize = waiting.into_iter().flatten().map(BTreeSet::len).sum();
            prop_assert!(kept + setup.cfg.asked.len() <= 10);
            prop_assert!(setup.cfg.trackers.len() <= 5);
        }
        // Once all messages have come and all files are read, nobody waits any more.
        setup.now += Duration::from_secs(60);
        setup.cfg.handle_timeout(setup.now);
        open.take(&mut setup);
        for _ in 0..2000 {
            match open.on_the_way.pop_front() {
                Some(message) => setup.cfg.handle_message(LOCAL, &message),
                None if setup.cfg.running.is_some() => setup.cfg.reload_done(Reloaded::Refused),
                None => break,
            }
            open.take(&mut setup);
        }
        prop_assert_eq!(open.unanswered.values().sum::<usize>(), 0);
        prop_assert!(setup.cfg.running.is_none() && setup.cfg.next.is_none());
        prop_assert_eq!((setup.cfg.activations, setup.cfg.cleanups), (0, 0));
    }
}
