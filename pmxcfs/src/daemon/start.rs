//! The sequence in which the daemon starts and ends.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write as _},
    os::fd::AsFd as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use corosync_lite::daemon::background::Parent;
use nix::{
    sys::{
        eventfd::{EfdFlags, EventFd},
        stat::{Mode, umask},
    },
    unistd::{Gid, geteuid},
};

use super::{
    cli::Cli,
    logging::LogControl,
    node,
    signals::{End, Signals},
    texts::Texts,
};
use crate::{
    clock,
    cluster::{ClusterDb, ClusterOptions, StatusService},
    confwatch,
    dcdb::{Backend, LocalDb, Observer},
    fs::{Fs, FsConfig},
    fuse::{self, MountConfig},
    memdb::Tree,
    store::{InstanceLock, Keeper, Store},
    wire::MemberId,
};

/// How long to wait for another instance to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Tells clients that the daemon is about to come back, so that they wait a moment.
const RESTART_FLAG: &str = "cfs-restart-flag";

/// Runs the daemon until a signal ends it. `parent` is told when it serves.
///
/// # Errors
/// When it can not start, or the mount was taken away.
pub fn run(cli: &Cli, log: LogControl, mut parent: Parent) -> Result<()> {
    if !geteuid().is_root() {
        bail!("only root can mount the file system: start it with sudo, or as a system service");
    }
    std::env::set_current_dir("/").context("unable to change to /")?;
    let name = node::name()?;
    let address = resolve(cli, &name)?;
    let gid = node::group_id(&cli.group)?;
    umask(Mode::from_bits_truncate(0o027));
    let signals = Signals::take().context("unable to take over signals")?;
    make_folder(&cli.database_dir, None)?;
    make_folder(&cli.runtime_dir, Some(gid))?;
    let lock = lock(cli)?;
    let (keeper, tree) = open_database(cli, &name)?;
    let own = MemberId {
        node: 0,
        pid: std::process::id(),
    };
    let status = Arc::new(StatusService::new(own, &name, address.as_deref()));
    let database = Database::start(cli, tree, keeper, &status, &name)?;

    let texts = Arc::new(Texts {
        status,
        log: Arc::new(log),
    });
    let file_system = Arc::new(Fs::new(FsConfig {
        backend: database.backend(),
        status: texts,
        node: name,
        gid: gid.as_raw(),
        clock: clock::unix_seconds_u32,
    }));
    database.observe(Arc::clone(&file_system) as Arc<dyn Observer>);
    let (session, unmounted) = mount(cli, file_system)?;
    remove_if_there(&cli.runtime_dir.join(RESTART_FLAG))?;
    write_pid(&cli.pid_path())?;
    parent
        .ready()
        .context("unable to detach from the terminal")?;
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("serving '{}'", cli.mountpoint.display());

    let end = signals
        .wait(unmounted.as_fd())
        .context("unable to wait for signals")?;
    stop(cli, gid, session, &database)?;
    drop(lock);
    match end {
        End::Signal(signal) => {
            tracing::info!("exit proxmox configuration filesystem ({signal})");
            Ok(())
        }
        End::Unmounted => bail!(
            "'{}' was unmounted by somebody else; start the service again to get it back",
            cli.mountpoint.display()
        ),
    }
}

/// Mounts; the descriptor becomes readable when somebody else takes the mount away.
fn mount(cli: &Cli, file_system: Arc<Fs>) -> Result<(fuse::Session, Arc<EventFd>)> {
    fuse::clear_stale_mount(&cli.mountpoint).with_context(|| {
        format!(
            "unable to clear the dead mount at '{}'",
            cli.mountpoint.display()
        )
    })?;
    make_folder(&cli.mountpoint, None)?;
    let config = MountConfig {
        threads: cli.threads.into(),
        ..MountConfig::new(&cli.mountpoint)
    };
    let unmounted = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
    let on_loss = {
        let unmounted = Arc::clone(&unmounted);
        move || {
            if let Err(error) = unmounted.write(1) {
                tracing::error!("unable to note that the mount is gone: {error}");
            }
        }
    };
    let session = fuse::mount(&config, file_system, on_loss)
        .with_context(|| format!("unable to mount '{}'", cli.mountpoint.display()))?;
    Ok((session, unmounted))
}

/// Ends what was started, in an order in which nobody waits for what is gone.
fn stop(cli: &Cli, gid: Gid, session: fuse::Session, database: &Database) -> Result<()> {
    notify(&[sd_notify::NotifyState::Stopping]);
    let flag = cli.runtime_dir.join(RESTART_FLAG);
    if let Err(error) = write_restart_flag(&flag, gid) {
        tracing::warn!("unable to create '{}': {error}", flag.display());
    }
    tracing::info!("teardown filesystem");
    database.refuse();
    session.unmount();
    database.stop();
    remove_if_there(&cli.pid_path())
}

fn resolve(cli: &Cli, name: &str) -> Result<Option<String>> {
    match node::address(name) {
        Ok(address) => {
            tracing::info!("resolved node name '{name}' to '{address}' for default node IP");
            Ok(Some(address.to_string()))
        }
        // Recovery must work without a network.
        Err(error) if cli.local => {
            tracing::warn!("{error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn make_folder(path: &Path, gid: Option<Gid>) -> Result<()> {
    match DirBuilder::new().recursive(true).mode(0o750).create(path) {
        Ok(()) => {}
        Err(error) => bail!("unable to make folder '{}': {error}", path.display()),
    }
    if let Some(gid) = gid {
        chown(path, Some(0), Some(gid.as_raw()))
            .with_context(|| format!("unable to give '{}' to the group", path.display()))?;
    }
    Ok(())
}

fn lock(cli: &Cli) -> Result<InstanceLock> {
    let waiting = |holder: Option<u32>| {
        let by = holder.map_or_else(String::new, |pid| format!(" by process {pid}"));
        tracing::warn!(
            "the database is locked{by}; waiting {} seconds for it to end",
            LOCK_PATIENCE.as_secs()
        );
    };
    InstanceLock::acquire(&cli.database_dir, LOCK_PATIENCE, waiting)
        .context("unable to acquire pmxcfs lock")
}

fn open_database(cli: &Cli, name: &str) -> Result<(Keeper, Tree)> {
    let opened = Store::open(&cli.database_dir, clock::unix_seconds_u32()).with_context(|| {
        format!(
            "memdb_open failed - unable to open database in '{}'",
            cli.database_dir.display()
        )
    })?;
    let (mut store, mut tree) = (opened.store, opened.tree);
    for issue in &opened.issues {
        tracing::warn!("database: {issue}; it is loaded all the same");
    }
    for note in &opened.notes {
        tracing::warn!("database: {note}");
    }
    match fs::read(&cli.corosync_conf) {
        Ok(content) if is_empty(&tree) && !cli.local => {
            confwatch::check(&content, None, name).with_context(|| {
                format!(
                    "'{}' is not imported; mend or remove it, or start with --local",
                    cli.corosync_conf.display()
                )
            })?;
            let now = clock::unix_seconds_u32();
            store
                .import_conf(&mut tree, &Bytes::from(content), now)
                .with_context(|| format!("unable to import '{}'", cli.corosync_conf.display()))?;
            tracing::info!("imported '{}'", cli.corosync_conf.display());
        }
        Ok(_) if !cli.local && conf_of(&tree).is_none() => tracing::warn!(
            "'{}' exists, but the database has no corosync.conf: this node works alone; to join \
             the cluster, copy the file to '{}'",
            cli.corosync_conf.display(),
            cli.mountpoint.join(confwatch::TREE_NAME).display()
        ),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("unable to read '{}': {error}", cli.corosync_conf.display()),
    }
    Ok((Keeper::new(store, cli.database_dir.join("backup")), tree))
}

/// Whether nothing was ever stored, also when the first start was cut short.
fn is_empty(tree: &Tree) -> bool {
    tree.root().version == 1 && tree.entries().is_empty()
}

fn conf_of(tree: &Tree) -> Option<Bytes> {
    tree.file(confwatch::TREE_NAME.as_bytes())
}

/// The database in one of its two forms.
enum Database {
    Local(Arc<LocalDb>),
    Cluster(Arc<ClusterDb>),
}

impl Database {
    fn start(
        cli: &Cli,
        tree: Tree,
        keeper: Keeper,
        status: &Arc<StatusService>,
        name: &str,
    ) -> Result<Self> {
        let conf = conf_of(&tree);
        if cli.local && conf.is_some() {
            tracing::info!("forcing local mode (although corosync.conf exists)");
        }
        if conf.is_none() || cli.local {
            return Ok(Self::Local(Arc::new(LocalDb::new(tree, Box::new(keeper)))));
        }
        let options = ClusterOptions {
            node_name: name.to_owned(),
            host_conf: cli.corosync_conf.clone(),
        };
        let cluster = ClusterDb::start(tree, Box::new(keeper), Arc::clone(status), options)
            .context("unable to start the threads of the cluster")?;
        Ok(Self::Cluster(Arc::new(cluster)))
    }

    fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Local(database) => Arc::clone(database) as Arc<dyn Backend>,
            Self::Cluster(database) => Arc::clone(database) as Arc<dyn Backend>,
        }
    }

    fn observe(&self, observer: Arc<dyn Observer>) {
        match self {
            Self::Local(database) => database.observe(observer),
            Self::Cluster(database) => database.observe(observer),
        }
    }

    /// Answers the callers that wait for other nodes, and refuses new changes.
    fn refuse(&self) {
        if let Self::Cluster(database) = self {
            database.refuse();
        }
    }

    fn stop(&self) {
        match self {
            Self::Local(database) => database.stop(),
            Self::Cluster(database) => database.stop(),
        }
    }
}

fn write_pid(path: &Path) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let text = format!("{}\n", std::process::id());
    fs::write(temporary, text)
        .and_then(|()| fs::set_permissions(temporary, Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(temporary, path))
        .with_context(|| format!("unable to write '{}'", path.display()))
}

fn write_restart_flag(path: &Path, gid: Gid) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o440)
        .open(path)?
        .flush()?;
    chown(path, Some(0), Some(gid.as_raw()))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("unable to remove '{}'", path.display()))
        }
        _ => Ok(()),
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("unable to notify systemd: {error}");
    }
}
