//! Changes of keys.

use super::*;

#[test]
fn a_new_key_is_used_and_then_the_old_one_forgotten() {
    let mut setup = Setup::new();
    setup.ask(1, Request::Reload);
    setup.deliver(LOCAL, &own_reload(1));
    setup
        .cfg
        .reload_done(Reloaded::Applied { keys_changed: true });
    let outputs = setup.drain();
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    assert_eq!(setup.deliver(PEER, &activate), []);
    let expected = [
        mcast(activate),
        Output::ActivateKeys,
        mcast(cleanup.clone()),
        Output::CleanupKeys,
        respond(1, Response::Reload(Status::OK)),
    ];
    assert_eq!(setup.settle(outputs), expected);
    assert_eq!(setup.deliver(LOCAL, &cleanup), []);
}

#[test]
fn an_older_change_of_keys_does_not_undo_a_newer_one() {
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    let mut setup = Setup::new();
    setup.accept_key();
    setup.accept_key();
    assert_eq!(setup.deliver(LOCAL, &activate), []);
    let steps = [Output::ActivateKeys, mcast(cleanup.clone())];
    assert_eq!(setup.deliver(LOCAL, &activate), steps);
    // A third key comes while the second one is cleaned up after.
    setup.accept_key();
    assert_eq!(setup.deliver(LOCAL, &cleanup), []);
    assert_eq!(setup.deliver(LOCAL, &activate), steps);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
}

#[test]
fn each_step_of_a_change_of_keys_waits_for_all_members() {
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    let begin = || {
        let mut setup = Setup::new();
        setup.cfg.set_members(&[LOCAL, PEER]);
        setup.accept_key();
        assert_eq!(setup.deliver(LOCAL, &activate), []);
        assert_eq!(setup.deliver(NodeId(9), &activate), []);
        setup
    };
    let first = [Output::ActivateKeys, mcast(cleanup.clone())];
    let mut setup = begin();
    assert_eq!(setup.deliver(PEER, &activate), first);
    assert_eq!(setup.deliver(LOCAL, &cleanup), []);
    assert_eq!(setup.deliver(PEER, &cleanup), [Output::CleanupKeys]);
    // The original does not wait: both messages of it may come first.
    let mut setup = begin();
    assert_eq!(setup.deliver(PEER, &activate), first);
    assert_eq!(setup.deliver(PEER, &cleanup), []);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
    // And it forgets the old key then, which can not be waited for.
    let mut setup = begin();
    assert_eq!(setup.deliver(PEER, &cleanup), first);
    assert_eq!(setup.deliver(PEER, &activate), []);
    assert_eq!(setup.deliver(LOCAL, &activate), []);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
    // One who leaves is not waited for.
    let mut setup = begin();
    setup.cfg.set_members(&[LOCAL]);
    assert_eq!(setup.drain(), first);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
}

#[test]
fn who_uses_the_new_key_before_all_accept_it_is_followed() {
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    let mut setup = Setup::new();
    setup.cfg.set_members(&[LOCAL, PEER, NodeId(9)]);
    setup.cfg.next_keys_used();
    setup.cfg.follow();
    assert_eq!(setup.drain(), [], "nothing was loaded");
    let outputs = setup.accept_key();
    assert_eq!(outputs.last(), Some(&mcast(activate.clone())));
    // The others may not have it yet: the token has to pass first.
    setup.cfg.next_keys_used();
    assert_eq!(setup.drain(), [Output::Repeat]);
    setup.cfg.follow();
    assert_eq!(
        setup.drain(),
        [Output::ActivateKeys, mcast(cleanup.clone())]
    );
    // It goes by its own messages as little as the members that were late.
    for late in [LOCAL, PEER, NodeId(9)] {
        assert_eq!(setup.deliver(late, &activate), []);
    }
    for member in [PEER, NodeId(9)] {
        assert_eq!(setup.deliver(member, &cleanup), []);
    }
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
    // What came late does not count for the next change.
    setup.accept_key();
    assert_eq!(setup.deliver(LOCAL, &activate), []);
    assert_eq!(setup.deliver(PEER, &activate), []);
    let steps = [Output::ActivateKeys, mcast(cleanup)];
    assert_eq!(setup.deliver(NodeId(9), &activate), steps);
}

/// A node with the keys that it accepts; the first one is what it sends with.
struct Rekeyed {
    cfg: Cfg,
    delivered: usize,
    current: usize,
    other: Option<usize>,
    queue: VecDeque<Message>,
}

/// Runs changes of keys on three nodes that get the same messages, each at its own pace, and sends
/// its own when its turn comes. All must be able to read all the time.
fn rekey(turns: &[(usize, bool)], first: CryptoRace) {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let mut nodes: Vec<_> = ids
        .map(|id| {
            let mut cfg = Cfg::new(id);
            cfg.set_members(&ids);
            let queue = VecDeque::new();
            Rekeyed {
                cfg,
                delivered: 0,
                current: 0,
                other: None,
                queue,
            }
        })
        .into();
    let mut stream = vec![(ids[0], own_reload(0))];
    let all = (0..200)
        .flat_map(|_| [0, 1, 2])
        .flat_map(|node| [(node, true), (node, false)]);
    for (index, sends) in turns.iter().copied().chain(all) {
        let node = &mut nodes[index];
        if sends {
            // A slow one has much else to send before.
            let waits = first.0 == index && stream.len() < first.1;
            let message = if waits { None } else { node.queue.pop_front() };
            stream.extend(message.map(|message| (ids[index], message)));
        } else if let Some((sender, message)) = stream.get(node.delivered) {
            node.delivered += 1;
            node.cfg.handle_message(*sender, message);
        }
        while let Some(output) = node.cfg.poll_output() {
            match output {
                Output::Mcast { message, .. } => node.queue.push_back(message),
                Output::Reload => {
                    node.other = Some(1);
                    node.cfg
                        .reload_done(Reloaded::Applied { keys_changed: true });
                }
                Output::ActivateKeys => {
                    let old = std::mem::replace(&mut node.current, node.other.unwrap());
                    node.other = Some(old);
                }
                Output::CleanupKeys => node.other = None,
                _ => {}
            }
        }
        // Everybody reads what everybody sends, however far it has come.
        for sender in &nodes {
            for receiver in &nodes {
                let key = sender.current;
                assert!(key == receiver.current || Some(key) == receiver.other);
            }
        }
    }
    for node in &nodes {
        assert_eq!((node.current, node.other), (1, None));
    }
}

/// A node, and how many messages of others go before its own.
#[derive(Clone, Copy, Debug)]
struct CryptoRace(usize, usize);

proptest! {
    #[test]
    fn a_change_of_keys_loses_no_datagram(
        turns in prop::collection::vec((0..3_usize, any::<bool>()), 0..60),
        slow in 0..3_usize,
    ) {
        // The slow one speaks after both others have taken their first step.
        rekey(&turns, CryptoRace(slow, 3));
    }
}
