//! Encryption and authentication of datagrams, and the change of keys.
//!
//! A sealed datagram is `salt (16) | AES-CBC of the packet, padded | HMAC of both`; one that is
//! only signed is `packet | HMAC of it`. The cipher key is the start of the key file, the HMAC key
//! is all of it. The HMAC is checked before anything else is looked at.
//!
//! Two suites exist while keys change: both are accepted, one is sent with. A suite may be
//! [`Suite::Clear`], so that encryption can be switched on and off in a running ring.
//!
//! Invariant: as long as no suite is clear, [`Seal::open`] gives out nothing that was not made by
//! a holder of a key.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey,
    EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use hmac_md5::{KeyInit, Mac as _};
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};

use crate::wire::knet::MAX_HEADER_LEN;

/// Fewest bytes of a key file.
pub const MIN_KEY_LEN: usize = 128;
/// Most bytes of a key file.
pub const MAX_KEY_LEN: usize = 4096;

const SALT_LEN: usize = 16;
const BLOCK_LEN: usize = 16;
const MD5_LEN: usize = 16;

type HmacMd5 = hmac_md5::Hmac<md5::Md5>;

/// How packets are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// Not at all.
    None,
    /// AES-128-CBC.
    Aes128,
    /// AES-192-CBC.
    Aes192,
    /// AES-256-CBC.
    Aes256,
}

/// How packets are authenticated, with HMAC of this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// Not at all.
    None,
    /// MD5, for old configurations.
    Md5,
    /// SHA-1, for old configurations.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Cipher {
    /// The cipher of this name in the configuration file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "aes128" => Self::Aes128,
            "aes192" => Self::Aes192,
            "aes256" => Self::Aes256,
            _ => return None,
        })
    }

    fn algorithm(self) -> Option<(&'static Algorithm, usize)> {
        match self {
            Self::None => None,
            Self::Aes128 => Some((&AES_128, 16)),
            Self::Aes192 => Some((&AES_192, 24)),
            Self::Aes256 => Some((&AES_256, 32)),
        }
    }
}

impl Hash {
    /// The hash of this name in the configuration file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "md5" => Self::Md5,
            "sha1" => Self::Sha1,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            _ => return None,
        })
    }
}

/// Why keys can not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not enough key material.
    #[error("key of {0} bytes is too short, {MIN_KEY_LEN} are needed: make one with keygen")]
    TooShort(usize),
    /// More than any peer would use.
    #[error("key of {0} bytes is too long, {MAX_KEY_LEN} are the most: make one with keygen")]
    TooLong(usize),
    /// Encryption without authentication is never offered.
    #[error("crypto_cipher requires crypto_hash with a value other than none")]
    CipherWithoutHash,
    /// The library does not offer the algorithm.
    #[error("the cryptographic library refuses {0:?}")]
    Refused(Cipher),
}

/// A cipher and a hash with their keys, ready for use.
pub enum Suite {
    /// Packets travel as they are.
    Clear,
    /// Packets are signed, and encrypted if there are cipher keys.
    Keyed(Box<Keyed>),
}

/// Keyed contexts of a [`Suite`].
pub struct Keyed {
    cipher: Option<(EncryptingKey, DecryptingKey)>,
    mac: Mac,
}

enum Mac {
    AwsLc(Box<hmac::Key>),
    Md5(HmacMd5),
}

impl fmt::Debug for Suite {
    /// Never shows keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("Clear"),
            Self::Keyed(keyed) => keyed.fmt(f),
        }
    }
}

impl fmt::Debug for Keyed {
    /// Never shows keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.cipher {
            Some(_) => "Sealed",
            None => "Signed",
        })
    }
}

impl Suite {
    /// Makes the contexts. The key is not needed, and not looked at, if nothing is to be sealed.
    ///
    /// # Errors
    /// When the key is too short or too long, or the choice of algorithms is not allowed.
    pub fn new(cipher: Cipher, hash: Hash, key: &[u8]) -> Result<Self, KeyError> {
        let mac = |algorithm| Mac::AwsLc(Box::new(hmac::Key::new(algorithm, key)));
        let mac = match hash {
            Hash::None if cipher == Cipher::None => return Ok(Self::Clear),
            Hash::None => return Err(KeyError::CipherWithoutHash),
            _ if key.len() < MIN_KEY_LEN => return Err(KeyError::TooShort(key.len())),
            _ if key.len() > MAX_KEY_LEN => return Err(KeyError::TooLong(key.len())),
            Hash::Md5 => {
                let keyed = HmacMd5::new_from_slice(key);
                Mac::Md5(keyed.map_err(|_| KeyError::Refused(cipher))?)
            }
            Hash::Sha1 => mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Hash::Sha256 => mac(hmac::HMAC_SHA256),
            Hash::Sha384 => mac(hmac::HMAC_SHA384),
            Hash::Sha512 => mac(hmac::HMAC_SHA512),
        };
        let cipher = cipher_keys(cipher, key)?;
        Ok(Self::Keyed(Box::new(Keyed { cipher, mac })))
    }

    /// Most bytes of a packet that is sealed to at most `room` bytes.
    fn packet_room(&self, room: usize) -> usize {
        let Self::Keyed(keyed) = self else {
            return room;
        };
        let room = room.saturating_sub(keyed.mac.len());
        if keyed.cipher.is_none() {
            return room;
        }
        let blocks = room.saturating_sub(SALT_LEN) / BLOCK_LEN;
        (blocks * BLOCK_LEN).saturating_sub(1)
    }
}

fn cipher_keys(
    cipher: Cipher,
    key: &[u8],
) -> Result<Option<(EncryptingKey, DecryptingKey)>, KeyError> {
    let Some((algorithm, len)) = cipher.algorithm() else {
        return Ok(None);
    };
    let refused = |_| KeyError::Refused(cipher);
    let key = key.get(..len).ok_or(KeyError::TooShort(key.len()))?;
    let unbound = || UnboundCipherKey::new(algorithm, key).map_err(refused);
    let encrypt = EncryptingKey::cbc(unbound()?).map_err(refused)?;
    let decrypt = DecryptingKey::cbc(unbound()?).map_err(refused)?;
    Ok(Some((encrypt, decrypt)))
}

impl Mac {
    fn len(&self) -> usize {
        match self {
            Self::AwsLc(key) => key.algorithm().tag_len(),
            Self::Md5(_) => MD5_LEN,
        }
    }

    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::AwsLc(key) => {
                let tag = hmac::sign(key, out);
                out.extend_from_slice(tag.as_ref());
            }
            Self::Md5(keyed) => {
                let tag = keyed.clone().chain_update(&out[..]).finalize();
                out.extend_from_slice(&tag.into_bytes());
            }
        }
    }

    /// In constant time.
    fn verify(&self, bytes: &[u8], tag: &[u8]) -> bool {
        match self {
            Self::AwsLc(key) => hmac::verify(key, bytes, tag).is_ok(),
            Self::Md5(keyed) => {
                let state = keyed.clone().chain_update(bytes);
                state.verify_slice(tag).is_ok()
            }
        }
    }
}

impl Keyed {
    /// Encrypts and signs what follows the room for the salt in `out`.
    fn seal(&self, salts: &mut ChaCha12Rng, out: &mut Vec<u8>) -> Result<(), SealError> {
        if let Some((key, _)) = &self.cipher {
            let padding = BLOCK_LEN - (out.len() - SALT_LEN) % BLOCK_LEN;
            let filler = u8::try_from(padding).map_err(|_| SealError)?;
            out.resize(out.len() + padding, filler);
            let (salt, packet) = out.split_first_chunk_mut::<SALT_LEN>().ok_or(SealError)?;
            salts.fill_bytes(salt);
            let context = EncryptionContext::Iv128(FixedLength::from(*salt));
            key.less_safe_encrypt(packet, context)
                .map_err(|_| SealError)?;
        }
        self.mac.append(out);
        Ok(())
    }

    /// Leaves the packet in `out` if the datagram is authentic.
    fn open(&self, datagram: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let signed_len = datagram.len().checked_sub(self.mac.len())?;
        let (signed, tag) = datagram.split_at_checked(signed_len)?;
        if !self.mac.verify(signed, tag) {
            return None;
        }
        out.clear();
        let Some((_, key)) = &self.cipher else {
            out.extend_from_slice(signed);
            return Some(());
        };
        let (salt, packet) = signed.split_first_chunk::<SALT_LEN>()?;
        out.extend_from_slice(packet);
        let context = DecryptionContext::Iv128(FixedLength::from(*salt));
        let clear = key.decrypt(out, context).ok()?;
        let padding = usize::from(*clear.last()?);
        if padding == 0 || padding > BLOCK_LEN {
            return None;
        }
        let len = clear.len().checked_sub(padding)?;
        out.truncate(len);
        Some(())
    }
}

/// The cryptographic library failed. The datagram can not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed to seal a datagram")]
pub struct SealError;

/// Which suite a datagram was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeWith {
    /// The one that this node sends with.
    Current,
    /// The one that it will send with.
    Next,
    /// The one that it did send with.
    Last,
}

/// The suites in force.
#[derive(Debug)]
pub struct Seal {
    /// Sent with and accepted.
    current: Suite,
    /// Accepted; and whether it is to be sent with, or was.
    other: Option<(Suite, MadeWith)>,
    salts: ChaCha12Rng,
}

impl Seal {
    /// Starts with one suite. Salts come from `seed`, which has to be unpredictable to others.
    #[must_use]
    pub fn new(suite: Suite, seed: [u8; 32]) -> Self {
        Self {
            current: suite,
            other: None,
            salts: ChaCha12Rng::from_seed(seed),
        }
    }

    /// First step of a change: accepts `next` too. Replaces a change that was begun before.
    pub fn prepare(&mut self, next: Suite) {
        self.other = Some((next, MadeWith::Next));
    }

    /// Second step: sends with the new suite, still accepts the old one.
    ///
    /// Does nothing if no change was prepared.
    pub fn activate(&mut self) {
        if let Some((other, role)) = &mut self.other
            && *role == MadeWith::Next
        {
            std::mem::swap(&mut self.current, other);
            *role = MadeWith::Last;
        }
    }

    /// Last step: accepts nothing but what is sent with.
    pub fn cleanup(&mut self) {
        self.other = None;
    }

    /// Whether packets are sent encrypted or signed.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        matches!(self.current, Suite::Keyed(_))
    }

    /// Replaces the content of `out` by the sealed form of the packet that `write` appends.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn seal(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SealError> {
        out.clear();
        match &self.current {
            Suite::Clear => {
                write(out);
                Ok(())
            }
            Suite::Keyed(keyed) => {
                if keyed.cipher.is_some() {
                    out.resize(SALT_LEN, 0);
                }
                write(out);
                keyed.seal(&mut self.salts, out)
            }
        }
    }

    /// Replaces the content of `out` by the packet in `datagram`, and says what that was made with;
    /// nothing if it is not authentic by any suite.
    #[must_use]
    pub fn open(&self, datagram: &[u8], out: &mut Vec<u8>) -> Option<MadeWith> {
        let other = self.other.as_ref().map(|(suite, role)| (suite, *role));
        let suites = || std::iter::once((&self.current, MadeWith::Current)).chain(other);
        let is_of = |suite: &Suite, out: &mut Vec<u8>| match suite {
            Suite::Clear => false,
            Suite::Keyed(keyed) => keyed.open(datagram, out).is_some(),
        };
        let mut keyed = suites().filter(|(suite, _)| is_of(suite, out));
        if let Some((_, role)) = keyed.next() {
            return Some(role);
        }
        drop(keyed);
        let (_, role) = suites().find(|(suite, _)| matches!(suite, Suite::Clear))?;
        out.clear();
        out.extend_from_slice(datagram);
        Some(role)
    }

    /// Most bytes of a packet that is sealed to at most `room` bytes.
    #[must_use]
    pub fn packet_room(&self, room: usize) -> usize {
        self.current.packet_room(room)
    }

    /// Bytes of a message per fragment, when a datagram has `room` bytes.
    ///
    /// Less than would fit: the largest header is counted, as peers do.
    #[must_use]
    pub fn data_room(&self, room: usize) -> usize {
        self.packet_room(room).saturating_sub(MAX_HEADER_LEN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::{Checker, capture, hex, text};

    const CIPHERS: [Cipher; 4] = [Cipher::None, Cipher::Aes128, Cipher::Aes192, Cipher::Aes256];
    const HASHES: [Hash; 6] = [
        Hash::None,
        Hash::Md5,
        Hash::Sha1,
        Hash::Sha256,
        Hash::Sha384,
        Hash::Sha512,
    ];

    fn suite(cipher: &str, hash: &str, key: &str) -> Suite {
        let cipher = Cipher::from_name(cipher).unwrap();
        let hash = Hash::from_name(hash).unwrap();
        Suite::new(cipher, hash, &hex(&text(key))).unwrap()
    }

    fn seal(suite: Suite) -> Seal {
        Seal::new(suite, [7; 32])
    }

    fn sealed(seal: &mut Seal, packet: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal.seal(&mut out, |out| out.extend_from_slice(packet))
            .unwrap();
        out
    }

    fn opened(seal: &Seal, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        seal.open(datagram, &mut out).map(|_| out)
    }

    #[test]
    fn single_packets_open_to_the_listed_bytes_and_seal_back() {
        let packets: serde_json::Value = serde_json::from_str(&text("packets.json")).unwrap();
        let mut count = 0;
        for packet in packets.as_array().unwrap() {
            let Some(clear) = packet.get("clear") else {
                continue;
            };
            let field = |name: &str| packet[name].as_str().unwrap();
            let suite = suite(field("cipher"), field("hash"), field("key"));
            let (wire, clear) = (hex(field("wire")), hex(clear.as_str().unwrap()));
            let seal = seal(suite);
            assert_eq!(opened(&seal, &wire).as_ref(), Some(&clear));
            let Suite::Keyed(keyed) = &seal.current else {
                panic!("not sealed");
            };
            // With the salt of the capture, sealing gives the captured bytes.
            let mut again = Vec::new();
            if let Some((key, _)) = &keyed.cipher {
                let (salt, _) = wire.split_first_chunk::<SALT_LEN>().unwrap();
                let padding = BLOCK_LEN - clear.len() % BLOCK_LEN;
                let mut block = clear.clone();
                block.resize(clear.len() + padding, u8::try_from(padding).unwrap());
                let context = EncryptionContext::Iv128(FixedLength::from(*salt));
                key.less_safe_encrypt(&mut block, context).unwrap();
                again.extend_from_slice(salt);
                again.extend_from_slice(&block);
            } else {
                again.extend_from_slice(&clear);
            }
            keyed.mac.append(&mut again);
            assert_eq!(again, wire);
            count += 1;
        }
        assert_eq!(count, 8);
    }

    #[test]
    fn sealed_captures_open_and_decode() {
        for (name, cipher, hash, key) in [
            ("knet-aes128-md5", "aes128", "md5", "authkey256.hex"),
            ("knet-aes192-sha512", "aes192", "sha512", "authkey256.hex"),
            ("knet-aes256-sha256", "aes256", "sha256", "authkey256.hex"),
            (
                "knet-aes256-sha256-nss-openssl",
                "aes256",
                "sha256",
                "authkey256.hex",
            ),
            ("knet-none-sha1", "none", "sha1", "authkey128.hex"),
        ] {
            let seal = seal(suite(cipher, hash, key));
            let mut checker = Checker::default();
            for datagram in capture(&format!("{name}.pcap.gz")) {
                checker.knet(&opened(&seal, &datagram.payload).unwrap());
            }
            assert!(checker.counts.messages > 10, "{name}: {:?}", checker.counts);
        }
    }

    #[test]
    fn a_change_of_keys_is_followed() {
        let mut seal = seal(suite("aes256", "sha256", "authkey256.hex"));
        seal.prepare(suite("aes256", "sha256", "authkey128.hex"));
        let mut checker = Checker::default();
        for datagram in capture("knet-rekey.pcap.gz") {
            checker.knet(&opened(&seal, &datagram.payload).unwrap());
        }
        assert_eq!(checker.counts.data, 107);
    }

    #[test]
    fn every_combination_opens_what_it_sealed_and_nothing_else() {
        let key: Vec<u8> = (0..=255).collect();
        for (cipher, hash) in CIPHERS.iter().flat_map(|c| HASHES.map(|h| (*c, h))) {
            let suite = match Suite::new(cipher, hash, &key) {
                Ok(Suite::Clear) => continue,
                Ok(suite) => suite,
                Err(error) => {
                    assert_eq!((error, hash), (KeyError::CipherWithoutHash, Hash::None));
                    continue;
                }
            };
            let mut seal = seal(suite);
            for len in 0..40 {
                let packet = vec![0x5a; len];
                let mut datagram = sealed(&mut seal, &packet);
                assert_eq!(opened(&seal, &datagram), Some(packet));
                for at in 0..datagram.len() {
                    datagram[at] ^= 1;
                    assert_eq!(opened(&seal, &datagram), None);
                    datagram[at] ^= 1;
                }
                assert_eq!(opened(&seal, &datagram[1..]), None);
            }
        }
    }

    #[test]
    fn room_for_data_is_what_peers_compute() {
        let ethernet = 1500 - 28;
        assert_eq!(seal(Suite::Clear).data_room(ethernet), 1446);
        let sealed = seal(suite("aes256", "sha256", "authkey256.hex"));
        assert_eq!(sealed.data_room(ethernet), 1397);
        assert_eq!(seal(Suite::Clear).data_room(576 - 28), 522);
        assert_eq!(sealed.data_room(576 - 28), 469);
        assert_eq!(sealed.data_room(0), 0);
    }

    #[test]
    fn a_sealed_packet_of_the_room_fits() {
        for (cipher, hash) in [("aes256", "sha256"), ("aes128", "md5"), ("none", "sha512")] {
            let mut seal = seal(suite(cipher, hash, "authkey256.hex"));
            for room in 200..300 {
                let packet = vec![0; seal.packet_room(room)];
                assert!(sealed(&mut seal, &packet).len() <= room);
                let packet = vec![0; packet.len() + 1];
                assert!(sealed(&mut seal, &packet).len() > room);
            }
        }
    }

    #[test]
    fn change_of_keys_step_by_step() {
        let old = || suite("aes256", "sha256", "authkey256.hex");
        let new = || suite("aes256", "sha256", "authkey128.hex");
        let (mut one, mut two) = (seal(old()), seal(old()));
        one.prepare(new());
        let from_one = sealed(&mut one, b"packet");
        assert!(opened(&two, &from_one).is_some());
        two.prepare(new());
        one.activate();
        let from_one = sealed(&mut one, b"packet");
        assert!(opened(&two, &from_one).is_some());
        let from_two = sealed(&mut two, b"packet");
        assert!(opened(&one, &from_two).is_some());
        two.activate();
        one.cleanup();
        two.cleanup();
        assert!(opened(&one, &from_two).is_none());
        assert!(opened(&two, &from_one).is_some());
    }

    #[test]
    fn encryption_can_be_switched_on() {
        let mut one = seal(Suite::Clear);
        one.prepare(suite("aes256", "sha256", "authkey256.hex"));
        let clear = sealed(&mut one, b"packet");
        assert_eq!(clear, b"packet");
        one.activate();
        assert!(one.is_keyed());
        assert_eq!(opened(&one, &clear).as_deref(), Some(&b"packet"[..]));
        let from_one = sealed(&mut one, b"packet");
        assert_eq!(opened(&one, &from_one).as_deref(), Some(&b"packet"[..]));
        one.cleanup();
        assert_eq!(opened(&one, &clear), None);
    }

    #[test]
    fn unusable_keys_are_refused() {
        let new = |len| Suite::new(Cipher::Aes256, Hash::Sha256, &vec![1; len]).err();
        assert_eq!(new(127), Some(KeyError::TooShort(127)));
        assert_eq!(new(4097), Some(KeyError::TooLong(4097)));
        assert_eq!(new(128), None);
        assert_eq!(Cipher::from_name("aes512"), None);
        assert_eq!(Hash::from_name("crc"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_open(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (cipher, hash) in [("aes256", "sha256"), ("aes128", "md5"), ("none", "sha512")] {
                let seal = seal(suite(cipher, hash, "authkey256.hex"));
                prop_assert_eq!(opened(&seal, &bytes), None);
            }
        }
    }
}
