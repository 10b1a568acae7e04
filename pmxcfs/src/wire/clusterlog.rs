//! One entry of the cluster log, as sent and as stored in the [ring](super::ring).
//!
//! An entry is a 48-byte structure whose strings start at byte 44, so that four bytes of slack
//! follow the text. They carry nothing but are sent, stored and counted. Entries are kept as raw
//! bytes: members compare and merge them without change, the slack included.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Reader, length_field, size_of_field, slice_until_nul};

/// Message number of a log entry in the status group.
pub const SUBTYPE: u16 = 3;

/// Most bytes of one entry.
pub const ENTRY_LEN_MAX: usize = 4096;

/// Bytes of an entry beside its strings: 44 in front of them and the slack behind.
pub const ENTRY_FIXED_LEN: usize = 48;

/// Where the strings start.
const STRINGS_AT: usize = 44;

/// The two ring offsets in front, which have no meaning outside a ring.
const OFFSETS_LEN: usize = 8;

/// Most bytes of node, ident and tag, their NUL included.
const SHORT_STRING_MAX: usize = 255;

/// One log entry.
///
/// Invariant: the lengths inside agree with the number of bytes, which is above
/// [`ENTRY_FIXED_LEN`] and at most [`ENTRY_LEN_MAX`]. The strings need not be terminated: there are
/// members that cut an over-long text in their own ring and so lose its NUL.
#[derive(Debug, Clone)]
pub struct LogEntry {
    header: Header,
    raw: Bytes,
}

/// What a new entry is made of. Strings count up to their first NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogDraft<'a> {
    /// Running number of the process that logs.
    pub uid: u32,
    /// Seconds since 1970.
    pub time: u32,
    /// Process on whose behalf the entry is made.
    pub pid: u32,
    /// Syslog level, 0 to 7.
    pub priority: u8,
    /// Name of the node.
    pub node: &'a [u8],
    /// User.
    pub ident: &'a [u8],
    /// Program.
    pub tag: &'a [u8],
    /// Text before conversion.
    pub text: &'a [u8],
}

impl LogEntry {
    /// Makes an entry: cuts the strings and converts the text.
    ///
    /// Members reject an entry whose text lacks its NUL, so the text is cut at a whole character
    /// early enough.
    #[must_use]
    pub fn new(draft: &LogDraft<'_>) -> Self {
        let LogDraft {
            uid,
            time,
            pid,
            priority,
            node,
            ident,
            tag,
            text,
        } = *draft;
        let (node, ident, tag) = (short(node), short(ident), short(tag));
        let names_len = node.field_len() + ident.field_len() + tag.field_len();
        let text = convert_text(slice_until_nul(text), names_len);
        let header = Header {
            prev: 0,
            next: 0,
            uid,
            time,
            node_digest: node.digest,
            ident_digest: ident.digest,
            pid,
            priority,
            node_len: node.field_len_u8(),
            ident_len: ident.field_len_u8(),
            tag_len: tag.field_len_u8(),
            text_len: length_field(text.len() + 1),
        };
        let mut raw = BytesMut::with_capacity(ENTRY_FIXED_LEN + names_len + text.len() + 1);
        header.encode(&mut raw);
        for string in [node.text, ident.text, tag.text, &text] {
            raw.put_slice(string);
            raw.put_u8(0);
        }
        raw.put_u32_le(0);
        Self {
            header,
            raw: raw.freeze(),
        }
    }

    /// Reads an entry received as a message.
    ///
    /// # Errors
    ///
    /// If lengths do not agree with the payload or a string is not terminated. Such an entry is
    /// ignored.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let have = payload.len();
        let entry = Self::parse(payload)?;
        if entry.raw.len() != have {
            return Err(DecodeError::Malformed("log entry is longer than its parts"));
        }
        if entry
            .strings()
            .iter()
            .any(|string| string.last() != Some(&0))
        {
            return Err(DecodeError::Malformed(
                "string of a log entry is not terminated",
            ));
        }
        Ok(entry)
    }

    /// Reads the entry that `bytes` starts with, without asking for terminated strings.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let header = Header::decode(&mut reader)?;
        let size = header.size();
        if size <= ENTRY_FIXED_LEN || size > ENTRY_LEN_MAX {
            return Err(DecodeError::Malformed(
                "size of a log entry is out of range",
            ));
        }
        Ok(Self {
            header,
            raw: Reader::new(bytes).take(size)?,
        })
    }

    /// The size of the entry that `bytes` starts with.
    pub(super) fn parse_size(bytes: &[u8]) -> Option<usize> {
        let fixed = bytes.get(..ENTRY_FIXED_LEN)?;
        let mut reader = Reader::new(Bytes::copy_from_slice(fixed));
        Header::decode(&mut reader).ok().map(|header| header.size())
    }

    /// The payload of the message that carries this entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.raw.len());
        out.put_bytes(0, OFFSETS_LEN);
        out.put_slice(self.body());
        out.freeze()
    }

    /// Everything behind the two ring offsets.
    pub(super) fn body(&self) -> &[u8] {
        self.raw.get(OFFSETS_LEN..).unwrap_or_default()
    }

    /// Ring offset of the entry before, if this one was read from a ring.
    pub(super) fn prev(&self) -> u32 {
        self.header.prev
    }

    /// Ring offset behind, if this one was read from a ring.
    pub(super) fn next(&self) -> u32 {
        self.header.next
    }

    /// Bytes of the entry.
    #[must_use]
    pub fn size(&self) -> usize {
        self.raw.len()
    }

    /// Bytes that the entry takes in a ring.
    #[must_use]
    pub fn ring_size(&self) -> usize {
        self.raw.len().next_multiple_of(8)
    }

    /// Running number of the process that logged.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.header.uid
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn time(&self) -> u32 {
        self.header.time
    }

    /// [`digest`] of the node's name.
    #[must_use]
    pub fn node_digest(&self) -> u64 {
        self.header.node_digest
    }

    /// [`digest`] of the user.
    #[must_use]
    pub fn ident_digest(&self) -> u64 {
        self.header.ident_digest
    }

    /// Process on whose behalf the entry was made.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.header.pid
    }

    /// Syslog level.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.header.priority
    }

    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &[u8] {
        let [node, ..] = self.strings();
        slice_until_nul(node)
    }

    /// User.
    #[must_use]
    pub fn ident(&self) -> &[u8] {
        let [_, ident, ..] = self.strings();
        slice_until_nul(ident)
    }

    /// Program.
    #[must_use]
    pub fn tag(&self) -> &[u8] {
        let [_, _, tag, _] = self.strings();
        slice_until_nul(tag)
    }

    /// Converted text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        let [.., text] = self.strings();
        slice_until_nul(text)
    }

    /// The string fields with their terminators.
    fn strings(&self) -> [&[u8]; 4] {
        let header = &self.header;
        let lengths = [
            usize::from(header.node_len),
            usize::from(header.ident_len),
            usize::from(header.tag_len),
            size_of_field(header.text_len),
        ];
        let mut rest = self.raw.get(STRINGS_AT..).unwrap_or_default();
        lengths.map(|len| {
            let (string, behind) = rest.split_at_checked(len).unwrap_or_default();
            rest = behind;
            string
        })
    }
}

/// Equal content; the ring offsets do not count.
impl PartialEq for LogEntry {
    fn eq(&self, other: &Self) -> bool {
        self.body() == other.body()
    }
}

impl Eq for LogEntry {}

/// FNV-1a, 64 bits, of a string and its NUL; of the first 255 of these bytes at most.
#[must_use]
pub fn digest(string: &[u8]) -> u64 {
    string
        .iter()
        .chain(&[0])
        .take(SHORT_STRING_MAX)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[derive(Debug, Clone, Copy)]
struct Header {
    prev: u32,
    next: u32,
    uid: u32,
    time: u32,
    node_digest: u64,
    ident_digest: u64,
    pid: u32,
    priority: u8,
    node_len: u8,
    ident_len: u8,
    tag_len: u8,
    text_len: u32,
}

impl Header {
    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            prev: reader.u32()?,
            next: reader.u32()?,
            uid: reader.u32()?,
            time: reader.u32()?,
            node_digest: reader.u64()?,
            ident_digest: reader.u64()?,
            pid: reader.u32()?,
            priority: reader.u8()?,
            node_len: reader.u8()?,
            ident_len: reader.u8()?,
            tag_len: reader.u8()?,
            text_len: reader.u32()?,
        })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.prev);
        out.put_u32_le(self.next);
        out.put_u32_le(self.uid);
        out.put_u32_le(self.time);
        out.put_u64_le(self.node_digest);
        out.put_u64_le(self.ident_digest);
        out.put_u32_le(self.pid);
        out.put_u8(self.priority);
        out.put_u8(self.node_len);
        out.put_u8(self.ident_len);
        out.put_u8(self.tag_len);
        out.put_u32_le(self.text_len);
    }

    fn size(&self) -> usize {
        [self.node_len, self.ident_len, self.tag_len]
            .into_iter()
            .map(usize::from)
            .fold(ENTRY_FIXED_LEN, usize::saturating_add)
            .saturating_add(size_of_field(self.text_len))
    }
}

/// Node, ident or tag of a new entry.
struct ShortString<'a> {
    text: &'a [u8],
    digest: u64,
}

impl ShortString<'_> {
    fn field_len(&self) -> usize {
        self.text.len() + 1
    }

    fn field_len_u8(&self) -> u8 {
        u8::try_from(self.field_len()).expect("short strings are cut to 254 bytes")
    }
}

/// Cuts a string; the digest is that of the uncut one.
fn short(string: &[u8]) -> ShortString<'_> {
    let string = slice_until_nul(string);
    let text = string.get(..SHORT_STRING_MAX - 1).unwrap_or(string);
    ShortString {
        text,
        digest: digest(string),
    }
}

/// Converts a text to the printable ASCII in which it is stored, quotes escaped as in JSON.
///
/// A backslash stays single, as all members store it; whoever prints JSON has to take care.
fn convert_text(text: &[u8], names_len: usize) -> Vec<u8> {
    let mut out = TextBuffer {
        text: Vec::with_capacity(text.len()),
        soft_max: ENTRY_LEN_MAX - STRINGS_AT - names_len - 7,
        hard_max: ENTRY_LEN_MAX - ENTRY_FIXED_LEN - names_len - 1,
    };
    match std::str::from_utf8(text) {
        Ok(text) => text.chars().all(|c| match u32::from(c) {
            0x22 => out.push(b"\\\""),
            code @ (..=31 | 127) => out.push(format!("#{code:03}").as_bytes()),
            code @ 128..=0xffff => out.push(format!("\\u{code:04x}").as_bytes()),
            0x1_0000.. => true,
            _ => out.push(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }),
        Err(_) => text.iter().all(|&byte| match byte {
            b'"' => out.push(b"\\\""),
            ..=31 => out.push(format!("#{byte:03}").as_bytes()),
            127.. => out.push(b"?"),
            _ => out.push(&[byte]),
        }),
    };
    out.text
}

struct TextBuffer {
    text: Vec<u8>,
    /// No character is begun at or behind this length: the limit of all members.
    soft_max: usize,
    /// The entry has room for this much text and its NUL.
    hard_max: usize,
}

impl TextBuffer {
    /// Appends one converted character; false if the text is full.
    fn push(&mut self, bytes: &[u8]) -> bool {
        if self.text.len() >= self.soft_max || self.text.len() + bytes.len() > self.hard_max {
            return false;
        }
        self.text.extend_from_slice(bytes);
        true
    }
}

#[cfg(test)]
#[path = "clusterlog_tests.rs"]
mod tests;
