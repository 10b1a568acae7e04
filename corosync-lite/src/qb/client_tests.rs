use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use super::super::{Event, FlowControl, Options, Server};
use super::*;
use crate::qb::wire::{RESPONSE_HEADER_LEN, RequestHeader, ResponseHeader};

const PATIENCE: Duration = Duration::from_secs(20);

/// A request with a head.
fn request(id: i32, data: &[u8]) -> Vec<u8> {
    let size = i32::try_from(16 + data.len()).unwrap();
    [&RequestHeader { id, size }.encode()[..], data].concat()
}

/// A server in a thread: it answers with what it was sent, tells it as an event too for id 1,
/// answers nothing for id 2, blocks further requests for id 3, and ends for id 4.
fn start(service: &str, refusal: Option<i32>) -> JoinHandle<()> {
    let (listening, ready) = channel();
    let name = service.to_owned();
    let thread = std::thread::spawn(move || {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().to_owned();
        let mut server = Server::new(Options {
            directory,
            ..Options::default()
        })
        .unwrap();
        let id = server.listen(&name).unwrap();
        listening.send(()).unwrap();
        loop {
            server.wait(Some(PATIENCE)).unwrap();
            server.process(clock::now()).unwrap();
            while let Some(event) = server.poll_event() {
                match (event, refusal) {
                    (Event::Hello { connection, .. }, Some(error)) => {
                        server.refuse(connection, error);
                        return;
                    }
                    (Event::Hello { connection, .. }, None) => server.accept(connection).unwrap(),
                    (
                        Event::Request {
                            connection,
                            request,
                            ..
                        },
                        _,
                    ) => {
                        let data = &request.message[16..];
                        match request.id {
                            1 => server.notify(connection, 7, 1, &[data]).unwrap(),
                            2 => continue,
                            3 => server.set_flow_control(id, FlowControl::Soft),
                            4 => return,
                            _ => {}
                        }
                        server.respond(connection, request.id, 1, &[data]).unwrap();
                    }
                    (Event::Closed { .. }, _) => return,
                }
            }
        }
    });
    ready.recv().unwrap();
    thread
}

fn name(what: &str) -> String {
    format!("test-client-{what}-{}", std::process::id())
}

#[test]
fn requests_are_answered_and_events_come() {
    let service = name("calls");
    let server = start(&service, None);
    let mut client = Client::connect(&service, PATIENCE).unwrap();
    for size in [0, 1, 5000, 1 << 19, 700_000] {
        let data = vec![7; size];
        let response = client.call(&request(0, &data), PATIENCE).unwrap();
        let head = ResponseHeader::decode(&response).unwrap();
        assert_eq!((head.id, head.error), (0, 1));
        assert_eq!(&response[RESPONSE_HEADER_LEN..], data);
    }
    assert_eq!(client.event(clock::now()).unwrap(), None);
    client.call(&request(1, b"hello"), PATIENCE).unwrap();
    let event = client.event(clock::now() + PATIENCE).unwrap().unwrap();
    assert_eq!(&event[RESPONSE_HEADER_LEN..], b"hello");
    assert_eq!(client.event(clock::now()).unwrap(), None);
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_client_notices_what_the_daemon_does_not_do() {
    let service = name("silent");
    let server = start(&service, None);
    let mut client = Client::connect(&service, PATIENCE).unwrap();
    let moment = Duration::from_millis(20);
    let error = client.call(&request(2, b""), moment).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error}");
    drop(client);
    server.join().unwrap();

    let server = start(&service, None);
    let mut client = Client::connect(&service, PATIENCE).unwrap();
    client.call(&request(3, b""), PATIENCE).unwrap();
    let error = client.call(&request(0, b""), PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Busy), "{error}");
    drop(client);
    server.join().unwrap();

    let server = start(&service, None);
    let mut client = Client::connect(&service, PATIENCE).unwrap();
    let error = client.call(&request(4, b""), PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Disconnected), "{error}");
    let error = client.event(clock::now() + PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Disconnected), "{error}");
    server.join().unwrap();
}

#[test]
fn refusals_are_put_in_words() {
    let service = name("refuse");
    let error = Client::connect(&service, PATIENCE).unwrap_err();
    assert!(error.to_string().contains(&service), "{error}");
    for (number, word) in [(-13, "uidgid"), (-11, "not ready"), (-38, "-38")] {
        let server = start(&service, Some(number));
        let error = Client::connect(&service, PATIENCE).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        server.join().unwrap();
    }
}
