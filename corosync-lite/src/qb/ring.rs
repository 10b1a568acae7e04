//! One ring: chunks of one writer for one reader, in two files that both processes map.
//!
//! The header file holds the indexes, the paths of both files, how many sides are attached, a
//! semaphore that counts unread chunks, and the word of flow control. The data file holds chunks:
//! length, state, message. Indexes count words of four bytes and wrap at the end of the data.
//! The original maps the data twice in a row, so a chunk that crosses the end is in one piece;
//! copying in two steps comes to the same, so here it is mapped once.
//!
//! Invariant: indexes of this side are kept in private memory, and whatever is read from shared
//! memory is checked before use. A peer that writes nonsense gets [`RingError`], nothing else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};

use super::shm::{Shared, page_size};

/// Bytes of the header file as its maker creates it.
const HEADER_LEN: u64 = 8252;
/// What both sides may map: the client shortens two of the three header files to this.
const HEADER_MAPPED: usize = 8248;
const PATH_LEN: usize = 4096;

const WRITE_INDEX: usize = 0;
const READ_INDEX: usize = 4;
const WORD_COUNT: usize = 8;
const HEADER_PATH: usize = 12;
const DATA_PATH: usize = 4108;
const ATTACHED: usize = 8204;
const SEMAPHORE: usize = 8208;
const SHARED_SEMAPHORE: usize = 8216;
const FLOW_CONTROL: usize = 8240;

const WORD: usize = 4;
/// Words in front of the bytes of each chunk.
const CHUNK_HEAD: u32 = 2;
/// Bytes that a chunk needs besides its message.
const CHUNK_EXTRA: usize = 12;
/// What the data file holds besides the largest message, before rounding to pages.
const DATA_EXTRA: usize = 13;

const COMMITTED: u32 = 0xA1A1_A1A1;
const BEING_WRITTEN: u32 = 0xA110_CED0;
const READ: u32 = 0xD0D0_D0D0;

/// What a ring can not be used any more for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RingError {
    /// An index, a length or a state that no correct peer writes.
    #[error("the other side wrote nonsense into shared memory")]
    Corrupt,
    /// The peer shortened a file.
    #[error("the other side took shared memory away")]
    Lost,
}

/// One side of a ring. A side either only puts or only takes.
#[derive(Debug)]
pub(super) struct Ring {
    header: Shared,
    data: Shared,
    words: u32,
    /// Next chunk that this side writes or reads.
    index: u32,
}

impl Ring {
    /// Makes the files `<base>-header` and `<base>-data` and attaches to them.
    ///
    /// # Errors
    /// When a file can not be made, for example for lack of memory.
    pub(super) fn create(base: &Path, max_message: u32) -> io::Result<Self> {
        let (header_path, data_path) = paths(base);
        let length = data_length(max_message)?;
        let header_file = make(&header_path, HEADER_LEN)?;
        let data_file = make(&data_path, u64::try_from(length).map_err(io::Error::other)?)?;
        let header = Shared::map(&header_file, HEADER_MAPPED)?;
        let data = Shared::map(&data_file, length)?;
        let words = words_of(length)?;
        for (offset, path) in [(HEADER_PATH, header_path), (DATA_PATH, data_path)] {
            let path = path.as_os_str().as_encoded_bytes();
            if path.len() >= PATH_LEN {
                return Err(io::ErrorKind::InvalidFilename.into());
            }
            header.write(offset, path);
        }
        header.word(WORD_COUNT).store(words, Ordering::Relaxed);
        header.word(SHARED_SEMAPHORE).store(0x80, Ordering::Relaxed);
        header.word(ATTACHED).store(1, Ordering::Release);
        Ok(Self {
            header,
            data,
            words,
            index: 0,
        })
    }

    /// Attaches to the ring that another process made.
    ///
    /// # Errors
    /// When the files can not be opened.
    pub(super) fn open(base: &Path, max_message: u32) -> io::Result<Self> {
        let (header_path, data_path) = paths(base);
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let length = data_length(max_message)?;
        let header = Shared::map(&open(&header_path)?, HEADER_MAPPED)?;
        let data = Shared::map(&open(&data_path)?, length)?;
        header.word(ATTACHED).fetch_add(1, Ordering::AcqRel);
        Ok(Self {
            header,
            data,
            words: words_of(length)?,
            index: 0,
        })
    }

    /// Puts one message, given in parts; false when there is no room for it now.
    ///
    /// # Errors
    /// When the ring is unusable.
    pub(super) fn put(&mut self, parts: &[&[u8]]) -> Result<bool, RingError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let free = usize::try_from(self.free_words()?).unwrap_or(0);
        let need = length.checked_add(CHUNK_EXTRA);
        let Some(next) = need
            .filter(|need| *need <= free * WORD)
            .and_then(|_| self.after(length))
        else {
            return Ok(false);
        };
        let stated = u32::try_from(length).map_err(|_| RingError::Corrupt)?;
        let (first, second) = (self.word(self.index), self.word(self.wrap(self.index, 1)));
        first.store(0, Ordering::Relaxed);
        second.store(BEING_WRITTEN, Ordering::Relaxed);
        let mut offset = self.body(self.index);
        for part in parts {
            offset = self.copy_in(offset, part);
        }
        first.store(stated, Ordering::Relaxed);
        self.header.word(WRITE_INDEX).store(next, Ordering::Relaxed);
        second.store(COMMITTED, Ordering::Release);
        self.index = next;
        self.post();
        self.usable().map(|()| true)
    }

    /// Takes the next message into `message`; false when there is none.
    ///
    /// # Errors
    /// When the ring is unusable.
    pub(super) fn take(&mut self, message: &mut Vec<u8>) -> Result<bool, RingError> {
        if !self.try_wait() {
            return self.usable().map(|()| false);
        }
        let (first, second) = (self.word(self.index), self.word(self.wrap(self.index, 1)));
        if second.load(Ordering::Acquire) != COMMITTED {
            return Err(self.usable().err().unwrap_or(RingError::Corrupt));
        }
        let stated = usize::try_from(first.load(Ordering::Relaxed)).ok();
        let fits = |length: &usize| *length + CHUNK_EXTRA <= self.data.len();
        let length = stated.filter(fits).ok_or(RingError::Corrupt)?;
        let next = self.after(length).ok_or(RingError::Corrupt)?;
        message.resize(length, 0);
        self.copy_out(self.body(self.index), message);
        first.store(0, Ordering::Relaxed);
        second.store(READ, Ordering::Relaxed);
        // What was copied out is done with before the writer may use the room again.
        self.header.word(READ_INDEX).store(next, Ordering::Release);
        self.index = next;
        self.usable().map(|()| true)
    }

    /// Messages that wait to be taken, as the shared semaphore says.
    pub(super) fn unread(&self) -> u32 {
        self.header.word(SEMAPHORE).load(Ordering::Acquire)
    }

    /// Sleeps until there is a message to take, or for `timeout`; it may wake without one.
    pub(super) fn wait(&self, timeout: Duration) {
        /// Sleepers are counted in the high half.
        const SLEEPER: u64 = 1 << 32;
        let value = self.header.double_word(SEMAPHORE);
        value.fetch_add(SLEEPER, Ordering::AcqRel);
        // Returns at once if there is a message by now.
        self.header.sleep(SEMAPHORE, 0, timeout);
        value.fetch_sub(SLEEPER, Ordering::AcqRel);
    }

    /// Tells the client whether it may send requests.
    pub(super) fn set_flow_control(&self, value: u32) {
        self.header
            .word(FLOW_CONTROL)
            .store(value, Ordering::Release);
    }

    /// What the server set.
    pub(super) fn flow_control(&self) -> u32 {
        self.header.word(FLOW_CONTROL).load(Ordering::Acquire)
    }

    /// Sides that are attached.
    pub(super) fn attached(&self) -> u32 {
        self.header.word(ATTACHED).load(Ordering::Acquire)
    }

    /// The memory behind the ring, for tests that play a hostile client.
    #[cfg(test)]
    pub(super) fn memory(&self) -> (&Shared, &Shared) {
        (&self.header, &self.data)
    }

    fn usable(&self) -> Result<(), RingError> {
        if self.header.is_lost() || self.data.is_lost() {
            return Err(RingError::Lost);
        }
        Ok(())
    }

    fn free_words(&self) -> Result<u32, RingError> {
        let read = self.header.word(READ_INDEX).load(Ordering::Acquire);
        if read >= self.words {
            return Err(self.usable().err().unwrap_or(RingError::Corrupt));
        }
        Ok(match self.index.checked_sub(read) {
            None => read - self.index - 1,
            Some(0) if self.unread() > 0 => 0,
            Some(0) => self.words,
            Some(used) => self.words - used - 1,
        })
    }

    /// Index of the chunk that follows one of `length` bytes here.
    fn after(&self, length: usize) -> Option<u32> {
        let words = u32::try_from(length.div_ceil(WORD)).ok()?;
        let end = u64::from(self.index) + u64::from(CHUNK_HEAD) + u64::from(words);
        u32::try_from(end % u64::from(self.words)).ok()
    }

    fn wrap(&self, index: u32, add: u32) -> u32 {
        (index + add) % self.words
    }

    fn word(&self, index: u32) -> &AtomicU32 {
        self.data.word(byte_offset(index))
    }

    /// Byte offset of the message in the chunk at `index`.
    fn body(&self, index: u32) -> usize {
        byte_offset(self.wrap(index, CHUNK_HEAD))
    }

    /// Copies `bytes` to `offset`, round the end if need be; the offset behind them.
    fn copy_in(&self, offset: usize, bytes: &[u8]) -> usize {
        let room = self.data.len() - offset;
        let (here, rest) = bytes.split_at(bytes.len().min(room));
        self.data.write(offset, here);
        self.data.write(0, rest);
        (offset + bytes.len()) % self.data.len()
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let room = self.data.len() - offset;
        let (here, rest) = bytes.split_at_mut(bytes.len().min(room));
        self.data.read(offset, here);
        self.data.read(0, rest);
    }

    /// Counts one more chunk: count in the low, sleepers in the high half, as glibc has it.
    fn post(&self) {
        let before = self
            .header
            .double_word(SEMAPHORE)
            .fetch_add(1, Ordering::Release);
        if before >> 32 != 0 {
            self.header.wake_one(SEMAPHORE);
        }
    }

    /// Counts one less, unless there is none.
    fn try_wait(&self) -> bool {
        let (done, failed) = (Ordering::Acquire, Ordering::Relaxed);
        let less = |value: u64| (value & u64::from(u32::MAX) != 0).then(|| value - 1);
        self.header
            .double_word(SEMAPHORE)
            .fetch_update(done, failed, less)
            .is_ok()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.header.word(ATTACHED).fetch_sub(1, Ordering::AcqRel);
    }
}

fn byte_offset(index: u32) -> usize {
    // A ring has fewer words than memory has bytes; the accessors check the result anyway.
    usize::try_from(index).map_or(usize::MAX, |index| index.saturating_mul(WORD))
}

/// Bytes of the data file: both sides compute this, and must come to the same.
fn data_length(max_message: u32) -> io::Result<usize> {
    let bytes = usize::try_from(max_message).map_err(io::Error::other)?;
    Ok((bytes + DATA_EXTRA).next_multiple_of(page_size()))
}

fn words_of(length: usize) -> io::Result<u32> {
    u32::try_from(length / WORD).map_err(io::Error::other)
}

/// Paths of the two files of a ring.
pub(super) fn paths(base: &Path) -> (PathBuf, PathBuf) {
    let with = |end: &str| {
        let mut path = base.as_os_str().to_owned();
        path.push(end);
        PathBuf::from(path)
    };
    (with("-header"), with("-data"))
}

/// Makes a file whose memory is really there: later there is no way to report that it is not.
fn make(path: &Path, length: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let length = i64::try_from(length).map_err(io::Error::other)?;
    fallocate(&file, FallocateFlags::empty(), 0, length)?;
    Ok(file)
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
