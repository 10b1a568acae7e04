//! Timers, windows and limits of the ring protocol, with the defaults that all nodes share.
//!
//! Invariant: this is plain data; a running ring takes a new one with `Srp::reconfigure`.

use std::time::Duration;

/// Bytes that the headers of recovery and packing take from a datagram.
const FRAME_OVERHEAD: usize = 90;
/// Bytes of one send queue; the number of frames follows from it.
const SEND_QUEUE_BYTES: usize = 4 << 20;
/// Largest datagram that any transport carries.
pub const DATAGRAM_LEN_MAX: usize = 65_536;

/// When a message is handed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as everything before it is here: what all nodes of a ring do by default.
    #[default]
    Agreed,
    /// Once every member has received it. A decision of this node alone, invisible to others.
    Safe,
}

/// Parameters of the ring protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// No token for this long: the ring is broken.
    pub token: Duration,
    /// Percentage of `token` after which a late token is reported, 0 for never.
    pub token_warning_percent: u32,
    /// No token for this long: the last one is sent again.
    pub token_retransmit: Duration,
    /// How long the representative of an idle ring keeps the token.
    pub hold: Duration,
    /// Interval of join messages while a membership is being agreed.
    pub join: Duration,
    /// Largest random delay before the first join message, for very large rings.
    pub send_join: Duration,
    /// How long to wait for agreement before silent nodes count as failed.
    pub consensus: Duration,
    /// Delay before an idle ring looks for others.
    pub merge: Duration,
    /// Interval of interface checks; for the transports that need them.
    pub downcheck: Duration,
    /// Rotations without receiving what others received before a node gives itself up.
    pub fail_recv_const: u32,
    /// Rotations without a message before the token is held.
    pub seqno_unchanged_const: u32,
    /// Tokens that may be missed before the ring counts as broken, 0 to look at `token` only.
    pub heartbeat_failures_allowed: u32,
    /// Delay of the network, for the heartbeat.
    pub max_network_delay: Duration,
    /// Messages per rotation, of all nodes together.
    pub window_size: u32,
    /// Messages per token visit.
    pub max_messages: u32,
    /// Token visits before a missing message is asked for.
    pub miss_count_const: u32,
    /// Whether a wish for retransmission keeps the token moving.
    pub cancel_token_hold_on_retransmit: bool,
    /// Largest frame that `mcast` takes.
    pub frame_len_max: usize,
    /// Frames that each send queue takes.
    pub send_queue_len_max: usize,
    /// Bytes of messages held out of order before further ones are dropped, to be asked for again.
    pub reorder_bytes_max: usize,
    /// When messages are handed up.
    pub delivery: Delivery,
}

impl Default for Config {
    fn default() -> Self {
        Self::with_token(Duration::from_millis(3000))
    }
}

impl Config {
    /// The defaults for a token timeout; those that are fractions of it follow it.
    #[must_use]
    pub fn with_token(token: Duration) -> Self {
        let token_ms = u64::try_from(token.as_millis()).unwrap_or(u64::MAX / 10);
        // Four retransmissions and a fifth; integers, so that all nodes compute the same.
        let retransmit_ms = token_ms.saturating_mul(10) / 42;
        let hold_ms = (retransmit_ms.saturating_mul(8) / 10)
            .saturating_sub(10)
            .max(1);
        Self {
            token,
            token_warning_percent: 75,
            token_retransmit: ms(retransmit_ms),
            hold: ms(hold_ms),
            join: ms(50),
            send_join: Duration::ZERO,
            consensus: ms(token_ms.saturating_mul(6) / 5),
            merge: ms(200),
            downcheck: ms(1000),
            fail_recv_const: 2500,
            seqno_unchanged_const: 30,
            heartbeat_failures_allowed: 0,
            max_network_delay: ms(50),
            window_size: 50,
            max_messages: 17,
            miss_count_const: 5,
            cancel_token_hold_on_retransmit: false,
            frame_len_max: DATAGRAM_LEN_MAX - FRAME_OVERHEAD,
            send_queue_len_max: SEND_QUEUE_BYTES / (DATAGRAM_LEN_MAX - FRAME_OVERHEAD) - 2,
            reorder_bytes_max: 64 << 20,
            delivery: Delivery::Agreed,
        }
    }

    /// Limits frames to what fits a datagram of the transport.
    #[must_use]
    pub fn with_net_mtu(mut self, net_mtu: usize) -> Self {
        self.frame_len_max = net_mtu.saturating_sub(FRAME_OVERHEAD).max(1);
        self.send_queue_len_max = (SEND_QUEUE_BYTES / self.frame_len_max)
            .saturating_sub(2)
            .max(1);
        self
    }

    /// How long after a token the ring counts as broken when heartbeats are on.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        (self.heartbeat_failures_allowed > 0).then(|| {
            self.token_retransmit * self.heartbeat_failures_allowed + self.max_network_delay
        })
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_token_timeout() {
        for (token, retransmit, hold, consensus) in [
            (126, 30, 14, 151),
            (3000, 714, 561, 3600),
            (3650, 869, 685, 4380),
        ] {
            let config = Config::with_token(ms(token));
            assert_eq!(config.token_retransmit, ms(retransmit));
            assert_eq!(config.hold, ms(hold));
            assert_eq!(config.consensus, ms(consensus));
        }
    }

    #[test]
    fn frames_leave_room_for_the_headers_around_them() {
        let knet = Config::default();
        assert_eq!((knet.frame_len_max, knet.send_queue_len_max), (65_446, 62));
        let udp = Config::default().with_net_mtu(1500);
        assert_eq!((udp.frame_len_max, udp.send_queue_len_max), (1410, 2972));
    }
}
