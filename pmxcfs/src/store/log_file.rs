//! The write-ahead log, written in one piece per transaction.
//!
//! SQLite writes each page to the log with two system calls, which costs more than all the rest of
//! storing a file of many pages. This layer between SQLite and the file gathers what is appended
//! during a commit and writes it when the page that ends the transaction comes: before SQLite tells
//! anybody, here or in another process, that the transaction is there, and so that a failure is one
//! of the commit.
//!
//! Invariants:
//! * nothing that ends a transaction stays gathered, and whatever else is done to the file sees
//!   all that was written before;
//! * what a commit that failed has left gathered is never written: its place in the file may be
//!   another process's by then.

#![expect(
    unsafe_code,
    reason = "SQLite calls a layer below it through tables of C functions"
)]

use std::{
    cell::Cell,
    ffi::{CStr, c_int, c_void},
    mem::size_of,
    ptr::{null, null_mut},
    slice,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::ffi::{
    SQLITE_IOERR, SQLITE_OK, SQLITE_OPEN_WAL, sqlite3_file, sqlite3_io_methods, sqlite3_vfs,
    sqlite3_vfs_find, sqlite3_vfs_register,
};

/// Bytes in front of each page in the log.
const FRAME_HEADER: usize = 24;

/// Bytes that are gathered at most: the layer below takes no more in one call.
const GATHER_MAX: usize = (128 << 10) - 1;

/// Bytes that stay allocated between transactions.
const KEEP_MAX: usize = 16 << 10;

/// Counts commits; 0 is none.
static COMMITS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The commit that this thread is at.
    static COMMIT: Cell<u64> = const { Cell::new(0) };
}

/// Runs a commit, with what it appends to the log written in one piece.
pub(super) fn in_one_piece<T>(commit: impl FnOnce() -> T) -> T {
    COMMIT.set(COMMITS.fetch_add(1, Ordering::Relaxed) + 1);
    let result = commit();
    COMMIT.set(0);
    result
}

const NAME: &CStr = c"pmxcfs-log";

/// What was appended to the log and is not in the file yet.
#[derive(Debug, Default)]
struct Gathered {
    /// Where the bytes begin in the file.
    start: i64,
    bytes: Vec<u8>,
    /// End of all that was written since the log was begun anew, gathered bytes included.
    end: i64,
    /// The page that comes next ends a transaction.
    ends_transaction: bool,
    /// The commit whose bytes these are.
    commit: u64,
}

impl Gathered {
    /// Takes bytes in, and writes to the file by `put` what has to be there now.
    fn write(&mut self, data: &[u8], at: i64, put: &mut dyn FnMut(&[u8], i64) -> c_int) -> c_int {
        let Some(end) = i64::try_from(data.len())
            .ok()
            .and_then(|len| at.checked_add(len))
        else {
            return SQLITE_IOERR;
        };
        self.drop_leftovers();
        // The head of the log, and what is changed once more, go straight through.
        if COMMIT.get() == 0 || at == 0 || at < self.end {
            let done = self.flush(put);
            if done != SQLITE_OK {
                return done;
            }
            self.end = if at == 0 { end } else { end.max(self.end) };
            return put(data, at);
        }
        if at != self.end || self.bytes.len() + data.len() > GATHER_MAX {
            let ends_transaction = self.ends_transaction;
            let done = self.flush(put);
            self.ends_transaction = ends_transaction && at == self.end;
            if done != SQLITE_OK {
                return done;
            }
        }
        if self.bytes.is_empty() {
            self.start = at;
            self.commit = COMMIT.get();
        }
        self.bytes.extend_from_slice(data);
        self.end = end;
        if data.len() == FRAME_HEADER {
            // The size of the database after the transaction; 0 while more pages come.
            self.ends_transaction = data.get(4..8).is_some_and(|size| size != [0; 4]);
            return SQLITE_OK;
        }
        if self.ends_transaction {
            return self.flush(put);
        }
        SQLITE_OK
    }

    /// Drops what is not of the commit that is under way.
    fn drop_leftovers(&mut self) {
        if !self.bytes.is_empty() && self.commit != COMMIT.get() {
            self.bytes.clear();
            self.end = self.start;
            self.ends_transaction = false;
        }
    }

    /// Writes what is gathered. What fails is dropped: its transaction fails.
    fn flush(&mut self, put: &mut dyn FnMut(&[u8], i64) -> c_int) -> c_int {
        self.drop_leftovers();
        self.ends_transaction = false;
        if self.bytes.is_empty() {
            return SQLITE_OK;
        }
        let done = put(&self.bytes, self.start);
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_MAX);
        if done != SQLITE_OK {
            self.end = self.start;
        }
        done
    }
}

/// Name of the layer, to open a database with; `None` if it can not be had.
pub(super) fn layer() -> Option<&'static CStr> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    REGISTERED.get_or_init(register).then_some(NAME)
}

fn register() -> bool {
    // SAFETY: the default layer, if there is one, is never changed or freed while the process
    // lives; ours is leaked and stays as well.
    unsafe {
        let default = sqlite3_vfs_find(null());
        if default.is_null() {
            return false;
        }
        let mut layer = *default;
        let Ok(size) = c_int::try_from(size_of::<LogFile>()) else {
            return false;
        };
        layer.szOsFile += size;
        layer.pNext = null_mut();
        layer.zName = NAME.as_ptr();
        // Only its `xOpen` uses this field, and that is called with the default layer.
        layer.pAppData = default.cast();
        layer.xOpen = Some(open);
        sqlite3_vfs_register(Box::leak(Box::new(layer)), 0) == SQLITE_OK
    }
}

/// An open log; the file of the default layer follows in the same memory.
#[repr(C)]
struct LogFile {
    head: sqlite3_file,
    gathered: *mut Gathered,
}

/// Opens a file: a log through this layer, anything else as the default layer does.
///
/// # Safety
/// Called by SQLite, with a layer that `register` made and memory of its `szOsFile`.
unsafe extern "C" fn open(
    layer: *mut sqlite3_vfs,
    name: *const std::ffi::c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: as the function's contract says; `below` lies within the memory of `file`, aligned
    // since `LogFile` consists of pointers.
    unsafe {
        let default: *mut sqlite3_vfs = (*layer).pAppData.cast();
        let Some(open_below) = (*default).xOpen else {
            return SQLITE_IOERR;
        };
        if flags & SQLITE_OPEN_WAL == 0 {
            return open_below(default, name, file, flags, out_flags);
        }
        let log: *mut LogFile = file.cast();
        (*log).head.pMethods = null();
        let opened = open_below(default, name, below(file), flags, out_flags);
        if opened == SQLITE_OK {
            (*log).gathered = Box::into_raw(Box::default());
            (*log).head.pMethods = &raw const METHODS;
        }
        opened
    }
}

/// The file of the default layer behind a log.
fn below(file: *mut sqlite3_file) -> *mut sqlite3_file {
    file.cast::<LogFile>().wrapping_add(1).cast()
}

/// Calls a method of the file below: `call_below!(file, xSync, flags)`.
macro_rules! call_below {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let below = below($file);
        match (*(*below).pMethods).$method {
            Some(method) => method(below $(, $argument)*),
            None => SQLITE_IOERR,
        }
    }};
}

/// Writes what is gathered for a log.
///
/// # Safety
/// `file` is a log that `open` opened.
unsafe fn flush(file: *mut sqlite3_file) -> c_int {
    // SAFETY: the gathered bytes belong to the open log, which one thread uses at a time.
    unsafe { (*(*file.cast::<LogFile>()).gathered).flush(&mut |data, at| put(file, data, at)) }
}

/// Writes to the file below.
///
/// # Safety
/// As for [`flush`].
unsafe fn put(file: *mut sqlite3_file, data: &[u8], at: i64) -> c_int {
    let Ok(len) = c_int::try_from(data.len()) else {
        return SQLITE_IOERR;
    };
    // SAFETY: the file below is open as long as the log is.
    unsafe { call_below!(file, xWrite, data.as_ptr().cast(), len, at) }
}

/// A method that has what is gathered written first.
macro_rules! after_flush {
    ($name:ident, $method:ident $(, $argument:ident: $kind:ty)*) => {
        /// # Safety
        /// Called by SQLite, with a log that `open` opened.
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $kind)*) -> c_int {
            // SAFETY: as the function's contract says.
            unsafe {
                let done = flush(file);
                if done != SQLITE_OK {
                    return done;
                }
                call_below!(file, $method $(, $argument)*)
            }
        }
    };
}

after_flush!(read, xRead, to: *mut c_void, len: c_int, at: i64);
after_flush!(truncate, xTruncate, size: i64);
after_flush!(sync, xSync, flags: c_int);
after_flush!(file_size, xFileSize, size: *mut i64);
after_flush!(lock, xLock, level: c_int);
after_flush!(unlock, xUnlock, level: c_int);
after_flush!(check_reserved, xCheckReservedLock, result: *mut c_int);
after_flush!(control, xFileControl, op: c_int, argument: *mut c_void);

/// # Safety
/// Called by SQLite, with a log that `open` opened.
unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    len: c_int,
    at: i64,
) -> c_int {
    let Ok(len) = usize::try_from(len) else {
        return SQLITE_IOERR;
    };
    // SAFETY: as the function's contract says; SQLite gives `len` bytes at `data`.
    unsafe {
        let data = slice::from_raw_parts(data.cast::<u8>(), len);
        (*(*file.cast::<LogFile>()).gathered).write(data, at, &mut |data, at| put(file, data, at))
    }
}

/// # Safety
/// Called by SQLite, with a log that `open` opened, and not used again.
unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: as the function's contract says; the box is the one that `open` made.
    unsafe {
        let flushed = flush(file);
        drop(Box::from_raw((*file.cast::<LogFile>()).gathered));
        let closed = call_below!(file, xClose);
        if closed == SQLITE_OK { flushed } else { closed }
    }
}

/// # Safety
/// Called by SQLite, with a log that `open` opened.
unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    // SAFETY: as the function's contract says.
    unsafe { call_below!(file, xSectorSize) }
}

/// # Safety
/// Called by SQLite, with a log that `open` opened.
unsafe extern "C" fn characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: as the function's contract says.
    unsafe { call_below!(file, xDeviceCharacteristics) }
}

/// Shared memory and mappings are those of the database file, never of a log.
static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that notes each write, and can fail.
    #[derive(Default)]
    struct Disk {
        writes: Vec<(i64, usize)>,
        bytes: Vec<u8>,
        fails: bool,
    }

    impl Disk {
        fn put(&mut self, data: &[u8], at: i64) -> c_int {
            if self.fails {
                return SQLITE_IOERR;
            }
            self.writes.push((at, data.len()));
            let at = usize::try_from(at).unwrap();
            let end = self.bytes.len().max(at + data.len());
            self.bytes.resize(end, 0);
            self.bytes[at..at + data.len()].copy_from_slice(data);
            SQLITE_OK
        }
    }

    const PAGE: i64 = 512;
    const FRAME: i64 = 24 + PAGE;

    fn frame(log: &mut Gathered, disk: &mut Disk, number: i64, ends: bool) -> c_int {
        let at = 32 + number * FRAME;
        let mut header = [1; FRAME_HEADER];
        header[4..8].copy_from_slice(&u32::from(ends).to_be_bytes());
        let done = log.write(&header, at, &mut |data, at| disk.put(data, at));
        if done != SQLITE_OK {
            return done;
        }
        let page = [u8::try_from(number % 256).unwrap(); 512];
        log.write(&page, at + 24, &mut |data, at| disk.put(data, at))
    }

    /// In a commit that goes on.
    fn setup() -> (Gathered, Disk) {
        COMMIT.set(u64::MAX);
        (Gathered::default(), Disk::default())
    }

    #[test]
    fn a_transaction_is_written_at_its_end_in_one_piece() {
        let (mut log, mut disk) = setup();
        let head = [0; 32];
        log.write(&head, 0, &mut |data, at| disk.put(data, at));
        assert_eq!(frame(&mut log, &mut disk, 0, false), SQLITE_OK);
        assert_eq!(frame(&mut log, &mut disk, 1, false), SQLITE_OK);
        assert_eq!(disk.writes, [(0, 32)]);
        assert_eq!(frame(&mut log, &mut disk, 2, true), SQLITE_OK);
        assert_eq!(disk.writes[1..], [(32, 3 * 536)]);
        assert_eq!(frame(&mut log, &mut disk, 3, true), SQLITE_OK);
        assert_eq!(disk.writes[2..], [(32 + 3 * FRAME, 536)]);
    }

    #[test]
    fn what_was_written_before_is_changed_at_once() {
        let (mut log, mut disk) = setup();
        frame(&mut log, &mut disk, 0, false);
        frame(&mut log, &mut disk, 1, true);
        let mut header = [7; FRAME_HEADER];
        header[4..8].fill(1);
        let at = 32 + FRAME;
        log.write(&header, at, &mut |data, at| disk.put(data, at));
        assert_eq!(disk.writes.last(), Some(&(at, 24)));
        // Also while something is gathered, which goes first.
        frame(&mut log, &mut disk, 2, false);
        log.write(&header, 32, &mut |data, at| disk.put(data, at));
        assert_eq!(disk.writes[2..], [(32 + 2 * FRAME, 536), (32, 24)]);
        // The log is begun anew.
        log.write(&[0; 32], 0, &mut |data, at| disk.put(data, at));
        frame(&mut log, &mut disk, 0, false);
        assert_eq!(disk.writes.len(), 5);
        frame(&mut log, &mut disk, 1, true);
        assert_eq!(disk.writes.last(), Some(&(32, 2 * 536)));
    }

    #[test]
    fn a_failure_is_one_of_the_last_page_and_the_pages_can_come_again() {
        let (mut log, mut disk) = setup();
        disk.fails = true;
        assert_eq!(frame(&mut log, &mut disk, 0, false), SQLITE_OK);
        assert_eq!(frame(&mut log, &mut disk, 1, true), SQLITE_IOERR);
        disk.fails = false;
        frame(&mut log, &mut disk, 0, false);
        assert_eq!(frame(&mut log, &mut disk, 1, true), SQLITE_OK);
        assert_eq!(disk.writes, [(32, 2 * 536)]);
    }

    #[test]
    fn what_a_failed_commit_left_is_dropped() {
        let (mut log, mut disk) = setup();
        in_one_piece(|| frame(&mut log, &mut disk, 0, false));
        assert_eq!(log.flush(&mut |data, at| disk.put(data, at)), SQLITE_OK);
        assert!(disk.writes.is_empty());
        in_one_piece(|| frame(&mut log, &mut disk, 0, false));
        in_one_piece(|| frame(&mut log, &mut disk, 0, true));
        assert_eq!(disk.writes, [(32, 536)]);
    }

    #[test]
    fn outside_of_commits_all_goes_straight_through() {
        let (mut log, mut disk) = setup();
        COMMIT.set(0);
        log.write(&[0; 24], 32, &mut |data, at| disk.put(data, at));
        log.write(&[0; 512], 56, &mut |data, at| disk.put(data, at));
        assert_eq!(disk.writes, [(32, 24), (56, 512)]);
    }

    #[test]
    fn no_write_is_too_long_for_the_layer_below() {
        let (mut log, mut disk) = setup();
        for number in 0..700 {
            assert_eq!(frame(&mut log, &mut disk, number, number == 699), SQLITE_OK);
        }
        assert!(log.bytes.is_empty());
        assert_eq!(
            disk.writes.iter().map(|(_, len)| len).sum::<usize>(),
            700 * 536
        );
        let longest = disk.writes.iter().map(|(_, len)| *len).max().unwrap();
        assert!(
            longest <= GATHER_MAX && longest > GATHER_MAX - 600,
            "{longest}"
        );
    }

    #[test]
    fn the_last_page_is_written_even_if_its_head_went_before() {
        for page in [512, 60_000, 65_536] {
            let (mut log, mut disk) = setup();
            let mut put = |data: &[u8], at| disk.put(data, at);
            let mut header = [0; FRAME_HEADER];
            let pages = vec![0; page];
            let mut at = 32;
            for number in 0..10 {
                header[4] = u8::from(number == 9);
                log.write(&header, at, &mut put);
                log.write(&pages, at + 24, &mut put);
                at += 24 + i64::try_from(page).unwrap();
            }
            assert!(log.bytes.is_empty());
            assert_eq!(i64::try_from(disk.bytes.len()), Ok(at));
        }
    }
}
