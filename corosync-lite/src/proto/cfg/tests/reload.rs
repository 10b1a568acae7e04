//! Configurations that are read again.

use super::*;

#[test]
fn all_nodes_reload_and_one_answers() {
    let mut setup = Setup::new();
    assert_eq!(setup.ask(1, Request::Reload), [mcast(own_reload(1))]);
    assert_eq!(setup.deliver(LOCAL, &own_reload(1)), [Output::Reload]);
    let applied = Reloaded::Applied {
        keys_changed: false,
    };
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), [respond(1, Response::Reload(Status::OK))]);
    // The same number on another node is another client.
    let theirs = Message::Reload(Source {
        node: PEER,
        connection: 1,
    });
    assert_eq!(setup.deliver(PEER, &theirs), [Output::Reload]);
    setup.cfg.reload_done(Reloaded::Refused);
    assert_eq!(setup.drain(), []);
    setup.ask(2, Request::Reload);
    assert_eq!(setup.deliver(LOCAL, &own_reload(2)), [Output::Reload]);
    setup.cfg.reload_done(Reloaded::Refused);
    let refused = respond(2, Response::Reload(Status::INVALID_PARAM));
    assert_eq!(setup.drain(), [refused]);
}

#[test]
fn reloads_that_come_meanwhile_are_one() {
    let mut setup = Setup::new();
    for client in 1..=3 {
        setup.ask(client, Request::Reload);
    }
    let again = respond(3, Response::Reload(Status::TRY_AGAIN));
    assert_eq!(setup.ask(3, Request::Reload), [again]);
    assert_eq!(setup.deliver(LOCAL, &own_reload(1)), [Output::Reload]);
    assert_eq!(setup.deliver(LOCAL, &own_reload(2)), []);
    assert_eq!(setup.deliver(LOCAL, &own_reload(3)), []);
    setup.cfg.client_gone(ClientId(2));
    let applied = Reloaded::Applied {
        keys_changed: false,
    };
    let answer = |client| respond(client, Response::Reload(Status::OK));
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), [answer(1), Output::Reload]);
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), [answer(3)]);
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), []);
}
