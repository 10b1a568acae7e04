//! What each command takes. The words are those of the original; what goes beyond it is marked so in
//! the help text.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::datacenter::Network;
use crate::value::{ClusterName, Fingerprint, Link, NodeName};

/// Makes, joins, changes and repairs clusters.
#[derive(Debug, Parser)]
#[command(
    name = "pvecm",
    version,
    infer_subcommands = true,
    infer_long_args = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new cluster with this node as its first.
    Create(Create),
    /// Join this node to the cluster that another node is in.
    Add(Add),
    /// Join this node again to the cluster that it was in.
    ///
    /// For a node that was installed anew under the same name: it takes its old entry, with number and
    /// votes, if that node is off; guests that the cluster still has for it are its own again. For a
    /// node that was removed while it was off: what it still has of the cluster is removed first, as
    /// 'pvecm leave' does it, when the checks that are possible before are passed.
    Readd(Readd),
    /// Enter a node into the cluster's configuration; run on a member by the joining side.
    Addnode(Addnode),
    /// Take a node out of the cluster.
    Delnode(Delnode),
    /// Separate this node from its cluster without reinstalling it.
    Leave(Leave),
    /// Tell the cluster how many votes to expect, until the missing nodes are back.
    ///
    /// With fewer votes expected fewer are needed: so the nodes that are left can act although others
    /// are gone for long. Make sure that those are off: where two sides act without knowing of each
    /// other, guests run twice and the copies of /etc/pve differ. The value is not kept: it is the
    /// configured one again when the missing nodes return or the daemon starts anew. Waits until the
    /// cluster file system takes changes.
    Expected(Expected),
    /// Give the nodes that are here quorum without those that are missing.
    ///
    /// As 'pvecm expected' with the votes that are here, after the one question that matters: whether the
    /// missing nodes are off. Refused while one of them answers on a link. The value is not kept: it is
    /// the configured one again when the missing nodes return.
    Quorum(Quorum),
    /// Show the members.
    ///
    /// The output is that of the original, present members only. On a terminal those that are
    /// missing follow; with --output-format json all nodes are there, with the state of the links.
    Nodes(Show),
    /// Show the cluster, its quorum, and who is missing.
    ///
    /// The output is that of the original to the character, for programs that read it. What it means
    /// in words (who is missing, which links are down, what is possible) follows on a terminal only,
    /// and is in the document of --output-format json. Exit codes: 0 quorate, 2 not quorate or no
    /// cluster, 1 error, also when /etc/pve is not mounted.
    Status(Status),
    /// Make and repair certificates, keys and directories of this node.
    Updatecerts(Updatecerts),
    /// Show the cluster's certificates, or give its authority a new key.
    Certs(Certs),
    /// Make a new key for the messaging daemon.
    Keygen(Keygen),
    /// Show the version of the join interface.
    Apiver,
    /// Used by migration over SSH.
    Mtunnel(Mtunnel),
    /// Make, list and revoke one-time tokens that let a node join.
    Token(Token),
    /// Show what a node needs to join this cluster.
    JoinInfo(JoinInfo),
    /// Serve joins and the cluster's API over HTTPS.
    Serve(Serve),
    /// Change the links of the running cluster.
    Link(LinkChange),
    /// Give this node another address or name in the running cluster.
    Node(NodeChange),
    /// Check this node and the cluster, and name the remedy of each finding.
    ///
    /// Works without the mount, without the messaging daemon and outside of clusters, and changes
    /// nothing. Exit codes: 0 nothing fails (there may be warnings), 1 something does.
    Doctor(Doctor),
    /// Put back what a command that was broken off has changed, or keep it.
    ///
    /// The next command that changes something puts it back by itself, but not later than 15 minutes
    /// after, and not when the system has started anew: the copies of what was there before, the
    /// database among them, would take the place of all that was changed since.
    Undo(Undo),
    /// Show the next free guest number.
    Nextid(Nextid),
    /// Wait until the cluster has quorum: its files can then be written.
    WaitQuorum(WaitQuorum),
}

/// Addresses of a node by link.
#[derive(Args, Clone, Debug, Default)]
pub struct Links {
    /// Address of this node on link 0: [address=]IP[,priority=0..255], the highest priority wins
    #[arg(long, value_name = "LINK")]
    pub link0: Option<Link>,
    /// As --link0, for link 1
    #[arg(long, value_name = "LINK")]
    pub link1: Option<Link>,
    /// As --link0, for link 2
    #[arg(long, value_name = "LINK")]
    pub link2: Option<Link>,
    /// As --link0, for link 3
    #[arg(long, value_name = "LINK")]
    pub link3: Option<Link>,
    /// As --link0, for link 4
    #[arg(long, value_name = "LINK")]
    pub link4: Option<Link>,
    /// As --link0, for link 5
    #[arg(long, value_name = "LINK")]
    pub link5: Option<Link>,
    /// As --link0, for link 6
    #[arg(long, value_name = "LINK")]
    pub link6: Option<Link>,
    /// As --link0, for link 7
    #[arg(long, value_name = "LINK")]
    pub link7: Option<Link>,
}

impl Links {
    /// Those that were given, by number.
    #[must_use]
    pub fn given(&self) -> BTreeMap<u8, Link> {
        let all = [
            &self.link0,
            &self.link1,
            &self.link2,
            &self.link3,
            &self.link4,
            &self.link5,
            &self.link6,
            &self.link7,
        ];
        (0..)
            .zip(all)
            .filter_map(|(number, link)| Some((number, link.clone()?)))
            .collect()
    }
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, as the original has it.
    #[default]
    Text,
    /// One JSON document, for programs.
    Json,
}

/// A command that shows something.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Show {
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub output_format: Format,
}

/// `create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Name of the cluster, at most 15 characters; it can not be changed later
    pub clustername: ClusterName,
    /// Addresses by link.
    #[command(flatten)]
    pub links: Links,
    /// Number of this node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub nodeid: u32,
    /// Votes of this node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub votes: u32,
    /// Milliseconds added to the token timeout for each node above two
    #[arg(long, default_value_t = 125)]
    pub token_coefficient: u32,
    /// One of two nodes goes on when the other fails, until a third is added; after a start they wait for
    /// each other. When only the network between them is cut, both may go on
    #[arg(long)]
    pub two_node: bool,
    /// Also when all links are on the network of a storage
    #[arg(long)]
    pub allow_storage_network: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `add`.
#[derive(Args, Debug)]
pub struct Add {
    /// A member of the cluster: address or host name (not needed with --info)
    pub hostname: Option<String>,
    /// Addresses of this node by link.
    #[command(flatten)]
    pub links: Links,
    /// Number of this node; the lowest free one if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub nodeid: Option<u32>,
    /// Votes of this node
    #[arg(long)]
    pub votes: Option<u32>,
    /// Join although checks fail, and again under a name that the cluster knows
    #[arg(long)]
    pub force: bool,
    /// SHA-256 fingerprint of the member's certificate
    #[arg(long)]
    pub fingerprint: Option<Fingerprint>,
    /// Join over SSH instead of HTTPS
    #[arg(long = "use_ssh", alias = "use-ssh")]
    pub use_ssh: bool,
    /// File that holds root's password on the member, or '-' for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token_file", "use_ssh"])]
    pub password_file: Option<PathBuf>,
    /// File that holds a join token of 'pvecm token', or '-' for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "use_ssh")]
    pub token_file: Option<PathBuf>,
    /// Join information of 'pvecm join-info' or the web interface, instead of HOSTNAME and --fingerprint
    #[arg(long, value_name = "TEXT", conflicts_with = "fingerprint")]
    pub info: Option<String>,
    /// Carry over the guests of this node, whose numbers must be free in the cluster
    #[arg(long)]
    pub import_guests: bool,
    /// Seconds to wait for quorum before the join is taken back
    #[arg(long, default_value_t = 90)]
    pub timeout: u64,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `readd`.
#[derive(Args, Debug)]
pub struct Readd {
    /// How to join.
    #[command(flatten)]
    pub add: Add,
    /// Do not ask before what is left of a cluster is removed
    #[arg(long)]
    pub yes: bool,
}

/// `addnode`.
#[derive(Args, Debug)]
pub struct Addnode {
    /// Name of the new node
    pub node: NodeName,
    /// Addresses of the new node by link.
    #[command(flatten)]
    pub links: Links,
    /// Number of the new node; the lowest free one if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub nodeid: Option<u32>,
    /// Votes of the new node
    #[arg(long)]
    pub votes: Option<u32>,
    /// Replace the entry of a node of that name
    #[arg(long)]
    pub force: bool,
    /// Address of the new node if no link is given
    #[arg(long = "new_node_ip", alias = "new-node-ip")]
    pub new_node_ip: Option<std::net::IpAddr>,
    /// Version of the join interface that the new node speaks
    #[arg(long, default_value_t = 0)]
    pub apiversion: u32,
    /// The node gets its votes when it says that it is there, and has none before
    #[arg(long)]
    pub probation: bool,
    /// Give the node these votes once it is there
    #[arg(long, hide = true)]
    pub settle: Option<u32>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `delnode`.
#[derive(Args, Debug)]
pub struct Delnode {
    /// Name of the node
    pub node: NodeName,
    /// Also remove what the node leaves behind: keys, host keys, its directory if no guest is in it
    #[arg(long)]
    pub purge: bool,
    /// Delete it although a check says no
    #[arg(long)]
    pub force: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `leave`.
#[derive(Args, Debug)]
pub struct Leave {
    /// Do not ask before separating
    #[arg(long)]
    pub yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `undo`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Undo {
    /// Keep what is there now, and remove the copies of what was there before
    #[arg(long)]
    pub forget: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `status`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Status {
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub output_format: Format,
    /// Show it again whenever it changes, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// `quorum`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Quorum {
    /// Let this side act alone
    #[arg(long, required = true)]
    pub force_local: bool,
    /// Do not ask: the missing nodes are switched off for sure
    #[arg(long)]
    pub yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `expected`.
#[derive(Args, Debug)]
pub struct Expected {
    /// Votes to expect
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub expected: u32,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `updatecerts`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Updatecerts {
    /// Make a new certificate for this node
    #[arg(long)]
    pub force: bool,
    /// Show no progress, and do not fail for lack of quorum
    #[arg(long)]
    pub silent: bool,
    /// Give this node its own file of known SSH hosts instead of the cluster's
    #[arg(long)]
    pub unmerge_known_hosts: bool,
    /// Seconds to wait for quorum
    #[arg(long, default_value_t = 80)]
    pub timeout: u64,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `certs`.
#[derive(Args, Debug)]
pub struct Certs {
    /// What to do; without it, all certificates are shown.
    #[command(subcommand)]
    pub action: Option<CertsAction>,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub output_format: Format,
}

/// What is done with certificates.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum CertsAction {
    /// Do one of three steps to a new key of the cluster's authority.
    ///
    /// 'announce': the new authority is trusted beside the old one and signs nothing; 'switch': it
    /// signs, and each node gets a certificate of it; 'finish': the old one is trusted no more, which is
    /// refused while a node still has a certificate of it. In between there is time to give the new
    /// pve-root-ca.pem to browsers and programs, so that nothing is refused at any moment. Each step is
    /// safe to repeat, and refused before its turn.
    Rollover {
        /// The step
        #[arg(value_enum)]
        step: crate::cert::rollover::Step,
        /// Show what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `keygen`.
#[derive(Args, Debug)]
pub struct Keygen {
    /// File to write the key to; must not exist
    pub filename: PathBuf,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `mtunnel`.
#[derive(Args, Debug)]
pub struct Mtunnel {
    /// Command that gets what is sent to the migration port (with --run-command, after '--')
    pub extra_args: Vec<String>,
    /// Show the address for migration, if one is configured
    #[arg(long = "get_migration_ip", alias = "get-migration-ip")]
    pub get_migration_ip: bool,
    /// The migration network
    #[arg(long = "migration_network", alias = "migration-network")]
    pub migration_network: Option<Network>,
    /// Run a command with what is sent to a port as its input
    #[arg(long)]
    pub run_command: bool,
}

/// `token`.
#[derive(Args, Debug)]
pub struct Token {
    /// What to do with tokens; a new one is made if nothing is said.
    #[command(subcommand)]
    pub action: Option<TokenAction>,
    /// Minutes until the token expires
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10080))]
    pub minutes: u32,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t, global = true)]
    pub output_format: Format,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What is done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Show tokens that can still be used (not their secrets).
    List,
    /// Make a token useless.
    Revoke {
        /// Its short name, as 'list' shows it
        id: String,
        /// Show what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `join-info`.
#[derive(Args, Debug)]
pub struct JoinInfo {
    /// Show the one line that the web interface and 'pvecm add --info' take
    #[arg(long)]
    pub base64: bool,
}

/// `serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, default_value = "[::]:8006")]
    pub listen: std::net::SocketAddr,
}

/// `link`.
#[derive(Args, Debug)]
pub struct LinkChange {
    /// The change.
    #[command(subcommand)]
    pub action: LinkAction,
    /// Show what would be done, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
}

/// Changes of links.
#[derive(Debug, Subcommand)]
pub enum LinkAction {
    /// Add a link with the address of each node on it.
    Add {
        /// Number of the link
        #[arg(value_parser = clap::value_parser!(u8).range(0..=7))]
        number: u8,
        /// NODE=ADDRESS for each node
        #[arg(required = true, value_name = "NODE=ADDRESS")]
        addresses: Vec<String>,
        /// The link with the highest priority carries the traffic
        #[arg(long, default_value_t = 0)]
        priority: u8,
    },
    /// Remove a link.
    Remove {
        /// Number of the link
        #[arg(value_parser = clap::value_parser!(u8).range(0..=7))]
        number: u8,
        /// Also when all that are left are on the network of a storage
        #[arg(long)]
        allow_storage_network: bool,
    },
    /// Give a node another address on a link.
    SetAddress {
        /// Number of the link
        #[arg(value_parser = clap::value_parser!(u8).range(0..=7))]
        number: u8,
        /// The node
        node: NodeName,
        /// Its new address
        address: String,
    },
    /// Set how much a link is wanted.
    SetPriority {
        /// Number of the link
        #[arg(value_parser = clap::value_parser!(u8).range(0..=7))]
        number: u8,
        /// The link with the highest priority carries the traffic
        priority: u8,
    },
}

/// `node`.
#[derive(Args, Debug)]
pub struct NodeChange {
    /// The change.
    #[command(subcommand)]
    pub action: NodeAction,
    /// Show what would be done, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
}

/// Changes of a node.
#[derive(Debug, Subcommand)]
pub enum NodeAction {
    /// Move this node to another address.
    ///
    /// Before: give the new address to an interface, beside the old one, and put it into the line of
    /// this node in /etc/hosts (or the DNS). Then every link that is at the old address moves to the new
    /// one, without an interruption also where it is the only link; the cluster file system tells the
    /// other nodes; the certificate is made anew. A link that does not come up is moved back. Safe to
    /// repeat.
    SetAddress {
        /// Name of this node
        node: NodeName,
        /// Its new address
        address: std::net::IpAddr,
        /// Its old address, where the cluster file system tells the new one already
        #[arg(long, value_name = "OLD")]
        from: Option<std::net::IpAddr>,
    },
    /// Give this node another name.
    ///
    /// Before: give the machine its new name ('hostnamectl set-hostname NEW'), and put it into the line of
    /// this node in /etc/hosts (or the DNS). Then guests and all other files of the node move to
    /// its new directory, certificate and keys are made, the configuration gets the new name, and what is
    /// left of the old one is removed. Guests that run go on. A failure moves the files back. Safe to
    /// repeat.
    Rename {
        /// Name that the cluster knows this node by
        old: NodeName,
        /// Its new name
        new: NodeName,
    },
}

/// `doctor`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Doctor {
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub output_format: Format,
}

/// `nextid`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Nextid {
    /// Check this number instead
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=999_999_999))]
    pub vmid: Option<u32>,
    /// Keep the number from others that ask for one, for two minutes at least
    #[arg(long)]
    pub reserve: bool,
    /// Show what would be reserved, and do nothing
    #[arg(long, requires = "reserve")]
    pub dry_run: bool,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub output_format: Format,
}

/// `wait-quorum`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WaitQuorum {
    /// Seconds to wait at most; without it, as long as it takes
    #[arg(long)]
    pub timeout: Option<u64>,
}
