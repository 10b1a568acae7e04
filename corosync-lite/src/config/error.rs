//! Why a configuration is refused, where, and what to do about it.

use std::fmt;

/// A refused configuration: the first problem, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The place, where one line is to blame.
    pub at: Option<Place>,
    /// What is wrong.
    pub problem: Problem,
}

/// A place in the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Byte in the line, counted from 1.
    pub column: usize,
    /// The line itself, without its end.
    pub text: String,
}

impl ConfigError {
    pub(super) fn new(at: Option<&Place>, problem: Problem) -> Self {
        // What was not read from a file is at no place of it.
        let at = at.filter(|at| at.line > 0);
        Self {
            at: at.cloned(),
            problem,
        }
    }

    /// Several lines for a person: the message, the line with a caret under the place, and what
    /// to do. `file` is how the reader knows the text.
    pub fn render(&self, file: &str) -> String {
        let mut text = match &self.at {
            Some(at) => format!("{file}:{}:{}: {}\n", at.line, at.column, self.problem),
            None => format!("{file}: {}\n", self.problem),
        };
        if let Some(at) = &self.at {
            // Long lines are refused, but the message about them shall not be as long.
            let mut shown: String = at.text.chars().take(160).collect();
            let (name, value) = at.text.split_once(':').unwrap_or((&at.text, ""));
            if name.trim() == "key" && !value.is_empty() {
                // What a service writes here ends in the journal.
                shown = format!("{name}: (not shown)");
            }
            let column = at.column.saturating_sub(1);
            let before = at.text.as_bytes().get(..column).unwrap_or_default();
            let before = String::from_utf8_lossy(before);
            let indent: String = before
                .chars()
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .take(160)
                .collect();
            text += &format!("  {shown}\n  {indent}^\n");
        }
        if let Some(hint) = self.problem.hint() {
            text += &format!("  {hint}\n");
        }
        // What the file holds must not give orders to the terminal.
        let is_order = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        text.replace(is_order, "?")
    }

    /// The one line that Corosync prints for the same problem.
    pub fn original_message(&self, file: &str) -> String {
        match (self.problem.stage(), &self.at) {
            (Stage::Parser, Some(at)) => {
                format!("parser error: {file}:{}: {}", at.line, self.problem)
            }
            (Stage::Parser, None) => format!("parser error: {file}: {}", self.problem),
            (Stage::Checked, _) => format!("parse error in config: {}", self.problem),
            (Stage::Read, _) => self.problem.to_string(),
        }
    }

    /// Exit status of a daemon that is started with such a configuration.
    pub fn exit_status(&self) -> u8 {
        match self.problem {
            Problem::UnknownLogValue(_) | Problem::UnknownLogName(_) => 7,
            _ => 8,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(
                f,
                "line {}, column {}: {}",
                at.line, at.column, self.problem
            ),
            None => self.problem.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Which part of the original finds a problem; its messages differ in form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Parser,
    Read,
    Checked,
}

/// What is wrong. The texts are those of Corosync, so that what people know, or look up, fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Problem {
    #[error("Line too long")]
    LineTooLong,
    #[error("Line holds a NUL byte")]
    NulByte,
    #[error("File starts with a byte order mark")]
    ByteOrderMark,
    #[error("Missing section name before opening bracket '{{'")]
    MissingSectionName,
    #[error("Extra characters after opening bracket '{{'")]
    TextAfterOpen,
    #[error("Extra characters before or after closing bracket '}}'")]
    TextBesideClose,
    #[error("Unexpected closing brace")]
    UnexpectedClose,
    #[error("Line is not opening or closing section or key value")]
    NotASetting,
    #[error("Missing closing brace")]
    MissingClose,
    #[error("Start of section makes total cmap path too long")]
    SectionPathTooLong,
    #[error("New key makes total cmap path too long")]
    KeyPathTooLong,
    #[error("Can't store key \"{key}\" into icmap, returned error is CS_ERR_NAME_TOO_LONG")]
    BadKey { key: String },
    #[error(
        "Value of key \"{key}\" is expected to be integer in range ({min}..{max}), but \"{value}\" was given"
    )]
    NotANumber {
        key: String,
        min: i64,
        max: u64,
        value: String,
    },
    #[error("{0}")]
    BadChoice(&'static str),
    #[error("uidgid: Only uid and gid are allowed items")]
    UidgidItem,
    #[error("The '{name}' {kind} is not found in {file}, please read the documentation.")]
    UnknownAccount {
        kind: &'static str,
        file: &'static str,
        name: String,
    },
    #[error("Only memberaddr is allowed in member section")]
    MemberItem,
    #[error("No subsys key in logger_subsys directive")]
    NoSubsys,
    #[error("No name key in logging_daemon directive")]
    NoDaemonName,

    #[error("unknown value for {0}.")]
    UnknownLogValue(&'static str),
    #[error("unknown {0} specified.")]
    UnknownLogName(&'static str),

    #[error("Invalid transport type. Should be udpu, udp or knet")]
    Transport,
    #[error("totem.link_mode is too long")]
    LinkModeTooLong,
    #[error("crypto_cipher requires crypto_hash with value other than none")]
    CipherWithoutHash,
    #[error("Could not open {path}: {reason}")]
    KeyUnreadable { path: String, reason: String },
    #[error("Could only read {bits} bits of minimum 1024 bits from {path}.")]
    KeyFileTooShort { path: String, bits: usize },
    #[error("key is too short")]
    KeyTooShort,
    #[error("key is too long")]
    KeyTooLong,
    #[error("Unrecognised knet_transport. expected 'udp' or 'sctp'")]
    KnetTransport,
    #[error("Knet requires an explicit nodeid for the local node")]
    NoLocalNodeId,
    #[error("Knet requires an explicit nodeid to be specified for address '{0}'.")]
    NoNodeId(String),
    #[error("Knet requires nodeid to be less than 65536 for address '{0}'.")]
    NodeIdTooLarge(String),
    #[error("An IPV6 network requires that a node ID be specified for address '{0}'.")]
    Ipv6NeedsNodeId(String),
    #[error("Nodeid {0} appears twice in corosync.conf")]
    DuplicateNodeId(u32),
    #[error("failed to parse node address '{0}'")]
    BadAddress(String),

    #[error("This totem parser can only parse version 2 configurations.")]
    Version,
    #[error("interface ring number {0} is bigger than allowed maximum 7")]
    LinkNumber(u32),
    #[error("crypto_cipher & crypto_hash are only valid for the Knet transport.")]
    CryptoWithoutKnet,
    #[error("The {what} parameter ({value} ms) may not be less than ({least} ms).")]
    TooSmall {
        what: &'static str,
        value: u32,
        least: u32,
    },
    #[error("The token warning parameter ({0}%) must be between 0 (disabled) and 100.")]
    TokenWarning(u32),
    #[error("Not appropriate token or token_retransmits_before_loss_const value set")]
    TokenTooShort,
    #[error(
        "The consensus timeout parameter ({consensus} ms) may not be less than join timeout ({join} ms)."
    )]
    ConsensusBelowJoin { consensus: u32, join: u32 },
    #[error("The Knet link mode \"{0}\" specified is invalid.  It must be active, passive or rr.")]
    LinkMode(String),
    #[error("{0} is too many configured interfaces for non-Knet transport.")]
    TooManyLinks(usize),
    #[error("for a multi-link configuration, all nodes must have a 'name' attribute")]
    NamesNeeded,
    #[error("Not all nodes have the same number of links")]
    UnevenLinks,
    #[error("Nodes for link {link} have different IP families (compared {one} with {other})")]
    MixedFamilies {
        link: u8,
        one: String,
        other: String,
    },
    #[error("No valid name found for local host")]
    NoLocalNode,
    #[error("No interfaces defined")]
    NoInterfaces,
    #[error("Can only set ttl on multicast transport types for interface {0}")]
    TtlWithoutMulticast(u8),
    #[error("Can only set link priority on knet transport type for interface {0}")]
    PriorityWithoutKnet(u8),
    #[error("No multicast address specified for interface {0}")]
    NoMulticastAddress(u8),
    #[error("Multicast address family does not match bind address family for interface {0}")]
    MulticastFamily(u8),
    #[error("mcastaddr is not a correct multicast address for interface {0}")]
    BadMulticastAddress(u8),
}

impl Problem {
    fn stage(&self) -> Stage {
        match self {
            Self::LineTooLong
            | Self::NulByte
            | Self::ByteOrderMark
            | Self::MissingSectionName
            | Self::TextAfterOpen
            | Self::TextBesideClose
            | Self::UnexpectedClose
            | Self::NotASetting
            | Self::MissingClose
            | Self::SectionPathTooLong
            | Self::KeyPathTooLong
            | Self::BadKey { .. }
            | Self::NotANumber { .. }
            | Self::BadChoice(_)
            | Self::UidgidItem
            | Self::UnknownAccount { .. }
            | Self::MemberItem
            | Self::NoSubsys
            | Self::NoDaemonName => Stage::Parser,
            Self::Transport
            | Self::LinkModeTooLong
            | Self::CipherWithoutHash
            | Self::KeyUnreadable { .. }
            | Self::KeyFileTooShort { .. }
            | Self::KeyTooShort
            | Self::KeyTooLong
            | Self::KnetTransport
            | Self::NoLocalNodeId
            | Self::NoNodeId(_)
            | Self::NodeIdTooLarge(_)
            | Self::Ipv6NeedsNodeId(_)
            | Self::DuplicateNodeId(_)
            | Self::BadAddress(_) => Stage::Read,
            _ => Stage::Checked,
        }
    }

    /// What the reader can do, where the message does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::LineTooLong => "shorten the line to 510 bytes, comments too",
            Self::NulByte => "write the file again as plain text",
            Self::ByteOrderMark => {
                "write the file again as UTF-8 without the mark, its first three bytes"
            }
            Self::MissingSectionName => "put the name in front of '{', on the same line",
            Self::TextAfterOpen => {
                "put each setting on a line of its own; '{' can not be part of a value"
            }
            Self::TextBesideClose => "put '}' on a line of its own",
            Self::UnexpectedClose => "remove the line, or add the '{' that it closes",
            Self::NotASetting => "write 'name {', 'key: value' or '}'; comments start with '#'",
            Self::MissingClose => "add '}' on a line of its own where this section ends",
            Self::BadKey { .. } => {
                "use 3 to 255 letters, digits and . _ - / for the section and key together"
            }
            Self::NotANumber { .. } => "write digits alone; a comment needs a line of its own",
            Self::CipherWithoutHash => "add crypto_hash, for example sha256",
            Self::KeyUnreadable { .. } | Self::KeyFileTooShort { .. } => {
                "copy the authkey of another node, or make one with corosync-keygen"
            }
            Self::CryptoWithoutKnet => {
                "remove transport, so that knet is used, or switch encryption off"
            }
            Self::NoLocalNodeId | Self::NoNodeId(_) => "add a nodeid to each node, from 1 to 65535",
            Self::UnevenLinks => {
                "give each node the same ringN_addr keys, and remove interface sections of other links"
            }
            Self::NoLocalNode => {
                "a node needs the name of this host, or as ring0_addr one of its addresses"
            }
            Self::Version => "write 'version: 2' into section totem",
            Self::NoInterfaces => {
                "section nodelist needs a 'node { ... }' with 'ring0_addr: ADDRESS' for each node"
            }
            Self::DuplicateNodeId(_) => "give each node a nodeid of its own",
            Self::MixedFamilies { .. } => {
                "write addresses of one family on all nodes of the link, all IPv4 or all IPv6"
            }
            Self::NamesNeeded => "write 'name: HOST' into each node, with its host name",
            Self::UnknownLogValue("debug") => "write on, off or trace",
            Self::UnknownLogValue("timestamp") => "write on, off or hires",
            Self::UnknownLogValue("fileline" | "function_name" | "blackbox") => "write on or off",
            Self::UnknownLogValue(_) => "write yes, no, on or off",
            Self::BadAddress(_) => "write an IP address, or make the name known to the resolver",
            _ => return None,
        })
    }
}
