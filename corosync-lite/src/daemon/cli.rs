//! The command line: that of Corosync, and more.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Exit codes, as Corosync numbers them.
#[expect(missing_docs, reason = "the help explains them")]
pub mod code {
    pub const USAGE: u8 = 1;
    pub const NO_QUORUM: u8 = 2;
    pub const FORK: u8 = 4;
    pub const LOGGING: u8 = 7;
    pub const CONFIG: u8 = 8;
    pub const FATAL: u8 = 15;
    pub const STATE_DIR: u8 = 16;
    pub const LOCK: u8 = 17;
    pub const RUNNING: u8 = 18;
    pub const SERVICES: u8 = 20;
    pub const RING_ID: u8 = 21;
    pub const KILLED: u8 = 255;
}

const ABOUT: &str = "Group messaging, membership and quorum for clusters";

const LONG_ABOUT: &str = "\
Group messaging, membership and quorum for clusters.

The nodes of a cluster form a ring over one or several encrypted links. Whatever a program sends \
to a group is delivered to all its members in one order, and every node knows which others it is \
connected with and whether they are the majority. The daemon speaks the protocols of Corosync 3 \
and takes its place: same configuration, same network traffic, same local services, so that \
libraries and tools (corosync-quorumtool, corosync-cfgtool, corosync-cmapctl) work unchanged, and \
nodes of both kinds can be in one ring.

Without options it checks the configuration, goes to the background and serves.";

const AFTER_HELP: &str = "\
Signals:
  TERM, INT, QUIT  leave the ring in order and end
  HUP              open log files again, after they were moved away
  USR2             write the state of ring and links to the log

To apply a changed configuration run 'corosync-cfgtool -R': all nodes then read their files again.

Exit codes:
  0    ended in order; the configuration is valid (-t); the daemon serves (without -f)
  1    an option was not understood; no daemon answers (status)
  2    this node has no quorum (status)
  4    no process for the background
  7    the logging section is not valid
  8    the configuration is not valid or can not be read
  15   sockets can not be had
  16   the state directory can not be used
  17   the lock file can not be written
  18   a daemon runs on this host already
  20   a service can not be started, for example because the quorum section is not valid
  21   the ring id can not be stored
  255  another node asked for this one to be killed (corosync-cfgtool -k)

Files:
  /etc/corosync/corosync.conf  the configuration; see corosync.conf(5)
  /etc/corosync/uidgid.d       users and groups besides root that may use the local services
  /etc/corosync/authkey        key of the cluster, the same on all nodes
  /var/lib/corosync/ringid_N   number of the last ring of node N
  /run/corosync.pid            process id of the daemon, and its lock";

/// The options.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "corosync-lite",
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_long_help = AFTER_HELP,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// The configuration; the directory uidgid.d is looked for beside it
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/corosync/corosync.conf"
    )]
    pub config: PathBuf,

    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,

    /// Check the configuration and end
    #[arg(short, long)]
    pub test: bool,

    /// Show the version and what is built in
    #[arg(short, long)]
    pub version: bool,

    /// File for the process id, also the lock that keeps a second daemon from starting
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/run/corosync.pid",
        help_heading = "Paths"
    )]
    pub pid_file: PathBuf,

    /// Where the ring id is kept [default: system.state_dir of the configuration]
    #[arg(long, value_name = "DIR", help_heading = "Paths")]
    pub state_dir: Option<PathBuf>,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done instead of serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show ring, members, links and quorum as the running daemon sees them
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What the command line asks for, when it is not to do anything.
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
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    let cli = Cli::try_parse_from(args).map_err(|error| Stop {
        code: match error.kind() {
            ErrorKind::DisplayHelp => 0,
            _ => code::USAGE,
        },
        text: error.to_string(),
    })?;
    if cli.version {
        return Err(Stop {
            code: 0,
            text: version(),
        });
    }
    Ok(cli)
}

fn version() -> String {
    format!(
        "corosync-lite {}, speaks the protocols of Corosync 3\n\
         Transports: knet udpu udp\n\
         Ciphers: aes128 aes192 aes256\n\
         Hashes: md5 sha1 sha256 sha384 sha512\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(list: &[&str]) -> Result<Cli, Stop> {
        let list = ["corosync-lite"].iter().chain(list);
        parse(list.map(Into::into))
    }

    #[test]
    fn the_options_of_corosync_are_understood() {
        let cli = args(&["-f", "-c", "/x/corosync.conf"]).unwrap();
        assert!(cli.foreground && !cli.test && cli.command.is_none());
        assert_eq!(cli.config, Path::new("/x/corosync.conf"));
        let cli = args(&["-t"]).unwrap();
        assert!(cli.test);
        assert_eq!(cli.config, Path::new("/etc/corosync/corosync.conf"));
        assert_eq!(cli.pid_file, Path::new("/run/corosync.pid"));
        let stop = args(&["-v"]).unwrap_err();
        assert_eq!(stop.code, 0);
        assert!(stop.text.starts_with("corosync-lite "));
        let status = args(&["status", "--json"]).unwrap();
        assert!(matches!(
            status.command,
            Some(Command::Status { json: true })
        ));
    }

    #[test]
    fn mistakes_end_with_code_1_and_help_with_0() {
        assert_eq!(args(&["-x"]).unwrap_err().code, 1);
        assert_eq!(args(&["what"]).unwrap_err().code, 1);
        assert_eq!(args(&["-t", "status"]).unwrap_err().code, 1);
        let help = args(&["--help"]).unwrap_err();
        assert_eq!(help.code, 0);
        assert!(help.text.contains("Exit codes:"));
    }
}
