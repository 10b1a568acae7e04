//! Messages of the Totem single-ring protocol.
//!
//! Owns the byte layout of the six messages and the three numbers they are made of: [`NodeId`],
//! [`RingId`] and [`SeqNo`]. All integers are little-endian; a message of the other byte order is
//! refused by name. Invariants: decoding never panics and never reads outside the datagram, the
//! counted lists are bounded ([`NODES_MAX`], [`RTR_MAX`]), and `encode` of a decoded message gives
//! the bytes back, less what followed its end.

use std::fmt;

use bytes::Bytes;

/// Magic of the sender's byte order.
const MAGIC: u16 = 0xC070;
/// Protocol version.
const VERSION: u8 = 3;
/// Bytes of the common header.
pub const HEADER_LEN: usize = 13;
/// Bytes of a multicast before its body.
pub const MCAST_HEADER_LEN: usize = 45;
/// Most nodes of a ring.
pub const NODES_MAX: usize = 384;
/// Most retransmission requests that a token carries.
pub const RTR_MAX: usize = 30;

/// `encapsulated` of a multicast that carries a message of the old ring.
pub const ENCAPSULATED_OLD: u8 = 1;
/// `encapsulated` of an ordinary multicast.
pub const ENCAPSULATED_NOT: u8 = 2;

/// Number of a node; 0 means nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// Nobody: broadcast target, "no node lowered the aru", sender of a leave message.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a ring: its representative and a number that only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId {
    /// Lowest node of the ring.
    pub rep: NodeId,
    /// Ring sequence.
    pub seq: u64,
}

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.rep.0, self.seq)
    }
}

/// Message or token number with wrap-around (serial) comparison.
///
/// There is no `Ord`: the order holds only among numbers less than 2^31 apart, which the windows
/// of the protocol guarantee.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeqNo(pub u32);

impl SeqNo {
    /// The number before the first message, and the aru of an empty ring.
    pub const ZERO: Self = Self(0);
    /// One before zero: what a node that has accepted no token yet remembers.
    pub const BEFORE_ZERO: Self = Self(u32::MAX);

    /// The following number.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The number `n` steps on.
    #[must_use]
    pub fn plus(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// Steps from `earlier` to here, modulo 2^32.
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether this number comes before `other`.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        self != other && other.since(self) < 1 << 31
    }

    /// Whether this number is `other` or comes before it.
    #[must_use]
    pub fn is_up_to(self, other: Self) -> bool {
        !other.is_before(self)
    }

    /// The earlier one.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        if other.is_before(self) { other } else { self }
    }

    /// The later one.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a datagram is not a message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Ends before its fixed part or its counted lists do.
    #[error("message is too short")]
    Short,
    /// The first two bytes are not the magic number.
    #[error("not a totem message")]
    Magic,
    /// The magic number is byte-swapped.
    #[error("message of a host with the other byte order")]
    ByteOrder,
    /// A version other than 3.
    #[error("totem version {0}, only {VERSION} is known")]
    Version(u8),
    /// No such message type.
    #[error("unknown message type {0}")]
    Type(u8),
    /// A list is longer than the protocol allows, or its length is negative.
    #[error("list of impossible length")]
    ListLength,
    /// A multicast that is neither ordinary nor encapsulated.
    #[error("unknown encapsulation {0}")]
    Encapsulation(u8),
}

/// What all messages start with, less magic, version and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Meaningful in a multicast; 0 elsewhere.
    pub encapsulated: u8,
    /// Sender; [`NodeId::NONE`] in a leave message.
    pub node: NodeId,
    /// Destination of a token over knet, 0 for everybody; elsewhere without meaning.
    pub target: NodeId,
}

impl Header {
    /// Header of a message that is not a multicast.
    #[must_use]
    pub fn new(node: NodeId, target: NodeId) -> Self {
        Self {
            encapsulated: 0,
            node,
            target,
        }
    }
}

/// The token that rotates and orders messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrfToken {
    /// Common header.
    pub header: Header,
    /// Highest message number assigned on the ring.
    pub seq: SeqNo,
    /// Counts hops.
    pub token_seq: SeqNo,
    /// All nodes have received up to here, once it has not changed for a rotation.
    pub aru: SeqNo,
    /// Node that lowered `aru`.
    pub aru_addr: NodeId,
    /// Ring that the token belongs to.
    pub ring: RingId,
    /// Sum of the nodes' queued messages.
    pub backlog: u32,
    /// Messages sent in the current rotation.
    pub fcc: u32,
    /// Nonzero while a node still has old messages to send (recovery).
    pub retrans_flg: u32,
    /// Retransmission requests, at most [`RTR_MAX`].
    pub rtr: Vec<Rtr>,
}

/// Request to send a message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtr {
    /// Ring of the message.
    pub ring: RingId,
    /// The missing message.
    pub seq: SeqNo,
}

/// An ordered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mcast {
    /// Common header; `encapsulated` is [`ENCAPSULATED_OLD`] or [`ENCAPSULATED_NOT`].
    pub header: Header,
    /// Originating node.
    pub system_from: NodeId,
    /// Place in the order of `ring`.
    pub seq: SeqNo,
    /// The sender's running counter; informational.
    pub this_seqno: i32,
    /// Ring on which `seq` is valid.
    pub ring: RingId,
    /// Unused, 0.
    pub node_id: u32,
    /// Carried, never acted on.
    pub guarantee: i32,
    /// A packing frame, or a complete multicast of the old ring.
    pub body: Bytes,
}

/// "This ring is here": lets two idle rings find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeDetect {
    /// Common header.
    pub header: Header,
    /// Sender.
    pub system_from: NodeId,
    /// The sender's ring.
    pub ring: RingId,
}

/// Proposal of a membership, or goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembJoin {
    /// Common header; `node` is [`NodeId::NONE`] in a leave.
    pub header: Header,
    /// Sender, also in a leave.
    pub system_from: NodeId,
    /// Nodes considered, at most [`NODES_MAX`].
    pub proc: Vec<NodeId>,
    /// Nodes considered failed, at most [`NODES_MAX`].
    pub failed: Vec<NodeId>,
    /// Sequence of the sender's current ring.
    pub ring_seq: u64,
}

impl MembJoin {
    /// Whether the sender says goodbye.
    #[must_use]
    pub fn is_leave(&self) -> bool {
        self.header.node == NodeId::NONE
    }
}

/// Forms a ring: collects every member's past in a first round, spreads it in a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitToken {
    /// Common header.
    pub header: Header,
    /// Counts hops.
    pub token_seq: SeqNo,
    /// The ring being formed.
    pub ring: RingId,
    /// Unused, 0.
    pub retrans_flg: u32,
    /// Entries already filled in.
    pub memb_index: i32,
    /// Members with their entries, ascending, at most [`NODES_MAX`].
    pub members: Vec<(NodeId, CommitEntry)>,
}

/// One member's past, in a commit token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitEntry {
    /// The member's previous ring; zero until filled in.
    pub ring: RingId,
    /// Its aru on that ring.
    pub aru: SeqNo,
    /// The last message it delivered.
    pub high_delivered: SeqNo,
    /// 1 when it misses nothing that it knows of.
    pub received_flg: u32,
}

/// "Do not hold the token, I have a message."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldCancel {
    /// Common header.
    pub header: Header,
    /// The sender's ring.
    pub ring: RingId,
}

/// Any message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Type 0.
    OrfToken(OrfToken),
    /// Type 1.
    Mcast(Mcast),
    /// Type 2.
    MergeDetect(MergeDetect),
    /// Type 3.
    MembJoin(MembJoin),
    /// Type 4.
    CommitToken(CommitToken),
    /// Type 5.
    HoldCancel(HoldCancel),
}

/// Whether a datagram claims to be an ORF token: the layer above flushes its pack buffer before
/// handing one in.
#[must_use]
pub fn is_orf_token(datagram: &[u8]) -> bool {
    matches!(datagram, [0x70, 0xC0, VERSION, 0, ..])
}

impl Message {
    /// Reads a datagram. Bytes after the end of the message are ignored, except in a multicast,
    /// whose body takes all of them.
    ///
    /// # Errors
    /// [`DecodeError`] when the datagram is not a well-formed message.
    pub fn decode(datagram: &Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader {
            data: datagram,
            at: 0,
        };
        let magic = r.u16()?;
        if magic == MAGIC.swap_bytes() {
            return Err(DecodeError::ByteOrder);
        }
        if magic != MAGIC {
            return Err(DecodeError::Magic);
        }
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = r.u8()?;
        let header = Header {
            encapsulated: r.u8()?,
            node: r.node()?,
            target: r.node()?,
        };
        match kind {
            0 => OrfToken::read(header, &mut r).map(Self::OrfToken),
            1 => Mcast::read(header, &mut r).map(Self::Mcast),
            2 => Ok(Self::MergeDetect(MergeDetect {
                header,
                system_from: r.node()?,
                ring: r.ring()?,
            })),
            3 => MembJoin::read(header, &mut r).map(Self::MembJoin),
            4 => CommitToken::read(header, &mut r).map(Self::CommitToken),
            5 => Ok(Self::HoldCancel(HoldCancel {
                header,
                ring: r.ring()?,
            })),
            other => Err(DecodeError::Type(other)),
        }
    }

    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::OrfToken(m) => m.encode(),
            Self::Mcast(m) => m.encode(),
            Self::MergeDetect(m) => m.encode(),
            Self::MembJoin(m) => m.encode(),
            Self::CommitToken(m) => m.encode(),
            Self::HoldCancel(m) => m.encode(),
        }
    }
}

impl OrfToken {
    fn read(header: Header, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut token = Self {
            header,
            seq: r.seq()?,
            token_seq: r.seq()?,
            aru: r.seq()?,
            aru_addr: r.node()?,
            ring: r.ring()?,
            backlog: r.u32()?,
            fcc: r.u32()?,
            retrans_flg: r.u32()?,
            rtr: Vec::new(),
        };
        let count = r.count(RTR_MAX)?;
        token.rtr.reserve(count);
        for _ in 0..count {
            token.rtr.push(Rtr {
                ring: r.ring()?,
                seq: r.seq()?,
            });
        }
        Ok(token)
    }

    /// The bytes of the token.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(0, self.header);
        w.u32(self.seq.0)
            .u32(self.token_seq.0)
            .u32(self.aru.0)
            .u32(self.aru_addr.0);
        w.ring(self.ring)
            .u32(self.backlog)
            .u32(self.fcc)
            .u32(self.retrans_flg);
        w.len(self.rtr.len());
        for rtr in &self.rtr {
            w.ring(rtr.ring).u32(rtr.seq.0);
        }
        w.finish()
    }
}

impl Mcast {
    fn read(header: Header, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if header.encapsulated != ENCAPSULATED_OLD && header.encapsulated != ENCAPSULATED_NOT {
            return Err(DecodeError::Encapsulation(header.encapsulated));
        }
        Ok(Self {
            header,
            system_from: r.node()?,
            seq: r.seq()?,
            this_seqno: r.i32()?,
            ring: r.ring()?,
            node_id: r.u32()?,
            guarantee: r.i32()?,
            body: r.rest(),
        })
    }

    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(1, self.header);
        w.0.reserve_exact(MCAST_HEADER_LEN - HEADER_LEN + self.body.len());
        w.u32(self.system_from.0)
            .u32(self.seq.0)
            .i32(self.this_seqno)
            .ring(self.ring);
        w.u32(self.node_id).i32(self.guarantee);
        w.0.extend_from_slice(&self.body);
        w.finish()
    }
}

impl MergeDetect {
    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(2, self.header);
        w.u32(self.system_from.0).ring(self.ring);
        w.finish()
    }
}

impl MembJoin {
    fn read(header: Header, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let system_from = r.node()?;
        let proc_count = r.count(NODES_MAX)?;
        let failed_count = r.count(NODES_MAX)?;
        let ring_seq = r.u64()?;
        let proc = r.nodes(proc_count)?;
        let failed = r.nodes(failed_count)?;
        Ok(Self {
            header,
            system_from,
            proc,
            failed,
            ring_seq,
        })
    }

    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(3, self.header);
        w.u32(self.system_from.0)
            .len(self.proc.len())
            .len(self.failed.len())
            .u64(self.ring_seq);
        for node in self.proc.iter().chain(&self.failed) {
            w.u32(node.0);
        }
        w.finish()
    }
}

impl CommitToken {
    fn read(header: Header, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let token_seq = r.seq()?;
        let ring = r.ring()?;
        let retrans_flg = r.u32()?;
        let memb_index = r.i32()?;
        let count = r.count(NODES_MAX)?;
        let nodes = r.nodes(count)?;
        let mut members = Vec::with_capacity(count);
        for node in nodes {
            let entry = CommitEntry {
                ring: r.ring()?,
                aru: r.seq()?,
                high_delivered: r.seq()?,
                received_flg: r.u32()?,
            };
            members.push((node, entry));
        }
        Ok(Self {
            header,
            token_seq,
            ring,
            retrans_flg,
            memb_index,
            members,
        })
    }

    /// The bytes of the token.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(4, self.header);
        w.u32(self.token_seq.0)
            .ring(self.ring)
            .u32(self.retrans_flg)
            .i32(self.memb_index);
        w.len(self.members.len());
        for (node, _) in &self.members {
            w.u32(node.0);
        }
        for (_, entry) in &self.members {
            w.ring(entry.ring)
                .u32(entry.aru.0)
                .u32(entry.high_delivered.0);
            w.u32(entry.received_flg);
        }
        w.finish()
    }
}

impl HoldCancel {
    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(5, self.header);
        w.ring(self.ring);
        w.finish()
    }
}

struct Reader<'a> {
    data: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.data.get(self.at..).and_then(<[u8]>::first_chunk::<N>);
        self.at += N;
        bytes.copied().ok_or(DecodeError::Short)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn node(&mut self) -> Result<NodeId, DecodeError> {
        Ok(NodeId(self.u32()?))
    }

    fn seq(&mut self) -> Result<SeqNo, DecodeError> {
        Ok(SeqNo(self.u32()?))
    }

    fn ring(&mut self) -> Result<RingId, DecodeError> {
        Ok(RingId {
            rep: self.node()?,
            seq: self.u64()?,
        })
    }

    fn count(&mut self, max: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.i32()?).map_err(|_| DecodeError::ListLength)?;
        if count > max {
            Err(DecodeError::ListLength)
        } else {
            Ok(count)
        }
    }

    fn nodes(&mut self, count: usize) -> Result<Vec<NodeId>, DecodeError> {
        (0..count).map(|_| self.node()).collect()
    }

    fn rest(&self) -> Bytes {
        self.data.slice(self.at.min(self.data.len())..)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8, header: Header) -> Self {
        let mut w = Self(Vec::with_capacity(80));
        w.0.extend_from_slice(&MAGIC.to_le_bytes());
        w.0.extend_from_slice(&[VERSION, kind, header.encapsulated]);
        w.u32(header.node.0).u32(header.target.0);
        w
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn ring(&mut self, ring: RingId) -> &mut Self {
        self.u32(ring.rep.0).u64(ring.seq)
    }

    /// Length of a list; all lists are far shorter than 2^31.
    fn len(&mut self, len: usize) -> &mut Self {
        self.i32(i32::try_from(len).unwrap_or(i32::MAX))
    }

    fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

#[cfg(test)]
#[path = "srp_tests.rs"]
mod tests;
