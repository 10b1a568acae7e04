//! One key of the status group with its value.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Reader, until_nul};

/// Message number of [`KvUpdate`] in the status group.
pub const SUBTYPE: u16 = 1;

/// Bytes of the key field, its NUL included.
pub const KEY_FIELD_LEN: usize = 256;

/// Sets a key of the sending node; an empty value removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvUpdate {
    /// At most 255 bytes without NUL.
    pub key: Bytes,
    /// Opaque.
    pub value: Bytes,
}

impl KvUpdate {
    /// Reads an update. What follows the key's NUL inside its field is ignored: some senders leave
    /// garbage there.
    ///
    /// # Errors
    ///
    /// If the key field is incomplete or has no NUL. Such a message is ignored.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let field = reader.take(KEY_FIELD_LEN)?;
        let key = until_nul(&field);
        if key.len() == KEY_FIELD_LEN {
            return Err(DecodeError::Malformed("status key is not terminated"));
        }
        Ok(Self {
            key,
            value: reader.rest(),
        })
    }

    /// The payload; a key of more than 255 bytes is cut.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(KEY_FIELD_LEN + self.value.len());
        out.extend(self.key.iter().take(KEY_FIELD_LEN - 1));
        out.resize(KEY_FIELD_LEN, 0);
        out.put_slice(&self.value);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{dfsm::Message, vectors};

    fn captured(name: &str) -> Option<(KvUpdate, Bytes)> {
        match Message::decode(0, vectors::hex(name)).unwrap() {
            Message::Normal {
                subtype: SUBTYPE,
                payload,
                ..
            } => Some((KvUpdate::decode(payload.clone()).expect(name), payload)),
            _ => None,
        }
    }

    /// Zeroes what follows the key, where the captured messages hold garbage.
    fn masked(payload: &Bytes, key_len: usize) -> Vec<u8> {
        let mut bytes = payload.to_vec();
        bytes[key_len..KEY_FIELD_LEN].fill(0);
        bytes
    }

    #[test]
    fn captured_updates_round_trip() {
        let mut hits = 0;
        for name in vectors::names(".hex")
            .iter()
            .filter(|name| name.starts_with("kv-"))
        {
            if let Some((update, payload)) = captured(name) {
                assert_eq!(
                    update.encode(),
                    masked(&payload, update.key.len()),
                    "{name}"
                );
                hits += 1;
            }
        }
        assert_eq!(hits, 11);
    }

    #[test]
    fn captured_updates_have_the_known_fields() {
        let fields = |name: &str| {
            let update = captured(name).unwrap().0;
            (update.key, update.value)
        };
        assert_eq!(
            fields("kv-nodeip.hex"),
            ("nodeip".into(), "10.77.0.2\0".into())
        );
        assert_eq!(
            fields("kv-update-json.hex"),
            ("services".into(), "{\"json\":1}\n".into())
        );
        assert_eq!(fields("kv-delete.hex"), ("services".into(), Bytes::new()));
        assert_eq!(
            fields("kv-longkey.hex"),
            ("K".repeat(255).into(), "x".into())
        );
        assert_eq!(
            fields("kv-maxvalue.hex"),
            ("maxval".into(), "k".repeat(32768).into())
        );
    }

    #[test]
    fn long_key_is_cut() {
        let update = KvUpdate {
            key: "K".repeat(300).into(),
            value: "x".into(),
        };
        let again = KvUpdate::decode(update.encode()).unwrap();
        assert_eq!((again.key.len(), again.value), (255, "x".into()));
    }

    #[test]
    fn unterminated_key_is_refused() {
        assert!(KvUpdate::decode(vec![b'k'; 300].into()).is_err());
        assert!(KvUpdate::decode(vec![0; 255].into()).is_err());
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(
            key in prop::collection::vec(1_u8.., 0..=255),
            value in prop::collection::vec(any::<u8>(), 0..90),
        ) {
            let update = KvUpdate { key: key.into(), value: value.into() };
            prop_assert_eq!(KvUpdate::decode(update.encode()), Ok(update));
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(0_u8..4, 0..400)) {
            let bytes = Bytes::from(bytes);
            if let Ok(update) = KvUpdate::decode(bytes.clone()) {
                prop_assert_eq!(update.encode(), masked(&bytes, update.key.len()));
            }
        }
    }
}
