//! Files mapped into memory that another, untrusted process maps too.
//!
//! The only file of this module tree with `unsafe` code. What it gives to the others is safe:
//! every access is checked against the length of the mapping, words are atomics, and bytes are
//! copied out before anyone looks at them.
//!
//! The other process owns the file and can cut it short, after which the next access to the
//! mapping raises SIGBUS. A process-wide handler then puts an empty page over the hole and marks
//! the mapping as lost ([`Shared::is_lost`]); faults elsewhere go to the handler that was there
//! before. Table of mappings: fixed size, lock-free, so that the handler may read it at any time.

#![expect(
    unsafe_code,
    reason = "shared memory, futex and SIGBUS have no safe interface"
)]

use std::fs::File;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::unistd::{SysconfVar, sysconf};

/// A file mapped for reading and writing.
#[derive(Debug)]
pub(super) struct Shared {
    map: MmapRaw,
    /// Entry of the table of mappings; gone before the mapping is.
    slot: usize,
}

impl Shared {
    /// Maps the first `length` bytes of `file`, which must be that long.
    ///
    /// # Errors
    /// When the system refuses; `ENFILE` when the table of mappings is full.
    pub(super) fn map(file: &File, length: usize) -> io::Result<Self> {
        install_guard()?;
        let map = MmapOptions::new().len(length).map_raw(file)?;
        let start = map.as_ptr().addr();
        match claim_slot(start, start + length) {
            Some(slot) => Ok(Self { map, slot }),
            None => Err(Errno::ENFILE.into()),
        }
    }

    /// Bytes of the mapping.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the other side took memory away. What was read since may be zeros.
    pub(super) fn is_lost(&self) -> bool {
        SLOTS[self.slot].lost.load(Ordering::Acquire)
    }

    /// The aligned 32-bit word at a byte offset.
    ///
    /// # Panics
    /// When the word is not within the mapping or not aligned.
    pub(super) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && self.within(offset, 4));
        // SAFETY: the four bytes are within the mapping, which lives as long as `self`, and
        // aligned, as mappings start at a page; this process touches them only as atomics.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    /// The aligned 64-bit word at a byte offset.
    ///
    /// # Panics
    /// When the word is not within the mapping or not aligned.
    pub(super) fn double_word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && self.within(offset, 8));
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// Copies bytes out of the mapping.
    ///
    /// # Panics
    /// When they are not within it.
    pub(super) fn read(&self, offset: usize, target: &mut [u8]) {
        assert!(self.within(offset, target.len()));
        // SAFETY: source and target are valid for that many bytes and do not overlap, as no
        // reference into the mapping is ever given out. The other process may write meanwhile:
        // then the copy holds arbitrary bytes, which callers must expect anyway.
        unsafe {
            ptr::copy_nonoverlapping(self.at(offset), target.as_mut_ptr(), target.len());
        }
    }

    /// Copies bytes into the mapping.
    ///
    /// # Panics
    /// When they would not be within it.
    pub(super) fn write(&self, offset: usize, source: &[u8]) {
        assert!(self.within(offset, source.len()));
        // SAFETY: as in `read`, the other way round.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), self.at(offset), source.len()) }
    }

    /// Wakes one thread, of any process, that sleeps on the word at `offset`.
    pub(super) fn wake_one(&self, offset: usize) {
        let word = self.word(offset).as_ptr();
        // SAFETY: the address is that of a mapped word; the kernel does not write to it. A failed
        // wake-up wakes nobody, which harms only the client that shares this memory.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
    }

    /// Sleeps while the word at `offset` holds `value`, until it is woken or for `timeout`; it may
    /// also return for no reason.
    pub(super) fn sleep(&self, offset: usize, value: u32, timeout: Duration) {
        let word = self.word(offset).as_ptr();
        let timeout = TimeSpec::from(timeout);
        let limit: *const libc::timespec = timeout.as_ref();
        // SAFETY: the address is that of a mapped word, which the kernel only reads, and the
        // time lives until the call ends. Whatever it returns, the caller looks at the word again.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, limit) };
    }

    fn within(&self, offset: usize, length: usize) -> bool {
        offset
            .checked_add(length)
            .is_some_and(|end| end <= self.len())
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.map.as_mut_ptr().wrapping_add(offset)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        SLOTS[self.slot].start.store(FREE, Ordering::Release);
    }
}

/// Bytes of a page of memory.
pub(super) fn page_size() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        size.and_then(|size| usize::try_from(size).ok())
            .unwrap_or(4096)
    })
}

/// One mapping, as the handler sees it.
struct Slot {
    /// First address; [`FREE`] and [`CLAIMED`] are none.
    start: AtomicUsize,
    /// First address behind it.
    end: AtomicUsize,
    lost: AtomicBool,
}

const FREE: usize = 0;
const CLAIMED: usize = 1;
/// Six for each connection.
const SLOT_COUNT: usize = 16_384;

static SLOTS: [Slot; SLOT_COUNT] = [const {
    Slot {
        start: AtomicUsize::new(FREE),
        end: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; SLOT_COUNT];
/// Highest slot ever used plus one, so that searches stay short.
static USED: AtomicUsize = AtomicUsize::new(0);
/// What handled SIGBUS before.
static PREVIOUS: OnceLock<SigAction> = OnceLock::new();

fn claim_slot(start: usize, end: usize) -> Option<usize> {
    let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
    let index = SLOTS.iter().position(|slot| {
        slot.start
            .compare_exchange(FREE, CLAIMED, order, failed)
            .is_ok()
    })?;
    let slot = &SLOTS[index];
    slot.end.store(end, Ordering::Relaxed);
    slot.lost.store(false, Ordering::Relaxed);
    USED.fetch_max(index + 1, Ordering::AcqRel);
    slot.start.store(start, Ordering::Release);
    Some(index)
}

fn install_guard() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    page_size();
    let result = INSTALLED.get_or_init(|| {
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER;
        let action = SigAction::new(SigHandler::SigAction(on_bus_error), flags, SigSet::empty());
        // SAFETY: the handler only reads atomics and makes system calls that are allowed in
        // handlers.
        let previous = unsafe { sigaction(Signal::SIGBUS, &action) }?;
        // Nothing maps before this is done, so the handler does not miss it.
        PREVIOUS.set(previous).map_err(|_| Errno::EALREADY)
    });
    Ok((*result)?)
}

extern "C" fn on_bus_error(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid `info` to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() }.addr();
    if !mend(address) {
        // Not ours: the instruction runs again, under the handler that was there before.
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        let previous = PREVIOUS.get().unwrap_or(&default);
        // SAFETY: it is the handler that was installed before, or none. Without it the same fault
        // comes again, and again here, until it can be installed.
        unsafe { sigaction(Signal::SIGBUS, previous) }.ok();
    }
}

/// Puts an empty page at `address` when that lies in a mapping; whether it did.
fn mend(address: usize) -> bool {
    let used = USED.load(Ordering::Acquire).min(SLOT_COUNT);
    let Some(slot) = SLOTS[..used].iter().find(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start > CLAIMED && start <= address && address < slot.end.load(Ordering::Relaxed)
    }) else {
        return false;
    };
    slot.lost.store(true, Ordering::Release);
    let page = page_size();
    let target = ptr::without_provenance_mut::<libc::c_void>(address & !(page - 1));
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let errno = Errno::last_raw();
    // SAFETY: the page lies in a mapping that this module owns and that its owner is just using,
    // so it does not go away meanwhile; no reference into it is held but to atomics.
    let mapped = unsafe { libc::mmap(target, page, protection, flags, -1, 0) };
    Errno::set_raw(errno);
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn file(length: u64) -> File {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(length).unwrap();
        file
    }

    #[test]
    fn two_mappings_see_the_same_bytes() {
        let file = file(8192);
        let (one, two) = (
            Shared::map(&file, 8192).unwrap(),
            Shared::map(&file, 8192).unwrap(),
        );
        one.write(4090, b"0123456789");
        let mut bytes = [0; 10];
        two.read(4090, &mut bytes);
        assert_eq!(&bytes, b"0123456789");
        one.word(8).store(7, Ordering::Release);
        assert_eq!(two.double_word(8).load(Ordering::Acquire), 7);
        assert_eq!(one.len(), 8192);
    }

    #[test]
    fn memory_taken_away_is_noticed_and_survived() {
        let file = file(16_384);
        let (cut, whole) = (
            Shared::map(&file, 16_384).unwrap(),
            Shared::map(&file, 4096).unwrap(),
        );
        cut.write(0, &[1; 16_384]);
        file.set_len(4096).unwrap();
        let mut bytes = [7; 12];
        cut.read(8188, &mut bytes);
        assert_eq!(bytes, [0; 12]);
        assert!(cut.is_lost() && !whole.is_lost());
        cut.word(12_288).store(1, Ordering::Relaxed);
        assert_eq!(cut.word(12_288).load(Ordering::Relaxed), 1);
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [1; 12]);
        let slot = cut.slot;
        drop(cut);
        assert_eq!(SLOTS[slot].start.load(Ordering::Relaxed), FREE);
    }

    #[test]
    #[should_panic(expected = "within")]
    fn access_behind_the_end_is_refused() {
        Shared::map(&file(4096), 4096)
            .unwrap()
            .write(4090, b"0123456789");
    }
}
