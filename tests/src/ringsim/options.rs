//! What kind of history a seed stands for. Each has only some of the faults.

use crate::sim::rng::Rng;

/// A deliberate defect, put between a node and its clients or its network, to see that the
/// checkers bite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A message is not delivered to one process.
    LoseMessage,
    /// A message is delivered twice to one process.
    DeliverTwice,
    /// Two messages change places at one process.
    SwapMessages,
    /// A byte of a message changes.
    SpoilMessage,
    /// A process is not told of a change of members.
    HideChange,
    /// A node starts with an older ring sequence than it has stored.
    ForgetRing,
    /// A node calls itself quorate.
    ClaimQuorum,
    /// One node is never healed.
    StayAway,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::LoseMessage,
        Self::DeliverTwice,
        Self::SwapMessages,
        Self::SpoilMessage,
        Self::HideChange,
        Self::ForgetRing,
        Self::ClaimQuorum,
        Self::StayAway,
    ];
}

/// Something that goes wrong during the first phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The network falls into parts.
    Partition,
    /// Some nodes do not hear some others, which hear them.
    OneWay,
    /// One link of a node, or between two nodes, carries nothing.
    LinkCut,
    /// Large datagrams vanish on a link.
    MtuHole,
    /// The system refuses to send on a link of a node.
    LinkUnusable,
    /// The network gets much worse for a while.
    Storm,
    /// A daemon dies, in the middle of what it was doing.
    Crash,
    /// A daemon dies, and what it had stored is lost.
    CrashAndForget,
    /// A daemon is stopped in good order.
    Leave,
    /// A daemon stands still while its sockets fill up.
    Pause,
    /// Datagrams that were seen on the network come again, perhaps much later.
    Replay,
    /// Datagrams that are none.
    Garbage,
    /// All files change, and the nodes are told to read them.
    Reload,
    /// All processes of a node send at once.
    Burst,
    /// All processes of a node die.
    KillClients,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Partition,
        Self::OneWay,
        Self::LinkCut,
        Self::MtuHole,
        Self::LinkUnusable,
        Self::Storm,
        Self::Crash,
        Self::CrashAndForget,
        Self::Leave,
        Self::Pause,
        Self::Replay,
        Self::Garbage,
        Self::Reload,
        Self::Burst,
        Self::KillClients,
    ];
}

/// How nodes talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Several links, watched.
    Knet,
    /// One link, one datagram to each.
    Udpu,
    /// One link, one datagram to all.
    Udp,
}

/// Who may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Votes {
    /// More than half.
    Majority,
    /// The same, but all at first.
    WaitForAll,
    /// Also half, with the lowest node.
    TieBreaker,
    /// One of two.
    TwoNode,
    /// The majority of those who were there before.
    LastManStanding,
    /// Everybody.
    NoProvider,
}

impl Votes {
    /// Whether two partitions may never act at the same time.
    #[must_use]
    pub fn is_safe(self) -> bool {
        matches!(self, Self::Majority | Self::WaitForAll | Self::TieBreaker)
    }
}

/// How the network behaves, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Datagrams that are lost.
    pub loss: u64,
    /// Datagrams that come twice.
    pub duplicate: u64,
    /// Datagrams that take up to a hundred times as long.
    pub slow: u64,
    /// Datagrams that come once more, later.
    pub replay: u64,
    /// Longest usual delay, microseconds.
    pub delay_us: u64,
}

/// The options of one history.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything comes from.
    pub seed: u64,
    /// Number of nodes, 1 to 32.
    pub nodes: u32,
    /// How they talk.
    pub transport: Transport,
    /// Links.
    pub links: u8,
    /// Cipher and hash, if datagrams are sealed.
    pub crypto: Option<(&'static str, &'static str)>,
    /// Which links are used.
    pub link_mode: &'static str,
    /// Patience with the token, milliseconds.
    pub token_ms: u64,
    /// Further lines of the section `totem`.
    pub totem: String,
    /// Who may act.
    pub votes: Votes,
    /// The network, when nothing special happens to it.
    pub weather: Weather,
    /// Length of the first phase, milliseconds.
    pub faulty_ms: u64,
    /// Faults that occur.
    pub faults: Vec<Fault>,
    /// Time between two faults, on average.
    pub fault_gap_ms: u64,
    /// Processes of each node.
    pub processes: u32,
    /// Groups that they join.
    pub groups: u64,
    /// Time between two deeds of a process, on average.
    pub deed_gap_ms: u64,
    /// Longest message.
    pub message_max: u64,
    /// The file system's state machine runs on top.
    pub replicas: bool,
    /// Deliberate defect, and the node that has it.
    pub defect: Option<(Defect, u32)>,
}

impl Options {
    /// The options of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x7269_6e67_7369_6d21);
        let rng = &mut rng;
        let nodes = *rng.pick(&[1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 8, 12, 16, 32]);
        let nodes = if nodes > 8 && rng.chance(800) {
            nodes / 4
        } else {
            nodes
        };
        let transport = *rng.pick(&[
            Transport::Knet,
            Transport::Knet,
            Transport::Knet,
            Transport::Knet,
            Transport::Udpu,
            Transport::Udp,
        ]);
        let is_knet = transport == Transport::Knet;
        let appetite = *rng.pick(&[0, 150, 300, 300, 600]);
        let mut faults: Vec<Fault> = Fault::ALL
            .into_iter()
            .filter(|_| rng.chance(appetite))
            .collect();
        let forgets = faults.contains(&Fault::CrashAndForget);
        if forgets {
            faults.retain(|fault| *fault != Fault::Replay);
        }
        // A large ring costs as much in a few seconds as a small one in a minute.
        let size = u64::from(nodes);
        let faulty_ms = rng.between(2_000, 16_000) / (1 + size / 4);
        Self {
            seed,
            nodes,
            transport,
            links: if is_knet { *rng.pick(&[1, 2, 2]) } else { 1 },
            crypto: draw_crypto(rng).filter(|_| is_knet),
            link_mode: *rng.pick(&["passive", "passive", "active", "rr"]),
            token_ms: *rng.pick(&[300, 500, 1000, 1000, 2000]),
            totem: draw_totem(rng, nodes),
            votes: draw_votes(rng, nodes),
            weather: draw_weather(rng).of_rings_that_come_again(forgets),
            faulty_ms,
            faults,
            fault_gap_ms: *rng.pick(&[300, 1000, 2000, 5000]),
            processes: if nodes > 8 {
                1
            } else {
                *rng.pick(&[1, 1, 2, 3])
            },
            groups: rng.between(1, 2),
            deed_gap_ms: *rng.pick(&[20, 100, 300, 600]) * (1 + size / 3),
            message_max: *rng.pick(&[30, 300, 300, 3000, 3000, 3000, 20_000, 1_100_000]),
            replicas: nodes <= 7 && rng.chance(250),
            defect: None,
        }
    }

    /// Whether a fault occurs.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

fn draw_crypto(rng: &mut Rng) -> Option<(&'static str, &'static str)> {
    *rng.pick(&[
        Some(("aes256", "sha256")),
        Some(("aes256", "sha256")),
        Some(("aes128", "sha1")),
        Some(("none", "sha512")),
        None,
    ])
}

fn draw_totem(rng: &mut Rng, nodes: u32) -> String {
    let mut lines = String::new();
    if nodes > 8 || rng.chance(500) {
        lines.push_str("token_coefficient: 0\n");
    }
    if rng.chance(150) {
        lines.push_str("window_size: 10\nmax_messages: 4\n");
    }
    if rng.chance(150) {
        lines.push_str("send_join: 30\n");
    }
    if rng.chance(100) {
        lines.push_str("cancel_token_hold_on_retransmit: yes\n");
    }
    lines
}

fn draw_votes(rng: &mut Rng, nodes: u32) -> Votes {
    if nodes == 2 && rng.chance(300) {
        return Votes::TwoNode;
    }
    *rng.pick(&[
        Votes::Majority,
        Votes::Majority,
        Votes::Majority,
        Votes::WaitForAll,
        Votes::TieBreaker,
        Votes::LastManStanding,
        Votes::NoProvider,
    ])
}

impl Weather {
    /// When nodes forget, rings of the same name come again, and nothing on the wire tells a token
    /// that was recorded in the first from one of the second: then nothing is played back.
    #[must_use]
    pub(super) fn of_rings_that_come_again(self, forgets: bool) -> Self {
        let replay = if forgets { 0 } else { self.replay };
        Self { replay, ..self }
    }
}

pub(super) fn draw_weather(rng: &mut Rng) -> Weather {
    let pick = |rng: &mut Rng, most: u64| {
        if rng.chance(400) { rng.below(most) } else { 0 }
    };
    let most_us = *rng.pick(&[100, 400, 3000]);
    Weather {
        loss: pick(rng, 60),
        duplicate: pick(rng, 60),
        slow: pick(rng, 30),
        replay: pick(rng, 20),
        delay_us: 40 + rng.below(most_us),
    }
}
