//! The configuration map under requests of hostile clients.

use bytes::Bytes;
use corosync_lite::service::ClientId;
use corosync_lite::service::cmap::{Raw, Request, Response};
use corosync_lite::service::map::Map;

use super::input::{Shape, Step, steps};

/// Events that one request may cause for each tracker, of which a client has a bounded number.
const EVENTS_MAX: usize = 100_000;

/// Requests of four clients; ids of walks and trackers are those that were handed out.
pub(super) fn run(input: &[u8]) -> u64 {
    let mut map = Map::default();
    for (key, value) in [("totem.token", "1000"), ("nodelist.node.0.name", "n1")] {
        map.set(key, Raw::text(value));
    }
    let mut outcome = Shape::default();
    let mut handles = Vec::new();
    for step in steps(input) {
        take(&mut map, &step, &mut handles, &mut outcome);
        let mut events = 0;
        while let Some((_, event)) = map.poll_event() {
            events += 1;
            let message = event.encode().to_bytes();
            let again = corosync_lite::service::cmap::Event::decode(&message);
            assert_eq!(
                again.as_ref(),
                Ok(&event),
                "an event is not what clients read"
            );
        }
        assert!(events < EVENTS_MAX, "{events} events of one request");
    }
    outcome.finish()
}

fn take(map: &mut Map, step: &Step, handles: &mut Vec<u64>, outcome: &mut Shape) {
    let client = ClientId(u64::from(step.op >> 6));
    if step.op & 31 == 31 {
        map.client_gone(client);
        return;
    }
    let request = Request::decode(&Bytes::copy_from_slice(&step.bytes));
    outcome.note(&request);
    let Ok(mut request) = request else {
        return;
    };
    if let Request::IterNext { handle }
    | Request::IterFinalize { handle }
    | Request::TrackDelete { handle } = &mut request
        && let Some(known) = handles.get(usize::try_from(*handle % 8).unwrap_or(0))
    {
        *handle = *known;
    }
    let done = map.handle_request(client, request);
    if let Response::IterInit(Ok(handle)) | Response::TrackAdd(Ok(handle)) = &done.response
        && handles.len() < 8
    {
        handles.push(*handle);
    }
    let message = done.response.encode().to_bytes();
    let again = Response::decode(&message);
    assert_eq!(
        again.as_ref(),
        Ok(&done.response),
        "a response is not what clients read"
    );
    outcome.note(&done);
}
