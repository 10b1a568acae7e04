//! Captured conversations of the client libraries, answered by the core.

use std::collections::VecDeque;

use super::Setup;
use super::net::Net;
use crate::qb::vectors::{Direction, Frame, frames};
use crate::service::{ClientId, quorum, votequorum};

/// Replays a file at node 1; each time an event is missing, the next of `steps` happens.
fn replay(file: &str, mut net: Net, steps: &[&[u32]]) {
    let mut steps = steps.iter();
    let mut client = ClientId(0);
    let mut events: VecDeque<(String, Vec<u8>)> = VecDeque::new();
    let mut response = None;
    for frame in frames(&format!("ipc/{file}.hex")) {
        let context = format!("{file}: {}", frame.note);
        match frame.direction {
            Direction::Request => {
                let first = ["quorum GETTYPE", "quorum MODEL_GETTYPE"];
                if first.contains(&frame.note.as_str()) {
                    net.peer(1).core.client_gone(client);
                    client = ClientId(client.0 + 1);
                }
                ask(&mut net, client, &frame);
                response = answer(&mut net);
            }
            Direction::Response => {
                let bytes = response.take().expect(&context);
                assert!(
                    frame.matches(&bytes),
                    "{context}\n{:02x?}\n{bytes:02x?}",
                    frame.bytes
                );
            }
            Direction::Event => {
                events.extend(news(&mut net));
                if events.is_empty() {
                    net.form(steps.next().expect(&context));
                    events.extend(news(&mut net));
                }
                let (text, bytes) = events.pop_front().expect(&context);
                check_event(&frame, &text, &bytes);
            }
            Direction::OneWay => panic!("{context}"),
        }
    }
    assert_eq!(steps.next(), None);
    events.extend(news(&mut net));
    assert!(events.is_empty(), "{events:?}");
}

fn ask(net: &mut Net, client: ClientId, frame: &Frame) {
    let now = net.now;
    let core = &mut net.peer(1).core;
    if frame.note.starts_with("quorum ") {
        let request = quorum::Request::decode(&frame.bytes).unwrap();
        core.handle_quorum_request(client, request);
    } else {
        let request = votequorum::Request::decode(&frame.bytes).unwrap();
        core.handle_votequorum_request(now, client, request);
    }
    net.peer(1).drain();
    let group = net.group(1);
    net.run(&group);
}

fn answer(net: &mut Net) -> Option<Vec<u8>> {
    let peer = net.peer(1);
    let mut responses: Vec<Vec<u8>> = Vec::new();
    responses.extend(
        peer.quorum_responses
            .drain(..)
            .map(|r| r.encode().to_bytes()),
    );
    responses.extend(peer.responses.drain(..).map(|r| r.encode().to_bytes()));
    assert_eq!(responses.len(), 1);
    responses.pop()
}

fn news(net: &mut Net) -> Vec<(String, Vec<u8>)> {
    let peer = net.peer(1);
    let mut news = Vec::new();
    for (_, event) in peer.quorum_events.drain(..) {
        news.push((format!("{event:?}"), event.encode().to_bytes()));
    }
    for (_, event) in peer.events.drain(..) {
        news.push((format!("{event:?}"), event.encode().to_bytes()));
    }
    news
}

fn check_event(frame: &Frame, text: &str, bytes: &[u8]) {
    assert!(
        frame.matches(bytes),
        "{}\n{:02x?}\n{text}",
        frame.note,
        frame.bytes
    );
}

#[test]
fn libquorum_on_one_node() {
    replay("cs-quorum", Net::together(Setup::new(1, &[])), &[]);
}

#[test]
fn libquorum_while_a_node_comes_and_goes() {
    let mut net = Net::up(Setup::new(2, &[]));
    net.form(&[1]);
    replay("cs-quorum-2node", net, &[&[1, 2], &[1]]);
}

#[test]
fn libvotequorum_on_one_node() {
    replay("cs-votequorum", Net::together(Setup::new(1, &[])), &[]);
}

#[test]
fn libvotequorum_while_a_node_comes_and_goes() {
    let mut net = Net::up(Setup::new(2, &[]));
    net.form(&[1]);
    replay("cs-votequorum-2node", net, &[&[1, 2], &[1]]);
}

#[test]
fn an_unknown_model_is_refused() {
    let mut net = Net::together(Setup::new(1, &[]));
    let request = quorum::Request::ModelGetType(2);
    net.peer(1).core.handle_quorum_request(ClientId(1), request);
    net.peer(1).drain();
    let refused = quorum::Response::Refused(crate::service::Status::INVALID_PARAM);
    assert_eq!(net.peer(1).quorum_responses, [refused]);
}

#[test]
fn clients_that_are_gone_hear_nothing() {
    let mut net = Net::together(Setup::new(2, &[]));
    let client = ClientId(4);
    let now = net.now;
    let core = &mut net.peer(1).core;
    core.handle_quorum_request(client, quorum::Request::TrackStart(4));
    let track = votequorum::Request::TrackStart {
        context: 1,
        flags: 4,
    };
    core.handle_votequorum_request(now, client, track);
    net.form(&[1]);
    let peer = net.peer(1);
    assert_eq!((peer.quorum_events.len(), peer.events.len()), (1, 2));
    peer.core.client_gone(client);
    net.form(&[1, 2]);
    let peer = net.peer(1);
    assert_eq!((peer.quorum_events.len(), peer.events.len()), (1, 2));
}
