//! What the controller and the clients tell each other, and what clients multicast.
//!
//! Orders and events are lines of JSON on a Unix socket. Times are nanoseconds of the clock that
//! all processes of the machine share.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// From the controller to one client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Send messages one after the other, each after the delivery of the one before.
    Ping {
        /// Number of this measurement, higher than all before.
        run: u32,
        /// How many messages.
        count: u64,
        /// Bytes of each.
        size: usize,
        /// Rest before each.
        pause_ms: u64,
    },
    /// Send as fast as flow control allows.
    Flood {
        /// Number of this measurement, higher than all before.
        run: u32,
        /// Bytes of each message.
        size: usize,
        /// When to stop sending.
        ends_at: u64,
    },
    /// Tell when so many messages of the run have been delivered.
    Expect {
        /// Number of the measurement.
        run: u32,
        /// Messages of all senders.
        total: u64,
    },
}

/// From a client to the controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// First line.
    Hello {
        /// Number of the host.
        id: usize,
    },
    /// The group has other members now.
    Members {
        /// How many.
        count: usize,
        /// When this was delivered.
        at: u64,
    },
    /// The daemon is gone.
    Lost,
    /// All pings were sent and delivered here.
    Pinged {
        /// Number of the measurement.
        run: u32,
        /// Time from sending to own delivery, of each.
        delays: Vec<u64>,
    },
    /// Sending is over.
    Sent {
        /// Number of the measurement.
        run: u32,
        /// Messages.
        count: u64,
    },
    /// All expected messages were delivered.
    Complete {
        /// Number of the measurement.
        run: u32,
        /// When the last one was.
        at: u64,
        /// Of senders and numbers of all messages, in the order of delivery.
        digest: u64,
        /// Time from sending to delivery here, of each ping.
        delays: Vec<u64>,
    },
    /// Something is wrong with the daemon or the client.
    Failed {
        /// What.
        text: String,
    },
}

/// Bytes of [`Header`]; messages are at least so long.
pub const HEADER_LEN: usize = 32;
const MAGIC: u32 = 0x7269_6e67;

/// First bytes of each message; the rest is filling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether receivers note how long it took.
    pub timed: bool,
    /// Number of the measurement.
    pub run: u32,
    /// Length of the message.
    pub size: u32,
    /// Number of the message, from 0 for each sender and run.
    pub seq: u64,
    /// When it was sent.
    pub sent: u64,
}

impl Header {
    /// Writes it to the start of `message`.
    ///
    /// # Panics
    /// When that is shorter than [`HEADER_LEN`].
    pub fn write(&self, message: &mut [u8]) {
        let head = [MAGIC, u32::from(self.timed), self.run, self.size].map(u32::to_le_bytes);
        message[..16].copy_from_slice(head.as_flattened());
        let tail = [self.seq, self.sent].map(u64::to_le_bytes);
        message[16..HEADER_LEN].copy_from_slice(tail.as_flattened());
    }

    /// Reads it from a delivered message.
    ///
    /// # Errors
    /// When the message is not one of ours, or not whole.
    pub fn read(message: &[u8]) -> Result<Self> {
        let words: Vec<u32> = message
            .chunks_exact(4)
            .take(HEADER_LEN / 4)
            .filter_map(|word| word.try_into().ok().map(u32::from_le_bytes))
            .collect();
        let [
            magic,
            timed,
            run,
            size,
            seq_low,
            seq_high,
            sent_low,
            sent_high,
        ] = words[..]
        else {
            anyhow::bail!("a message of {} bytes was delivered", message.len());
        };
        ensure!(magic == MAGIC, "a message of another kind was delivered");
        let len = u32::try_from(message.len()).context("a very long message was delivered")?;
        ensure!(
            len == size,
            "a message of {size} bytes was delivered with {len}"
        );
        Ok(Self {
            timed: timed != 0,
            run,
            size,
            seq: u64::from(seq_high) << 32 | u64::from(seq_low),
            sent: u64::from(sent_high) << 32 | u64::from(sent_low),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_and_cut_messages_do_not() {
        let header = Header {
            timed: true,
            run: 7,
            size: 64,
            seq: (3 << 32) + 9,
            sent: u64::MAX - 5,
        };
        let mut message = vec![0; 64];
        header.write(&mut message);
        assert_eq!(Header::read(&message).unwrap(), header);
        assert!(Header::read(&message[..63]).is_err());
        assert!(Header::read(&message[..5]).is_err());
        message[0] ^= 1;
        assert!(Header::read(&message).is_err());
    }
}
