//! Messages of the configuration map: nodes tell each other the version of their configuration.

use bytes::Bytes;

use super::exec::{decode_name, encode_name};
use super::{DecodeError, Put, Reader};

const FUNCTION_VALUES: u32 = 0;
const ALIGNMENT: usize = 8;

/// A message of this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Why it was sent.
    pub reason: Reason,
    /// Keys and values.
    pub items: Vec<Item>,
}

/// Why values were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Part of a synchronization.
    Sync,
    /// The configuration version changed.
    NewConfigVersion,
    /// Something else. Treated as a change.
    Other(u8),
}

/// One key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Name of the key.
    pub key: Bytes,
    /// Type of the value, 0 = the key is absent, 8 = u64.
    pub kind: u8,
    /// The value as it is in memory.
    pub value: Bytes,
}

impl Item {
    /// Type number of an absent key.
    pub const KIND_ABSENT: u8 = 0;
    /// Type number of a `u64`.
    pub const KIND_U64: u8 = 8;

    /// The value, if it is a `u64`.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        if self.kind != Self::KIND_U64 {
            return None;
        }
        Some(u64::from_le_bytes(self.value.as_ref().try_into().ok()?))
    }
}

impl Message {
    /// Number of the function, for the header.
    pub(super) fn function(&self) -> u16 {
        0
    }

    pub(super) fn decode(
        function: u32,
        reader: &mut Reader<'_>,
        bytes: &Bytes,
    ) -> Result<Self, DecodeError> {
        if function != FUNCTION_VALUES {
            return Err(DecodeError::UnknownKind(function));
        }
        let reason = match reader.u8()? {
            0 => Reason::Sync,
            1 => Reason::NewConfigVersion,
            other => Reason::Other(other),
        };
        reader.skip(7)?;
        let count = reader.u8()?;
        reader.skip(7 + 16)?;
        let items = (0..count)
            .map(|_| Item::decode(reader, bytes))
            .collect::<Result<_, _>>()?;
        Ok(Self { reason, items })
    }

    /// Items beyond 255 are left out.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let reason = match self.reason {
            Reason::Sync => 0,
            Reason::NewConfigVersion => 1,
            Reason::Other(other) => other,
        };
        let count = u8::try_from(self.items.len()).unwrap_or(u8::MAX);
        out.put_u8(reason);
        out.put_zeros(7);
        out.put_u8(count);
        out.put_zeros(7 + 16);
        for item in self.items.iter().take(usize::from(count)) {
            item.encode(out);
        }
    }
}

impl Item {
    fn decode(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Self, DecodeError> {
        let key = decode_name(reader, bytes)?;
        let kind = reader.u8()?;
        reader.skip(7)?;
        let len = usize::try_from(reader.u64()?)
            .map_err(|_| DecodeError::Malformed("length of a value"))?;
        let start = reader.position();
        reader.skip(len)?;
        let value = bytes.slice(start..start + len);
        reader.skip(padding(len))?;
        Ok(Self { key, kind, value })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_name(&self.key, out);
        out.put_u8(self.kind);
        out.put_zeros(7);
        out.put_u64(u64::try_from(self.value.len()).unwrap_or(u64::MAX));
        out.put_bytes(&self.value);
        out.put_zeros(padding(self.value.len()));
    }
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT) - len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exec;
    use super::*;

    fn item() -> impl Strategy<Value = Item> {
        let bytes = |max| prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from);
        (bytes(256), any::<u8>(), bytes(40)).prop_map(|(key, kind, value)| Item {
            key,
            kind,
            value,
        })
    }

    proptest! {
        #[test]
        fn messages_decode_to_what_was_encoded(
            reason in prop_oneof![
                Just(Reason::Sync),
                Just(Reason::NewConfigVersion),
                (2..=u8::MAX).prop_map(Reason::Other),
            ],
            items in prop::collection::vec(item(), 0..4),
        ) {
            let message = exec::Message::Cmap(Message { reason, items });
            let mut out = Vec::new();
            message.encode(&mut out);
            prop_assert_eq!(exec::Message::decode(&Bytes::from(out)), Ok(message));
        }
    }
}
