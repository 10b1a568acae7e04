//! The status group as the state machine sees it: every member is in sync after each round, there
//! are neither updates nor verifications.

use bytes::Bytes;

use super::{Outgoing, Status};
use crate::{
    dfsm::{App, Delivery, Evaluation, Violation},
    wire::MemberId,
};

impl App for Status {
    const PROTOCOL: u32 = 0;

    fn membership(&mut self, members: &[MemberId], _lowest: bool) {
        self.confchg(members);
    }

    fn state(&mut self, _now: u64) -> Bytes {
        self.build_state()
    }

    fn evaluate(
        &mut self,
        _now: u64,
        states: &[(MemberId, Bytes)],
        own: usize,
    ) -> Result<Evaluation, Violation> {
        let blobs: Vec<Bytes> = states.iter().map(|(_, blob)| blob.clone()).collect();
        let messages = Self::evaluate(self, &blobs, own);
        Ok(Evaluation {
            synced: vec![true; states.len()],
            updates: None,
            messages: messages.into_iter().map(into_parts).collect(),
        })
    }

    fn deliver(
        &mut self,
        now: u64,
        from: MemberId,
        own: Option<u64>,
        (subtype, _time, payload): (u16, u32, Bytes),
    ) -> Delivery {
        if own.is_none()
            && let Err(discard) = Self::deliver(self, seconds(now), from, subtype, payload)
        {
            tracing::debug!(%from, subtype, "ignored a status message: {discard}");
        }
        Delivery {
            result: 0,
            ok: true,
        }
    }

    fn synced(&mut self, now: u64) -> Vec<(u16, Bytes)> {
        self.announce(seconds(now))
            .into_iter()
            .map(into_parts)
            .collect()
    }
}

fn into_parts(message: Outgoing) -> (u16, Bytes) {
    (message.subtype, message.payload)
}

/// Times on the wire have 32 bits.
fn seconds(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(u32::MAX)
}
