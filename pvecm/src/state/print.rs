//! The blocks of `corosync-quorumtool`, to the character: blanks at the end of lines are its own.

use std::fmt::Write as _;

use super::{Info, Member, State, flags};
use crate::conf::ClusterConf;

/// How numbers of nodes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdForm {
    /// As `status` does.
    Hex,
    /// As `nodes` does.
    Decimal,
}

/// What nodes are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameForm {
    /// As `status` does.
    Address,
    /// As `nodes` does.
    Name,
}

/// What the flags are called, in the order of printing.
const FLAGS: [(u32, &str); 7] = [
    (flags::TWO_NODE, "2Node"),
    (flags::QUORATE, "Quorate"),
    (flags::WAIT_FOR_ALL, "WaitForAll"),
    (flags::LAST_MAN_STANDING, "LastManStanding"),
    (flags::AUTO_TIE_BREAKER, "AutoTieBreaker"),
    (flags::ALLOW_DOWNSCALE, "AllowDownscale"),
    (flags::DEVICE_REGISTERED, "Qdevice"),
];

/// Names of the flags that are set.
#[must_use]
pub fn flag_names(set: u32) -> Vec<&'static str> {
    let set = FLAGS.into_iter().filter(|(flag, _)| set & flag != 0);
    set.map(|(_, name)| name).collect()
}

/// What `status` begins with.
#[must_use]
pub fn header(conf: &ClusterConf) -> String {
    let setting = |key, default: &'static str| conf.setting("totem", key).unwrap_or(default);
    let lines = [
        ("Name:", setting("cluster_name", "UNKOWN?")),
        ("Config Version:", setting("config_version", "-1")),
        ("Transport:", setting("transport", "knet")),
        ("Secure auth:", setting("secauth", "off")),
    ];
    let mut text = "Cluster information\n-------------------\n".to_owned();
    for (label, value) in lines {
        // Writing to a string does not fail.
        writeln!(text, "{label:<17} {value}").ok();
    }
    text + "\n"
}

/// The blocks on quorum, votes and membership; `date` is when the daemon was asked.
#[must_use]
pub fn blocks(state: &State, date: &str, names: NameForm) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    write_quorum(&mut text, state, date).ok();
    text + &membership(state, IdForm::Hex, names)
}

fn write_quorum(out: &mut String, state: &State, date: &str) -> std::fmt::Result {
    let votes = &state.votes;
    let is_quorate = votes.flags & flags::QUORATE != 0;
    writeln!(out, "Quorum information\n------------------")?;
    writeln!(out, "Date:             {date}")?;
    writeln!(out, "Quorum provider:  {}", state.provider)?;
    writeln!(out, "Nodes:            {}", state.members.len())?;
    writeln!(out, "Node ID:          0x{:08x}", state.node)?;
    let (node, seq) = (state.ring_node, state.ring_seq);
    writeln!(out, "Ring ID:          {node:x}.{seq:x}")?;
    let answer = if state.quorate { "Yes" } else { "No" };
    writeln!(out, "Quorate:          {answer}")?;
    writeln!(out, "\nVotequorum information\n----------------------")?;
    writeln!(out, "Expected votes:   {}", votes.expected)?;
    writeln!(out, "Highest expected: {}", votes.highest_expected)?;
    writeln!(out, "Total votes:      {}", votes.total)?;
    let blocked = if is_quorate { " " } else { "Activity blocked" };
    writeln!(out, "Quorum:           {} {blocked}", votes.needed)?;
    write!(out, "Flags:            ")?;
    for name in flag_names(votes.flags) {
        write!(out, "{name} ")?;
    }
    writeln!(out)
}

/// The block on membership, with the empty line in front of it.
#[must_use]
pub fn membership(state: &State, ids: IdForm, names: NameForm) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    write_members(&mut text, state, ids, names).ok();
    text
}

fn write_members(
    out: &mut String,
    state: &State,
    ids: IdForm,
    names: NameForm,
) -> std::fmt::Result {
    let infos = || state.members.iter().filter_map(|it| it.info.as_ref());
    let has_device = infos().any(|info| info.flags & flags::DEVICE_REGISTERED != 0);
    for member in state.members.iter().filter(|it| it.info.is_none()) {
        writeln!(out, "Unable to get node {} info", member.id)?;
    }
    writeln!(out, "\nMembership information\n----------------------")?;
    let device = if has_device { "   Qdevice " } else { "" };
    writeln!(out, "    Nodeid      Votes {device}Name")?;
    for member in &state.members {
        let info = member.info.clone().unwrap_or_default();
        write!(out, "{} {:>10} ", shown_id(member.id, ids), info.votes)?;
        if has_device {
            write!(out, "{:>10} ", device_state(&info))?;
        }
        write!(out, "{}", called(member, names))?;
        let local = if member.id == state.node {
            " (local)"
        } else {
            ""
        };
        writeln!(out, "{local}")?;
    }
    if has_device {
        write_device(out, state, ids)?;
    }
    Ok(())
}

/// The row of the device. Where this node does not have its vote, it counts as none.
fn write_device(out: &mut String, state: &State, ids: IdForm) -> std::fmt::Result {
    let first = state.members.first().and_then(|it| it.info.clone());
    let Info {
        device_votes,
        device_name,
        ..
    } = first.unwrap_or_default();
    let own = state.members.iter().find(|it| it.id == state.node);
    let own = own
        .and_then(|it| it.info.as_ref())
        .map_or(0, |info| info.flags);
    let id = shown_id(0, ids);
    if own & flags::DEVICE_CAST_VOTE != 0 {
        writeln!(out, "{id} {device_votes:>10}            {device_name}")
    } else {
        let none = 0;
        writeln!(
            out,
            "{id} {none:>10}            {device_name} (votes {device_votes})"
        )
    }
}

fn shown_id(id: u32, form: IdForm) -> String {
    match form {
        IdForm::Hex => format!("0x{id:08x}"),
        IdForm::Decimal => format!("{id:>10}"),
    }
}

/// How a node stands to the device.
pub(super) fn device_state(info: &Info) -> String {
    let is = |flag| info.flags & flag != 0;
    if !is(flags::DEVICE_REGISTERED) {
        return "NR".to_owned();
    }
    let part = |flag, yes, no| if is(flag) { yes } else { no };
    // The original has room for nine characters.
    let text = format!(
        "{},{},{}",
        part(flags::DEVICE_ALIVE, "A", "NA"),
        part(flags::DEVICE_CAST_VOTE, "V", "NV"),
        part(flags::DEVICE_MASTER_WINS, "MW", "NMW")
    );
    text.chars().take(9).collect()
}

fn called(member: &Member, form: NameForm) -> String {
    match (&member.address, form) {
        (Err(_), _) => String::new(),
        (Ok(address), NameForm::Address) => address.to_string(),
        (Ok(_), NameForm::Name) => member.name.clone(),
    }
}

/// What goes to standard error beside the blocks.
#[must_use]
pub fn complaints(state: &State) -> Vec<String> {
    let complaint = |member: &Member| {
        let status = member.address.err()?;
        let (id, code) = (member.id, super::ask::code(status));
        Some(format!(
            "Unable to get node address for nodeid {id}: {code}"
        ))
    };
    state.members.iter().filter_map(complaint).collect()
}
