//! Nodes that are told to end.

use super::*;

#[test]
fn a_member_is_killed_and_says_why() {
    let mut setup = Setup::new();
    let kill = |nodeid| Request::KillNode {
        nodeid,
        reason: "by\nhand".to_owned(),
    };
    let gone = [respond(1, Response::KillNode(Status::NOT_EXIST))];
    assert_eq!(setup.ask(1, kill(3)), gone);
    let message = |node| Message::KillNode {
        node,
        reason: Bytes::from_static(b"by\nhand\0"),
    };
    let sent = [
        mcast(message(PEER)),
        respond(1, Response::KillNode(Status::OK)),
    ];
    assert_eq!(setup.ask(1, kill(2)), sent);
    assert_eq!(setup.deliver(LOCAL, &message(PEER)), []);
    let killed = Output::Killed {
        by: PEER,
        reason: "by?hand".to_owned(),
    };
    assert_eq!(setup.deliver(PEER, &message(LOCAL)), [killed]);
    let long = Request::KillNode {
        nodeid: 2,
        reason: "x".repeat(5000),
    };
    let sent = setup.ask(1, long);
    assert!(
        matches!(&sent[0], Output::Mcast { message: Message::KillNode { reason, .. }, .. } if reason.len() == 256)
    );
}

#[test]
fn a_shutdown_is_told_to_all_and_done_by_one() {
    let mut setup = Setup::new();
    for flags in 0..3 {
        let outputs = setup.ask(1, Request::TryShutdown { flags });
        let agreed = respond(1, Response::TryShutdown(Status::OK));
        assert_eq!(outputs, [agreed, mcast(Message::Shutdown)]);
    }
    assert_eq!(setup.deliver(PEER, &Message::Shutdown), []);
    assert_eq!(setup.deliver(LOCAL, &Message::Shutdown), [Output::Shutdown]);
}

#[test]
fn trackers_vote_on_a_shutdown() {
    let mut setup = Setup::new();
    setup.ask(1, Request::TrackStart);
    setup.ask(2, Request::TrackStart);
    setup.ask(3, Request::TrackStart);
    // The one who asks is not asked.
    let asked = [1, 2].map(|client| event(client, Status::OK, 0));
    assert_eq!(setup.ask(3, ASK), asked);
    let busy = respond(4, Response::TryShutdown(Status::EXIST));
    assert_eq!(setup.ask(4, ASK), [busy]);
    let taken = |client| respond(client, Response::ReplyToShutdown(Status::OK));
    assert_eq!(setup.ask(1, NO), [taken(1)]);
    // Who was not asked has no vote; the last word of one who was counts.
    let refused = respond(4, Response::ReplyToShutdown(Status::ACCESS));
    assert_eq!(setup.ask(4, YES), [refused]);
    assert_eq!(setup.ask(1, YES), [taken(1)]);
    // A newcomer is asked too, before its answer.
    let tracked = respond(5, Response::TrackStart(Status::OK));
    let newcomer = [event(5, Status::OK, 0), tracked];
    assert_eq!(setup.ask(5, Request::TrackStart), newcomer);
    assert_eq!(setup.ask(2, YES), [taken(2)]);
    // One who goes agrees.
    setup.cfg.client_gone(ClientId(5));
    let stops = [
        respond(3, Response::TryShutdown(Status::OK)),
        mcast(Message::Shutdown),
    ];
    assert_eq!(setup.drain(), stops);
    assert_eq!(setup.cfg.poll_timeout(), None);
}

#[test]
fn silence_is_a_no() {
    let mut setup = Setup::new();
    setup.ask(1, Request::TrackStart);
    setup.ask(2, ASK);
    let deadline = setup.now + TIMEOUT;
    assert_eq!(setup.cfg.poll_timeout(), Some(deadline));
    setup
        .cfg
        .handle_timeout(deadline - Duration::from_millis(1));
    assert_eq!(setup.drain(), []);
    setup.cfg.handle_timeout(deadline);
    let ended = [
        respond(2, Response::TryShutdown(Status::BUSY)),
        event(1, Status::TIMEOUT, 0),
    ];
    assert_eq!(setup.drain(), ended);
    assert_eq!(setup.cfg.poll_timeout(), None);
    let late = respond(1, Response::ReplyToShutdown(Status::ACCESS));
    assert_eq!(setup.ask(1, YES), [late]);
}

#[test]
fn a_shutdown_regardless_waits_but_happens() {
    for answers in [true, false] {
        let mut setup = Setup::new();
        setup.ask(1, Request::TrackStart);
        setup.ask(2, Request::TryShutdown { flags: 1 });
        if answers {
            setup
                .cfg
                .handle_request(setup.now, ClientId(1), NO, &setup.view);
        } else {
            setup.cfg.handle_timeout(setup.now + TIMEOUT);
        }
        let stops = [
            respond(2, Response::TryShutdown(Status::OK)),
            mcast(Message::Shutdown),
        ];
        assert_eq!(setup.drain()[..2], stops);
    }
}

#[test]
fn a_vote_ends_with_the_one_who_asked() {
    let mut setup = Setup::new();
    setup.ask(1, Request::TrackStart);
    setup.ask(2, ASK);
    setup.cfg.client_gone(ClientId(2));
    assert_eq!(setup.drain(), []);
    assert_eq!(setup.cfg.poll_timeout(), None);
    let late = respond(1, Response::ReplyToShutdown(Status::ACCESS));
    assert_eq!(setup.ask(1, YES), [late]);
}
