//! Memory that clients of process groups share with the daemon to send without a copy in their
//! ring (`cpg_zcb_alloc`): a file in `/dev/shm` for each buffer.
//!
//! The client makes the file and names it; the daemon opens it, takes its name away and writes
//! into it under which number it knows it. To send, the client names that number. The daemon reads
//! the file as a file: what it never maps can not be taken away from under it.
//!
//! Invariants: only files that belong to the client are opened, and nothing but what such a client
//! names so; a client has a bounded number of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::service::{ClientId, Status};

const ALLOC: i32 = 9;
const FREE: i32 = 10;
const EXECUTE: i32 = 11;
/// In front of the request, in the file: its length, and the number of the buffer.
const HEAD_LEN: u64 = 16;
const NUMBER_AT: u64 = 8;
/// A request, head included.
const REQUEST_MAX: u64 = 1 << 20;
/// Buffers of one client.
const BUFFERS_MAX: usize = 2048;
/// Buffers of all clients: each is a descriptor, and others need some, too.
const TOTAL_MAX: usize = 8192;
const PART_OF_DESCRIPTORS: usize = 4;
const PREFIX: &str = "corosync_zerocopy-";

/// What a request about a buffer leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is about something else.
    NotMine,
    /// Answer with this.
    Done(Status),
    /// Serve this request, and answer it.
    Send(Bytes),
}

/// The buffers of all clients.
#[derive(Debug)]
pub(super) struct Buffers {
    directory: PathBuf,
    files: BTreeMap<(ClientId, u64), (File, u64)>,
    last: u64,
    total_max: usize,
}

impl Buffers {
    /// Buffers in files of `directory`, in a process that may have so many `descriptors`.
    pub(super) fn new(directory: &Path, descriptors: usize) -> Self {
        Self {
            directory: directory.to_owned(),
            files: BTreeMap::new(),
            last: 0,
            total_max: TOTAL_MAX.min(descriptors / PART_OF_DESCRIPTORS),
        }
    }

    /// Takes a request to the service of process groups, head included.
    pub(super) fn handle(
        &mut self,
        client: ClientId,
        uid: u32,
        id: i32,
        request: &[u8],
    ) -> Outcome {
        let number = |at: usize| {
            let bytes = request.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let done = |result: Option<()>| {
            Outcome::Done(result.map_or(Status::INVALID_PARAM, |()| Status::OK))
        };
        match id {
            ALLOC => {
                let path = request.get(24..).unwrap_or_default();
                let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                done(number(16).and_then(|size| self.open(client, uid, path, size)))
            }
            FREE => {
                let freed = number(24).and_then(|it| self.files.remove(&(client, it)));
                done(freed.map(|_| ()))
            }
            EXECUTE => {
                let found = number(16).and_then(|it| self.files.get(&(client, it)));
                match found.and_then(|(file, size)| request_in(file, *size)) {
                    Some(request) => Outcome::Send(request),
                    None => done(None),
                }
            }
            _ => Outcome::NotMine,
        }
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.files.retain(|(owner, _), _| *owner != client);
    }

    fn open(&mut self, client: ClientId, uid: u32, path: &[u8], size: u64) -> Option<()> {
        let path = Path::new(std::str::from_utf8(path).ok()?);
        let name = path.file_name()?.to_str()?;
        if path.parent()? != self.directory || !name.starts_with(PREFIX) {
            return None;
        }
        // Looked at before it is opened: opening what a client has mounted there may take for ever.
        let found = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_PATH)
            .open(path)
            .ok()?;
        let facts = found.metadata().ok()?;
        let is_of_client = facts.is_file()
            && facts.uid() == uid
            && facts.nlink() == 1
            && facts.dev() == fs::metadata(&self.directory).ok()?.dev();
        if !is_of_client || facts.len() < size {
            return None;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
            .ok()?;
        // The library leaves that to the daemon, also of those that are not taken.
        fs::remove_file(path).ok()?;
        let of_client = (client, 0)..=(client, u64::MAX);
        if self.files.len() >= self.total_max || self.files.range(of_client).count() >= BUFFERS_MAX
        {
            return None;
        }
        self.last += 1;
        file.write_all_at(&self.last.to_le_bytes(), NUMBER_AT)
            .ok()?;
        self.files.insert((client, self.last), (file, size));
        Some(())
    }
}

/// The request that a client has put into its buffer.
fn request_in(file: &File, size: u64) -> Option<Bytes> {
    let mut head = [0; 16];
    file.read_exact_at(&mut head, HEAD_LEN).ok()?;
    let length = i32::from_le_bytes(head.get(8..12)?.try_into().ok()?);
    let length = u64::try_from(length).ok()?;
    // The client counts its own head as 24 bytes, as a response has it.
    if length > size.saturating_sub(HEAD_LEN) || length > REQUEST_MAX {
        return None;
    }
    let mut request = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut request, HEAD_LEN).ok()?;
    Some(request.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ClientId = ClientId(1);

    fn alloc(path: &Path, size: u64) -> Vec<u8> {
        let mut request = vec![0; 16];
        request.extend(size.to_le_bytes());
        request.extend(path.to_str().unwrap().as_bytes());
        request.resize(152, 0);
        request
    }

    fn file(directory: &Path, name: &str, len: usize) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, vec![0; len]).unwrap();
        path
    }

    #[test]
    fn a_request_is_read_from_the_buffer_until_it_is_freed() {
        let root = tempfile::tempdir().unwrap();
        let uid = nix::unistd::getuid().as_raw();
        let mut buffers = Buffers::new(root.path(), usize::MAX);
        let path = file(root.path(), "corosync_zerocopy-abc", 100);
        let kept = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let refused = Outcome::Done(Status::INVALID_PARAM);
        assert_eq!(
            buffers.handle(ME, uid + 1, ALLOC, &alloc(&path, 100)),
            refused
        );
        assert_eq!(buffers.handle(ME, uid, ALLOC, &alloc(&path, 101)), refused);
        let done = Outcome::Done(Status::OK);
        assert_eq!(buffers.handle(ME, uid, ALLOC, &alloc(&path, 100)), done);
        assert!(!path.exists());
        let mut number = [0; 8];
        kept.read_exact_at(&mut number, NUMBER_AT).unwrap();

        let mut request = vec![0; 60];
        request[8..12].copy_from_slice(&60_i32.to_le_bytes());
        request[50] = 7;
        kept.write_all_at(&request, HEAD_LEN).unwrap();
        let execute = [&[0; 16][..], &number].concat();
        let sent = Outcome::Send(request.clone().into());
        assert_eq!(buffers.handle(ME, uid, EXECUTE, &execute), sent);
        // Of another client, or longer than the buffer, or cut off meanwhile.
        assert_eq!(buffers.handle(ClientId(2), uid, EXECUTE, &execute), refused);
        for length in [85_i32, -1, i32::MAX] {
            kept.write_all_at(&length.to_le_bytes(), HEAD_LEN + 8)
                .unwrap();
            assert_eq!(buffers.handle(ME, uid, EXECUTE, &execute), refused);
        }
        kept.set_len(20).unwrap();
        assert_eq!(buffers.handle(ME, uid, EXECUTE, &execute), refused);
        let free = [&[0; 24][..], &number].concat();
        assert_eq!(buffers.handle(ME, uid, FREE, &free), done);
        assert_eq!(buffers.handle(ME, uid, FREE, &free), refused);
    }

    #[test]
    fn files_that_no_client_makes_so_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let uid = nix::unistd::getuid().as_raw();
        let mut buffers = Buffers::new(root.path(), usize::MAX);
        let refused = Outcome::Done(Status::INVALID_PARAM);
        let other = file(root.path(), "other", 100);
        let link = root.path().join("corosync_zerocopy-link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let deeper = root.path().join("corosync_zerocopy-x");
        fs::create_dir(&deeper).unwrap();
        let inner = file(&deeper, "corosync_zerocopy-y", 100);
        for path in [&other, &link, &deeper, &inner] {
            let request = alloc(path, 100);
            assert_eq!(
                buffers.handle(ME, uid, ALLOC, &request),
                refused,
                "{path:?}"
            );
            assert!(fs::symlink_metadata(path).is_ok());
        }
        assert_eq!(buffers.handle(ME, uid, ALLOC, &[0; 20]), refused);
        assert_eq!(buffers.handle(ME, uid, 2, &[0; 20]), Outcome::NotMine);
    }

    #[test]
    fn a_client_has_a_bounded_number_and_leaves_none() {
        let root = tempfile::tempdir().unwrap();
        let uid = nix::unistd::getuid().as_raw();
        let mut buffers = Buffers::new(root.path(), usize::MAX);
        for number in 0..=BUFFERS_MAX {
            let path = file(root.path(), &format!("corosync_zerocopy-{number}"), 40);
            let outcome = buffers.handle(ME, uid, ALLOC, &alloc(&path, 40));
            let fits = number < BUFFERS_MAX;
            assert_eq!(outcome == Outcome::Done(Status::OK), fits, "{number}");
            assert!(!path.exists());
        }
        buffers.client_gone(ME);
        assert!(buffers.files.is_empty());
    }

    #[test]
    fn buffers_leave_descriptors_for_others() {
        let root = tempfile::tempdir().unwrap();
        let uid = nix::unistd::getuid().as_raw();
        let mut buffers = Buffers::new(root.path(), 8);
        let fits = (1..=4_u64).filter(|client| {
            let path = file(root.path(), &format!("corosync_zerocopy-{client}"), 40);
            let outcome = buffers.handle(ClientId(*client), uid, ALLOC, &alloc(&path, 40));
            outcome == Outcome::Done(Status::OK)
        });
        assert_eq!(fits.count(), 2);
    }
}
