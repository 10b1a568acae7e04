//! Changes of files whose outcome is known.
//!
//! The daemon stores a file when it is closed, so the result of `close(2)` belongs to that of the
//! change; the standard library drops it. Everything here reports it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// Closes a file, and tells how that went.
///
/// # Errors
/// What the file system says.
pub fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

/// Makes a file that must not be there yet, empty.
///
/// # Errors
/// What the file system says.
pub fn create_new(path: &Path) -> io::Result<()> {
    close(OpenOptions::new().write(true).create_new(true).open(path)?)
}

/// Makes a file, or replaces its content, as `echo > FILE` does.
///
/// # Errors
/// What the file system says.
pub fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    close(file)
}

/// Replaces the content of a file that must be there.
///
/// # Errors
/// What the file system says.
pub fn rewrite(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(data)?;
    close(file)
}

/// Appends to a file that must be there.
///
/// # Errors
/// What the file system says.
pub fn append(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(data)?;
    close(file)
}

/// Writes at an offset of a file that must be there.
///
/// # Errors
/// What the file system says.
pub fn write_at(path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(data, offset)?;
    close(file)
}

/// Cuts or grows a file.
///
/// # Errors
/// What the file system says.
pub fn truncate(path: &Path, size: i64) -> io::Result<()> {
    Ok(nix::unistd::truncate(path, size)?)
}

/// Sets both times of an entry.
///
/// # Errors
/// What the file system says.
pub fn set_time(path: &Path, seconds: i64) -> io::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    Ok(utimensat(
        AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

/// The error number of a call that has to fail.
///
/// # Panics
/// When it succeeded.
pub fn errno<T>(result: io::Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("the call succeeded, an error was expected"),
        Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or_default()),
    }
}
