//! Messages of the synchronization phase that follows each new membership.

use bytes::Bytes;

use super::exec::{decode_header, encode_message};
use super::{DecodeError, Put, Reader, RingId};

/// Most services that a node can list.
pub const MAX_SERVICES: usize = 128;
const ID_BARRIER: u32 = 0;
const ID_BUILD: u32 = 1;

/// A message to the group [`Sync`](super::pg::Group::Sync).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The sender is done with the current service.
    Barrier {
        /// Ring of the synchronization; messages of another one are ignored.
        ring: RingId,
    },
    /// The services that the sender synchronizes.
    Build {
        /// Ring of the synchronization.
        ring: RingId,
        /// Service numbers, ascending, at most [`MAX_SERVICES`].
        services: Vec<u32>,
    },
}

impl Message {
    /// Decodes a message.
    ///
    /// # Errors
    /// When it is malformed or of an unknown kind.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let id = decode_header(&mut reader)?;
        let ring = RingId::decode(&mut reader)?;
        reader.skip(4)?;
        let message = match id {
            ID_BARRIER => Self::Barrier { ring },
            ID_BUILD => {
                let count = reader.length()?;
                reader.skip(4)?;
                if count > MAX_SERVICES {
                    return Err(DecodeError::Malformed("number of services"));
                }
                let services = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
                reader.skip(4 * (MAX_SERVICES - count))?;
                Self::Build { ring, services }
            }
            other => return Err(DecodeError::UnknownKind(other)),
        };
        reader.finish()?;
        Ok(message)
    }

    /// Appends the message to `out`. Services beyond [`MAX_SERVICES`] are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Barrier { ring } => encode_message(ID_BARRIER, out, |out| {
                ring.encode(out);
                out.put_zeros(4);
            }),
            Self::Build { ring, services } => encode_message(ID_BUILD, out, |out| {
                let services = services.get(..MAX_SERVICES).unwrap_or(services);
                ring.encode(out);
                out.put_zeros(4);
                out.put_length(services.len());
                out.put_zeros(4);
                services.iter().for_each(|service| out.put_u32(*service));
                out.put_zeros(4 * (MAX_SERVICES - services.len()));
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::NodeId;
    use super::*;

    proptest! {
        #[test]
        fn messages_decode_to_what_was_encoded(
            rep: u32,
            seq: u64,
            services in prop::collection::vec(any::<u32>(), 0..=MAX_SERVICES),
            barrier: bool,
        ) {
            let ring = RingId { rep: NodeId(rep), seq };
            let message = if barrier {
                Message::Barrier { ring }
            } else {
                Message::Build { ring, services }
            };
            let mut out = Vec::new();
            message.encode(&mut out);
            prop_assert_eq!(Message::decode(&Bytes::from(out)), Ok(message));
        }

        #[test]
        fn arbitrary_bodies_never_panic(id in 0..3_u32, body in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut out = Vec::new();
            encode_message(id, &mut out, |out| out.put_bytes(&body));
            std::hint::black_box(Message::decode(&Bytes::from(out)).is_ok());
            std::hint::black_box(Message::decode(&Bytes::from(body)).is_ok());
        }
    }
}
