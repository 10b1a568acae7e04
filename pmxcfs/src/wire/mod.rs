//! Codecs of everything that members of a cluster send to each other.
//!
//! Bytes become typed values here and nowhere else. The modules know formats only: no state, no
//! I/O, no clock. All integers are little endian.
//!
//! | module | bytes |
//! |---|---|
//! | [`dfsm`] | headers of the generic state machine, both groups |
//! | [`fuse_msg`] | changes of the configuration tree (`dcdb`, subtypes 1 to 8) |
//! | [`index`] | state blob and update entries of the configuration tree |
//! | [`kv`] | key and value of the status group |
//! | [`clusterlog`] | one entry of the cluster log |
//! | [`ring`] | the ring of log entries, which is also the state blob of the status group |
//!
//! Invariant: no input makes a decoder panic, read outside its input or allocate more than a small
//! multiple of it. Payloads are slices of the received buffer, not copies.

#![warn(clippy::indexing_slicing)]

pub mod clusterlog;
pub mod dfsm;
pub mod fuse_msg;
pub mod index;
pub mod kv;
pub mod ring;

use std::fmt;

use bytes::Bytes;

/// Why bytes from a peer were not accepted.
///
/// The variants are kept apart because the reactions differ: see each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside its header or a fixed part. Reaction: leave the group.
    #[error("message of {have} bytes is too short, {need} are needed")]
    TooShort {
        /// Bytes needed for the part that was being read.
        need: usize,
        /// Bytes that were there.
        have: usize,
    },
    /// The sender speaks a newer protocol. Reaction: stop this group for good.
    #[error("protocol version {theirs} is newer than ours ({own}): upgrade this node")]
    NewerVersion {
        /// Version of this node.
        own: u32,
        /// Version in the message.
        theirs: u32,
    },
    /// The sender speaks an older protocol. Reaction: ignore the message.
    #[error("protocol version {theirs} is older than ours ({own}): upgrade the sender")]
    OlderVersion {
        /// Version of this node.
        own: u32,
        /// Version in the message.
        theirs: u32,
    },
    /// Lengths, terminators or enumerations do not fit. Reaction: leave the group (`dcdb`) or
    /// ignore the message (status).
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// A group message number that is not known. Reactions as for [`DecodeError::Malformed`].
    #[error("unknown message number {0}")]
    UnknownSubtype(u16),
    /// A change without any path. Reaction: the change fails with `EINVAL`, nothing else happens.
    #[error("change without a path")]
    EmptyPath,
    /// A rename without any target. Reaction: leave the group.
    #[error("rename without a target")]
    EmptyRenameTarget,
}

/// One process in a group. Ordered by node id, then process id: the member order of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId {
    /// Node id of the cluster configuration.
    pub node: u32,
    /// Process id given when joining.
    pub pid: u32,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.pid)
    }
}

/// Bounds-checked cursor; what it takes out shares the buffer.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
    taken: usize,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self {
            rest: bytes,
            taken: 0,
        }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::TooShort {
                need: self.taken.saturating_add(len),
                have: self.taken + self.rest.len(),
            });
        }
        self.taken += len;
        Ok(self.rest.split_to(len))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(&self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes not yet read.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Everything not yet read.
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }
}

/// Takes a field that must end in NUL and returns what stands before its first NUL.
pub(crate) fn terminated(field: &Bytes, what: &'static str) -> Result<Bytes, DecodeError> {
    if field.last() != Some(&0) {
        return Err(DecodeError::Malformed(what));
    }
    Ok(until_nul(field))
}

/// The bytes before the first NUL, or all of them.
pub(crate) fn until_nul(field: &Bytes) -> Bytes {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    field.slice(..end)
}

/// The bytes before the first NUL, or all of them.
pub(crate) fn slice_until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// A length as it goes into a 32-bit field.
///
/// Every caller bounds what it sends by the limits of the file system (1 MiB of data) or of the
/// log entry, so the conversion can not fail.
pub(crate) fn length_field(len: usize) -> u32 {
    u32::try_from(len).expect("fields of outgoing messages are far below 4 GiB")
}

/// A 32-bit length from a message as a size in memory.
pub(crate) fn size_of_field(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(crate) mod vectors;
