//! What the controller and the clients on hosts tell each other: lines of JSON on a Unix socket.

use serde::{Deserialize, Serialize};

/// From the controller to one client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Join the group, as soon as the daemon lets it; and again when the daemon was gone.
    Join,
    /// Leave the group and close the connection.
    Leave,
    /// Send one message of each of these sizes, as fast as the daemon takes them.
    Send {
        /// Bytes of each message.
        sizes: Vec<usize>,
    },
    /// Send messages of random sizes until told to stop.
    Load {
        /// Longest message, in bytes.
        longest: usize,
        /// Rest after each, in microseconds.
        pause_us: u64,
    },
    /// Stop the load.
    Quiet,
}

/// A message, known by what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Print {
    /// Bytes.
    pub len: usize,
    /// Hash of the bytes.
    pub hash: u64,
}

impl Print {
    /// Of these bytes.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        let step = |hash: u64, word: &[u8]| {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            (hash ^ u64::from_le_bytes(bytes))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        };
        Self {
            len: message.len(),
            hash: message.chunks(8).fold(0xcbf2_9ce4_8422_2325, step),
        }
    }
}

/// A process in a membership: its node, and why it came or went (0 for those that stay).
pub type Process = (u32, u8);

/// From a client to the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// First line.
    Hello {
        /// Number of the host.
        id: usize,
    },
    /// Connected to the daemon and member of the group.
    Joined,
    /// Not connected any more: the daemon is gone, or an order said so.
    Ended,
    /// The group has other members.
    View {
        /// Nodes of the members, by number.
        members: Vec<u32>,
        /// Who went, and why.
        left: Vec<Process>,
        /// Who came, and why.
        joined: Vec<Process>,
    },
    /// A message was delivered.
    Message {
        /// Node of the sender.
        from: u32,
        /// What it is.
        print: Print,
    },
    /// The daemon took a message.
    Sent(Print),
    /// Something is wrong with the daemon or the client.
    Failed {
        /// What.
        text: String,
    },
}
