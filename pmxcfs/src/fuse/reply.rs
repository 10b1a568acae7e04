//! Answers to requests.

use std::sync::Arc;

use super::{
    device::Device,
    protocol::{
        AttrOut, InitOut, Lines, StatFsOut, Ttls, attr_out, create_out, entry_out, init_out,
        open_out, statfs_out, write_out,
    },
};

/// The way to answer one request, on whatever thread has the answer.
///
/// Invariant: each request is answered once. One that is dropped gets `EIO`, so that no process
/// waits for ever.
#[derive(Debug)]
pub(super) struct Reply {
    device: Arc<Device>,
    unique: u64,
    is_answered: bool,
}

impl Reply {
    pub(super) fn new(device: &Arc<Device>, unique: u64) -> Self {
        Self {
            device: Arc::clone(device),
            unique,
            is_answered: false,
        }
    }

    pub(super) fn ok(self) {
        self.data(&[]);
    }

    pub(super) fn error(mut self, errno: i32) {
        self.send(errno, &[]);
    }

    pub(super) fn data(mut self, data: &[u8]) {
        self.send(0, data);
    }

    pub(super) fn init(self, init: &InitOut) {
        self.data(&init_out(init));
    }

    pub(super) fn entry(self, ttls: Ttls, attr: &AttrOut) {
        self.data(&entry_out(ttls, attr));
    }

    pub(super) fn attr(self, ttl: u64, attr: &AttrOut) {
        self.data(&attr_out(ttl, attr));
    }

    pub(super) fn opened(self, handle: u64, flags: u32) {
        self.data(&open_out(handle, flags));
    }

    pub(super) fn created(self, ttls: Ttls, attr: &AttrOut, handle: u64, flags: u32) {
        self.data(&create_out(ttls, attr, handle, flags));
    }

    pub(super) fn written(self, written: u32) {
        self.data(&write_out(written));
    }

    pub(super) fn statfs(self, stats: &StatFsOut) {
        self.data(&statfs_out(stats));
    }

    pub(super) fn lines(self, lines: &Lines) {
        self.data(lines.bytes());
    }

    fn send(&mut self, errno: i32, payload: &[u8]) {
        self.is_answered = true;
        if let Err(error) = self.device.answer(self.unique, errno, payload) {
            // The process was killed, or the mount is gone.
            tracing::debug!(%error, "the kernel did not take an answer");
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_answered {
            tracing::error!("a request of the kernel was left without an answer");
            self.send(libc::EIO, &[]);
        }
    }
}
