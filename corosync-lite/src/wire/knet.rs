//! Datagrams of the multi-link transport, as they are before sealing and after opening.
//!
//! Numbers are big endian here, except the size in path-MTU packets, which is in the order of the
//! node that probes and is only read by it.

use super::{DecodeError, Put, Reader};

/// Bytes of the header of a data packet.
pub const DATA_HEADER_LEN: usize = 14;
/// Bytes of a ping or pong.
pub const PING_LEN: usize = 26;
/// Bytes of a path-MTU packet without filling.
pub const PMTUD_LEN: usize = 9;
/// Largest header of any packet. The data MTU is computed with it, whatever packet is meant.
pub const MAX_HEADER_LEN: usize = PING_LEN;
/// Highest number of fragments of one message: newer peers drop 255.
pub const MAX_FRAGMENTS: u8 = 254;

const VERSION: u8 = 1;
const TYPE_DATA: u8 = 0x00;
const TYPE_PING: u8 = 0x81;
const TYPE_PONG: u8 = 0x82;
const TYPE_PMTUD_PROBE: u8 = 0x83;
const TYPE_PMTUD_REPLY: u8 = 0x84;
/// Shorter datagrams are not looked at.
const MIN_LEN: usize = 7;

/// One opened datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Node that sent this datagram; for a pong or reply the one that answers.
    pub node: u16,
    /// What it carries.
    pub body: Body<'a>,
}

/// What a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// A message, or one fragment of it.
    Data(DataHeader, &'a [u8]),
    /// Asks for a [`Body::Pong`].
    Ping(Ping),
    /// The ping as it came, sent back.
    Pong(Ping),
    /// Asks whether a datagram of this size gets through.
    PmtudProbe {
        /// What the reply repeats.
        pmtud: Pmtud,
        /// Zero bytes that follow, to reach the size.
        filling: usize,
    },
    /// It did.
    PmtudReply(Pmtud),
}

/// Header of a data packet without its common part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// Number of the message among those of its sender. Never 0.
    pub seq: u16,
    /// How the message is compressed, 0 = not.
    pub compression: u8,
    /// Sent to all hosts. Informational.
    pub broadcast: bool,
    /// Fragments of the message, 1 = it is not fragmented.
    pub fragments: u8,
    /// 0 in a message that is not fragmented, else 1..=`fragments`.
    pub fragment: u8,
    /// 0 is the ring, others are not served.
    pub channel: i8,
}

/// Ping and pong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Link on which it travels.
    pub link: u8,
    /// When the ping was sent. Opaque to who answers.
    pub time: [u8; 16],
    /// Number of the last message of the node that pings, 0 if there was none.
    pub seq: u16,
    /// A periodic ping; else one that was forced by the number of messages.
    pub timed: bool,
}

/// Path-MTU probe and reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pmtud {
    /// Link on which it travels.
    pub link: u8,
    /// Size of the probe as an IP packet.
    pub size: u16,
}

impl<'a> Packet<'a> {
    /// Decodes an opened datagram.
    ///
    /// # Errors
    /// When it is too short, of another version or of an unknown type, or when its fragment
    /// numbers contradict each other.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() < MIN_LEN {
            return Err(DecodeError::TooShort {
                need: MIN_LEN,
                have: bytes.len(),
            });
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion(u32::from(version)));
        }
        let kind = reader.u8()?;
        let node = reader.u16_network()?;
        reader.skip(2)?;
        let body = match kind {
            TYPE_DATA => Body::Data(DataHeader::decode(&mut reader)?, reader.rest()),
            TYPE_PING => Body::Ping(Ping::decode(&mut reader)?),
            TYPE_PONG => Body::Pong(Ping::decode(&mut reader)?),
            TYPE_PMTUD_PROBE => Body::PmtudProbe {
                pmtud: Pmtud::decode(&mut reader)?,
                filling: reader.remaining(),
            },
            TYPE_PMTUD_REPLY => Body::PmtudReply(Pmtud::decode(&mut reader)?),
            other => return Err(DecodeError::UnknownKind(u32::from(other))),
        };
        Ok(Self { node, body })
    }

    /// Appends the datagram to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self.body {
            Body::Data(..) => TYPE_DATA,
            Body::Ping(_) => TYPE_PING,
            Body::Pong(_) => TYPE_PONG,
            Body::PmtudProbe { .. } => TYPE_PMTUD_PROBE,
            Body::PmtudReply(_) => TYPE_PMTUD_REPLY,
        };
        out.put_bytes(&[VERSION, kind]);
        out.put_u16_network(self.node);
        out.put_zeros(2);
        match &self.body {
            Body::Data(header, payload) => {
                header.encode(out);
                out.put_bytes(payload);
            }
            Body::Ping(ping) | Body::Pong(ping) => ping.encode(out),
            Body::PmtudProbe { pmtud, filling } => {
                pmtud.encode(out);
                out.put_zeros(*filling);
            }
            Body::PmtudReply(pmtud) => pmtud.encode(out),
        }
    }
}

impl DataHeader {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let seq = reader.u16_network()?;
        let compression = reader.u8()?;
        reader.skip(1)?;
        let header = Self {
            seq,
            compression,
            broadcast: reader.u8()? != 0,
            fragments: reader.u8()?,
            fragment: reader.u8()?,
            channel: i8::from_le_bytes([reader.u8()?]),
        };
        header.check()?;
        Ok(header)
    }

    /// A single packet may carry fragment number 0 or 1: both were seen in the field.
    fn check(&self) -> Result<(), DecodeError> {
        let consistent = match self.fragments {
            0 | u8::MAX => false,
            1 => self.fragment <= 1,
            fragments => (1..=fragments).contains(&self.fragment),
        };
        if consistent {
            Ok(())
        } else {
            Err(DecodeError::Malformed("fragment numbers"))
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16_network(self.seq);
        out.put_bytes(&[self.compression, 0, u8::from(self.broadcast)]);
        out.put_bytes(&[self.fragments, self.fragment]);
        out.put_bytes(&self.channel.to_le_bytes());
    }
}

impl Ping {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            link: reader.u8()?,
            time: reader.array()?,
            seq: reader.u16_network()?,
            timed: reader.u8()? != 0,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.link);
        out.put_bytes(&self.time);
        out.put_u16_network(self.seq);
        out.put_u8(u8::from(self.timed));
    }
}

impl Pmtud {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            link: reader.u8()?,
            size: reader.u16()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.link);
        out.put_u16(self.size);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body() -> impl Strategy<Value = (Body<'static>, Vec<u8>)> {
        let payload = prop::collection::vec(any::<u8>(), 0..200);
        let data = (any::<(u16, u8, bool, i8)>(), 1..=MAX_FRAGMENTS, payload).prop_flat_map(
            |((seq, compression, broadcast, channel), fragments, payload)| {
                let range = if fragments == 1 { 0..=1 } else { 1..=fragments };
                range.prop_map(move |fragment| {
                    let header = DataHeader {
                        seq,
                        compression,
                        broadcast,
                        fragments,
                        fragment,
                        channel,
                    };
                    (Body::Data(header, &[]), payload.clone())
                })
            },
        );
        let ping = any::<(u8, [u8; 16], u16, bool)>().prop_map(|(link, time, seq, timed)| Ping {
            link,
            time,
            seq,
            timed,
        });
        let pmtud = any::<(u8, u16)>().prop_map(|(link, size)| Pmtud { link, size });
        prop_oneof![
            data,
            ping.clone().prop_map(|ping| (Body::Ping(ping), vec![])),
            ping.prop_map(|ping| (Body::Pong(ping), vec![])),
            (pmtud.clone(), 0..2000_usize)
                .prop_map(|(pmtud, filling)| (Body::PmtudProbe { pmtud, filling }, vec![])),
            pmtud.prop_map(|pmtud| (Body::PmtudReply(pmtud), vec![])),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(node: u16, (body, payload) in body()) {
            let body = match body {
                Body::Data(header, _) => Body::Data(header, &payload),
                other => other,
            };
            let packet = Packet { node, body };
            let mut bytes = Vec::new();
            packet.encode(&mut bytes);
            prop_assert_eq!(Packet::decode(&bytes), Ok(packet));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..64),
            kind in prop::sample::select(vec![0x00, 0x81, 0x82, 0x83, 0x84, 0x85]),
        ) {
            std::hint::black_box(Packet::decode(&bytes).is_ok());
            if let Some([version, byte]) = bytes.first_chunk_mut() {
                (*version, *byte) = (VERSION, kind);
            }
            std::hint::black_box(Packet::decode(&bytes).is_ok());
        }
    }

    #[test]
    fn contradicting_fragment_numbers_are_refused() {
        for (fragments, fragment) in [(0, 0), (255, 3), (3, 0), (3, 4), (1, 2)] {
            let bytes = [1, 0, 0, 1, 0, 0, 0, 9, 0, 0, 1, fragments, fragment, 0];
            assert_eq!(
                Packet::decode(&bytes),
                Err(DecodeError::Malformed("fragment numbers"))
            );
        }
    }
}
