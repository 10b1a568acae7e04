//! The command line.

use std::path::PathBuf;

use clap::{Parser, error::ErrorKind};

/// Exit code for options that are not understood.
pub const EXIT_USAGE: u8 = 1;
/// Exit code of every other failure.
pub const EXIT_FAILURE: u8 = 255;

const ABOUT: &str = "Replicated configuration file system for clusters";

const LONG_ABOUT: &str = "\
Replicated configuration file system for clusters.

Mounts a small file system, by default at /etc/pve, whose files are the same on all nodes of a \
cluster. A change made on one node is ordered and applied on all of them before the call that \
made it returns. A node that is not connected to a majority of the nodes is read-only.

The tree is kept in memory and in a SQLite database on each node. Messages between the nodes go \
through Corosync, which has to run on each of them. With --local, or as long as the tree has no \
corosync.conf, the node is alone and needs nothing else.";

const AFTER_HELP: &str = "\
Exit codes:
  0    ended in order, or the background process is ready
  1    an option was not understood
  255  any other failure; the message says what to do

Signals:
  TERM, INT, HUP   unmount, store what is left, end

Files:
  /etc/pve                              the mounted tree
  /etc/pve/.debug                       write 1 for debug messages, 0 to stop them
  /var/lib/pve-cluster/config.db        the database
  /var/lib/pve-cluster/backup           copies of databases that were overwritten
  /etc/corosync/corosync.conf           kept equal to /etc/pve/corosync.conf
  /run/pve-cluster.pid                  process id of the daemon

Recovery: when the cluster is gone, stop the service and start 'pmxcfs -l': the tree of this node \
can then be read and changed without the others.";

/// The options.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "pmxcfs",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_long_help = AFTER_HELP,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Log debug messages; the file .debug in the mounted tree switches them at run time
    #[arg(short, long)]
    pub debug: bool,

    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    pub foreground: bool,

    /// Local mode: work alone and writable, ignore corosync.conf (for recovery)
    #[arg(short, long)]
    pub local: bool,

    /// Where to mount the file system
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/pve",
        help_heading = "Paths"
    )]
    pub mountpoint: PathBuf,

    /// Folder of the database
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/pve-cluster",
        help_heading = "Paths"
    )]
    pub database_dir: PathBuf,

    /// Folder for run-time files
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/pve-cluster",
        help_heading = "Paths"
    )]
    pub runtime_dir: PathBuf,

    /// File for the process id [default: the runtime folder with .pid appended]
    #[arg(long, value_name = "FILE", help_heading = "Paths")]
    pub pid_file: Option<PathBuf>,

    /// The configuration that Corosync on this host reads
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/corosync/corosync.conf",
        help_heading = "Paths"
    )]
    pub corosync_conf: PathBuf,

    /// Group that owns the files and may read those that are not private
    #[arg(long, value_name = "NAME", default_value = "www-data")]
    pub group: String,

    /// Threads that serve the file system
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(3..=64))]
    pub threads: u16,

    #[arg(hide = true)]
    extra: Vec<String>,
}

/// What the command line asks for, when it is not to start the daemon.
#[derive(Debug, PartialEq, Eq)]
pub struct Stop {
    /// Exit code.
    pub code: u8,
    /// Text for standard output if the code is 0, else for standard error.
    pub text: String,
}

/// Reads the command line.
///
/// # Errors
/// [`Stop`] for `--help`, `--version` and anything that is not understood.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, Stop> {
    let cli = Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop {
            code: 0,
            text: error.to_string(),
        },
        ErrorKind::UnknownArgument => {
            let context = error.get(clap::error::ContextKind::InvalidArg);
            let option = context.map(ToString::to_string).unwrap_or_default();
            let text = format!("option parsing failed: Unknown option {option}\n");
            Stop {
                code: EXIT_USAGE,
                text,
            }
        }
        _ => Stop {
            code: EXIT_USAGE,
            text: format!("option parsing failed: {error}"),
        },
    })?;
    if !cli.extra.is_empty() {
        let text = "too many arguments\n".to_owned();
        return Err(Stop {
            code: EXIT_FAILURE,
            text,
        });
    }
    Ok(cli)
}

impl Cli {
    /// Where the process id goes.
    #[must_use]
    pub fn pid_path(&self) -> PathBuf {
        self.pid_file.clone().unwrap_or_else(|| {
            let mut path = self.runtime_dir.clone().into_os_string();
            path.push(".pid");
            path.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(list: &[&str]) -> Result<Cli, Stop> {
        parse(
            std::iter::once("pmxcfs")
                .chain(list.iter().copied())
                .map(Into::into),
        )
    }

    #[test]
    fn short_options_can_be_bundled() {
        let cli = args(&["-lfd", "--"]).unwrap();
        assert!(cli.local && cli.foreground && cli.debug);
        assert_eq!(cli.pid_path(), Path::new("/run/pve-cluster.pid"));
    }

    #[test]
    fn mistakes_end_with_the_codes_of_the_original() {
        let unknown = args(&["--x"]).unwrap_err();
        assert_eq!(unknown.code, 1);
        assert!(
            unknown
                .text
                .starts_with("option parsing failed: Unknown option --x")
        );
        let positional = args(&["/mnt"]).unwrap_err();
        assert_eq!(
            (positional.code, positional.text.as_str()),
            (255, "too many arguments\n")
        );
        assert_eq!(args(&["--help"]).unwrap_err().code, 0);
        assert!(
            args(&["--version"])
                .unwrap_err()
                .text
                .starts_with("pmxcfs ")
        );
    }
}
