//! The configuration database of a node in a cluster: the shell around the two groups.
//!
//! | thread | does |
//! |---|---|
//! | cluster | waits for group messaging, feeds both state machines, sends what they want sent, stores, publishes, answers callers |
//! | disk | stores what would make the cluster thread wait |
//! | callers | propose: check, send; their answer comes from the thread that has it |
//!
//! | lock | guards | held |
//! |---|---|---|
//! | `storage` | the database file | during a transaction |
//! | `core` | state machine and working tree | while messages are handled or a proposal is sent |
//! | `disk.queue` | what waits to be stored | to add or take |
//! | `waiters` | callers | to add or answer |
//! | `writable` | whether changes are accepted | to look |
//!
//! Order of locks: as in the table. The status service has a lock of its own, taken last.

mod disk;
mod propose;
mod run;
mod service;
mod waiters;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread::JoinHandle,
};

use bytes::Bytes;
use nix::sys::eventfd::{EfdFlags, EventFd};

pub use self::service::StatusService;
use self::{disk::DiskQueue, propose::Parked, waiters::Waiters};
use crate::{
    clock,
    confwatch::{Reloader, TREE_NAME},
    dcdb::{
        Backend, Closed, Done, Observer, ProposeError, Published, Replica, Storage, Syncer,
        wait_for,
    },
    dfsm::{Dfsm, Mode},
    group::{Group, Sender, corosync::CorosyncGroup},
    memdb::{Op, Tree},
    wire::MemberId,
};

/// What the cluster shell needs to know about this node.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Name of this node.
    pub node_name: String,
    /// The file that Corosync reads.
    pub host_conf: PathBuf,
}

struct Core {
    dfsm: Dfsm<Replica>,
    /// Why nothing can be stored.
    fault: Option<ProposeError>,
    stopping: bool,
    parked: Parked,
}

impl Core {
    /// Why changes are not accepted.
    fn refusal(&self) -> Result<(), ProposeError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.stopping {
            return Err(ProposeError::Busy);
        }
        match self.dfsm.mode() {
            Mode::Error | Mode::VersionError => {
                let text = "this node can not take part in the cluster, see the log";
                return Err(ProposeError::Storage(text.into()));
            }
            _ => {}
        }
        if self.dfsm.app().is_quorate() {
            Ok(())
        } else {
            Err(ProposeError::NoQuorum)
        }
    }
}

struct Shared {
    options: ClusterOptions,
    storage: Mutex<Box<dyn Storage>>,
    syncer: Arc<dyn Syncer>,
    core: Mutex<Core>,
    disk: DiskQueue,
    waiters: Waiters,
    published: Published,
    writable: RwLock<Result<(), ProposeError>>,
    sender: Sender,
    status: Arc<StatusService>,
    reloader: Mutex<Reloader>,
    wake: EventFd,
}

impl Shared {
    fn lock_core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_storage(&self) -> MutexGuard<'_, Box<dyn Storage>> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes Corosync read its configuration again, a moment later.
    fn reload_corosync(&self) {
        self.reloader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reload();
    }

    /// Makes the cluster thread look around.
    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            tracing::error!("the cluster thread can not be woken: {error}");
        }
    }

    /// Takes over what the core says about changes being accepted, and tells whoever waits.
    fn refresh_writable(&self) {
        let now = self.lock_core().refusal();
        let changed = {
            let mut writable = self
                .writable
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let changed = writable.is_ok() != now.is_ok();
            *writable = now;
            changed
        };
        if changed {
            self.published.writability_changed();
        }
    }
}

/// See the module documentation.
pub struct ClusterDb {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ClusterDb {
    /// Brings the host's `corosync.conf` up to date and starts the threads of a node in a cluster,
    /// for the tree that the storage holds.
    ///
    /// # Errors
    /// When threads or descriptors can not be had.
    pub fn start(
        tree: Tree,
        storage: Box<dyn Storage>,
        status: Arc<StatusService>,
        options: ClusterOptions,
    ) -> io::Result<Self> {
        let group = CorosyncGroup::new();
        let sender = group.sender();
        status.connect(sender.clone());
        let replica = Replica::new(tree.clone(), clock::unix_seconds());
        let own = MemberId {
            node: 0,
            pid: std::process::id(),
        };
        let core = Core {
            dfsm: Dfsm::new(replica, own),
            fault: None,
            stopping: false,
            parked: Parked::default(),
        };
        let shared = Arc::new(Shared {
            options,
            syncer: storage.syncer(),
            storage: Mutex::new(storage),
            core: Mutex::new(core),
            disk: DiskQueue::default(),
            waiters: Waiters::default(),
            published: Published::new(tree),
            writable: RwLock::new(Err(ProposeError::NoQuorum)),
            sender,
            status,
            reloader: Mutex::new(Reloader::spawn()?),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        });
        // Before Corosync is reached: a node that was away has an old file.
        if let Some(content) = shared.published.snapshot().file(TREE_NAME.as_bytes()) {
            disk::update_host_conf(&shared, &content, true);
        }
        let for_disk = Arc::clone(&shared);
        let disk = std::thread::Builder::new()
            .name("disk".into())
            .spawn(move || disk::run(&for_disk))?;
        let for_group = Arc::clone(&shared);
        let cluster = std::thread::Builder::new()
            .name("cluster".into())
            .stack_size(crate::group::corosync::THREAD_STACK_BYTES)
            .spawn(move || run::Runner::new(for_group, group).run())?;
        Ok(Self {
            shared,
            threads: Mutex::new(vec![cluster, disk]),
        })
    }

    /// Sets who follows the published trees.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.shared.published.observe(observer);
    }

    /// Refuses changes from now on, and answers the callers that wait for theirs.
    pub fn refuse(&self) {
        self.shared.lock_core().stopping = true;
        self.shared.refresh_writable();
        self.shared.wake();
    }

    /// Leaves the groups and stores what is left; waits for both.
    pub fn stop(&self) {
        self.refuse();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for (at, thread) in threads.into_iter().enumerate() {
            if at == 1 {
                self.shared.disk.stop();
            }
            if thread.join().is_err() {
                tracing::error!("a thread of the cluster shell ended in a panic");
            }
        }
        *self.shared.lock_storage() = Box::new(Closed);
    }
}

impl Backend for ClusterDb {
    fn snapshot(&self) -> Arc<Tree> {
        self.shared.published.snapshot()
    }

    fn writable(&self) -> Result<(), ProposeError> {
        self.shared
            .writable
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn propose(&self, op: Op) -> Result<u32, ProposeError> {
        wait_for(|done| self.shared.submit(op, done))
    }

    fn submit(&self, op: Op, done: Done) {
        self.shared.submit(op, done);
    }

    fn sync(&self) -> Result<(), ProposeError> {
        Ok(self.shared.syncer.sync()?)
    }

    fn request_unlock(&self, path: &Bytes) -> Result<(), ProposeError> {
        self.shared.request_unlock(path)
    }
}

impl fmt::Debug for ClusterDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterDb")
            .field("options", &self.shared.options)
            .field("published", &self.shared.published)
            .finish_non_exhaustive()
    }
}
