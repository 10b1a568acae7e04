//! Reading a changed configuration beside the loop: names in it may have to be asked for on the
//! network, and the loop must not wait for that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::config::{Config, Refusal, Reload};
use crate::daemon::conf;
use crate::host::ThisHost;

pub(super) type Outcome = Result<Box<Reload>, Box<Refusal>>;

/// Reloads that were asked for. Each is answered; one runs at a time.
#[derive(Debug)]
pub(super) struct Reloads {
    path: PathBuf,
    done: Arc<EventFd>,
    running: Option<Receiver<Outcome>>,
    /// Asked for while another one ran.
    waiting: usize,
}

impl Reloads {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            path,
            done: Arc::new(EventFd::from_flags(flags)?),
            running: None,
            waiting: 0,
        })
    }

    /// Starts one, or has it wait.
    pub(super) fn request(&mut self, running: &Config) {
        self.waiting += 1;
        self.next(running);
    }

    /// Starts the next one that waits.
    pub(super) fn next(&mut self, running: &Config) {
        if self.running.is_some() || self.waiting == 0 {
            return;
        }
        self.waiting -= 1;
        let (sender, receiver) = channel();
        let (path, running, done) = (self.path.clone(), running.clone(), Arc::clone(&self.done));
        let read = move |sender: std::sync::mpsc::Sender<Outcome>| {
            sender.send(read(&path, &running)).ok();
            // It can not be full: it counts to one.
            done.write(1).ok();
        };
        let thread = std::thread::Builder::new().name("reload".to_owned());
        let for_thread = sender.clone();
        if let Err(error) = thread.spawn(move || read(for_thread)) {
            sender
                .send(unreadable(format!("no thread can be had: {error}")))
                .ok();
            self.done.write(1).ok();
        }
        self.running = Some(receiver);
    }

    /// What came of the one that ran, if it has ended.
    pub(super) fn finish(&mut self) -> Option<Outcome> {
        self.done.read().ok();
        let result = self.running.as_ref()?.try_recv();
        match result {
            Ok(result) => {
                self.running = None;
                Some(result)
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => None,
            Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                self.running = None;
                Some(unreadable(
                    "the reading of the file was cut short".to_owned(),
                ))
            }
        }
    }
}

impl AsFd for Reloads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

fn read(path: &Path, running: &Config) -> Outcome {
    let texts = match conf::texts(path) {
        Ok(texts) => texts,
        Err(error) => return unreadable(error.to_string()),
    };
    let access = texts.access.iter().map(|(_, text)| text.as_slice());
    Reload::of_file(running, &texts.main, access, &ThisHost)
        .map(Box::new)
        .map_err(Box::new)
}

fn unreadable(words: String) -> Outcome {
    Err(Box::new(Refusal::Unreadable(words)))
}
