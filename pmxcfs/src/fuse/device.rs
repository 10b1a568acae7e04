//! The device behind a mount: requests in, answers and notifications out.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::protocol::{NOTIFY_EPOCH, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, out_header};

/// The character device of FUSE.
pub(super) const PATH: &str = "/dev/fuse";

/// A connection to the kernel. Reading never waits.
#[derive(Debug)]
pub(super) struct Device(File);

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A request of that many bytes.
    Request(usize),
    /// Nothing waits.
    Nothing,
    /// There is no mount any more.
    End,
}

impl Device {
    pub(super) fn open() -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(libc::O_NONBLOCK);
        options.open(PATH).map(Self)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Takes a request, if one waits. The buffer has to hold the largest one.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let error = match (&self.0).read(buffer) {
                Ok(len) => return Ok(Received::Request(len)),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(Received::Nothing),
                Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(Received::End),
                // A signal, or a request that was taken back meanwhile.
                Some(libc::EINTR | libc::ENOENT) => {}
                _ => return Err(error),
            }
        }
    }

    /// Waits until a request waits, or the mount is gone.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers a request; `errno` is 0 for success.
    pub(super) fn answer(&self, unique: u64, errno: i32, payload: &[u8]) -> io::Result<()> {
        self.send(-errno, unique, [payload, &[]])
    }

    /// Drops cached pages of a file, from `offset` on, and its attributes; with a negative offset
    /// the attributes alone.
    pub(super) fn forget_inode(&self, ino: u64, offset: i64) -> io::Result<()> {
        let mut body = [0; 24];
        body[..8].copy_from_slice(&ino.to_ne_bytes());
        body[8..16].copy_from_slice(&offset.to_ne_bytes());
        self.notify(NOTIFY_INVAL_INODE, [&body, &[]])
    }

    /// Drops a cached name.
    pub(super) fn forget_name(&self, dir: u64, name: &[u8]) -> io::Result<()> {
        let len = u32::try_from(name.len()).map_err(io::Error::other)?;
        let mut body = [0; 16];
        body[..8].copy_from_slice(&dir.to_ne_bytes());
        body[8..12].copy_from_slice(&len.to_ne_bytes());
        // The kernel wants the name with its NUL.
        let name = [name, b"\0"].concat();
        self.notify(NOTIFY_INVAL_ENTRY, [&body, &name])
    }

    /// Ends the validity of all cached names.
    pub(super) fn forget_all_names(&self) -> io::Result<()> {
        self.notify(NOTIFY_EPOCH, [&[], &[]])
    }

    fn notify(&self, code: i32, parts: [&[u8]; 2]) -> io::Result<()> {
        match self.send(code, 0, parts) {
            // The kernel does not know it, or does not any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn send(&self, error: i32, unique: u64, parts: [&[u8]; 2]) -> io::Result<()> {
        let header = out_header(error, unique, parts[0].len() + parts[1].len());
        let all = [&header[..], parts[0], parts[1]].map(IoSlice::new);
        let used = all.iter().rposition(|part| !part.is_empty()).unwrap_or(0);
        // The kernel takes all of it or none.
        (&self.0).write_vectored(&all[..=used]).map(drop)
    }
}
