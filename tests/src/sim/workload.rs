//! What clients do: names from a small pool, so that they get into each other's way.

use bytes::Bytes;
use pmxcfs::memdb::Op;

use super::{net::Node, node::name_of, rng::Rng};

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Deed {
    /// A change that is checked before it is sent.
    Change(Op),
    /// A change of a daemon that checks nothing.
    Unchecked(Op),
    /// Asks for the release of a lock.
    Unlock(Bytes),
    /// Sets a status key, or removes it.
    Key(Bytes, Bytes),
    /// Logs.
    Log(Bytes),
}

const DIRS: [&str; 5] = ["", "d1", "d2", "d1/sub", "priv"];
const FILES: [&str; 6] = ["a.cfg", "b.cfg", "c.cfg", "storage.cfg", "user.cfg", "x"];
const LOCKS: [&str; 3] = ["priv/lock/l1", "priv/lock/l2", "priv/lock/l3"];
const KINDS: [&str; 2] = ["qemu-server", "lxc"];

/// Changes that every cluster starts with.
#[must_use]
pub fn skeleton(nodes: usize) -> Vec<Op> {
    let mut dirs: Vec<String> = ["priv", "priv/lock", "nodes", "d1", "d2"]
        .map(String::from)
        .into();
    for node in 0..nodes {
        let name = name_of(node);
        dirs.push(format!("nodes/{name}"));
        dirs.extend(KINDS.map(|kind| format!("nodes/{name}/{kind}")));
    }
    dirs.into_iter()
        .map(|path| Op::Mkdir { path: path.into() })
        .collect()
}

fn file(rng: &mut Rng) -> Bytes {
    let (dir, name) = (rng.pick(&DIRS), rng.pick(&FILES));
    match *dir {
        "" => (*name).into(),
        dir => format!("{dir}/{name}").into(),
    }
}

fn directory(rng: &mut Rng) -> Bytes {
    (*rng.pick(&["d1", "d2", "d1/sub", "d2/sub", "empty", "d1/sub/deep"])).into()
}

fn guest(rng: &mut Rng, nodes: usize) -> Bytes {
    let node = name_of(rng.index(nodes));
    let (kind, id) = (rng.pick(&KINDS), rng.between(100, 103));
    format!("nodes/{node}/{kind}/{id}.conf").into()
}

fn any_file(rng: &mut Rng, nodes: usize) -> Bytes {
    if rng.chance(250) {
        guest(rng, nodes)
    } else {
        file(rng)
    }
}

fn data(rng: &mut Rng, node: Node) -> Bytes {
    let text = format!("n{} {:x}\n", node + 1, rng.below(u64::MAX));
    text.repeat(1 + rng.index(4)).into()
}

/// The next thing that a client of a node does.
pub fn deed(rng: &mut Rng, node: Node, nodes: usize, unchecked: bool) -> Deed {
    if unchecked && rng.chance(60) {
        return Deed::Unchecked(careless(rng));
    }
    match rng.below(100) {
        0..5 => Deed::Unlock((*rng.pick(&LOCKS)).into()),
        5..12 => Deed::Change(lock(rng)),
        12..17 => Deed::Log(format!("entry {:x}", rng.below(u64::MAX)).into()),
        17..24 => {
            let key = format!("key{}", rng.below(4)).into();
            let value = if rng.chance(200) {
                Bytes::new()
            } else {
                data(rng, node)
            };
            Deed::Key(key, value)
        }
        _ => Deed::Change(change(rng, node, nodes)),
    }
}

fn lock(rng: &mut Rng) -> Op {
    let path = Bytes::from(*rng.pick(&LOCKS));
    match rng.below(4) {
        0 => Op::Delete { path },
        1 => Op::Mtime {
            path,
            mtime: u32::try_from(1_700_000_000 + rng.below(200)).unwrap_or(0),
        },
        _ => Op::Mkdir { path },
    }
}

fn change(rng: &mut Rng, node: Node, nodes: usize) -> Op {
    let path = any_file(rng, nodes);
    match rng.below(20) {
        0..5 => Op::Create { path },
        5..9 => Op::Write {
            path,
            offset: 0,
            data: data(rng, node),
            truncate: true,
        },
        9..11 => Op::Write {
            path,
            offset: u32::try_from(rng.below(60)).unwrap_or(0),
            data: data(rng, node),
            truncate: false,
        },
        11 => Op::Write {
            path,
            offset: u32::try_from(rng.below(40)).unwrap_or(0),
            data: Bytes::new(),
            truncate: true,
        },
        12 => Op::Mkdir {
            path: directory(rng),
        },
        13 => Op::Delete {
            path: directory(rng),
        },
        14 => Op::Rename {
            from: directory(rng),
            to: directory(rng),
        },
        15..17 => Op::Delete { path },
        17 => Op::Mtime {
            path,
            mtime: u32::try_from(rng.below(1 << 31)).unwrap_or(0),
        },
        _ => Op::Rename {
            from: path,
            to: any_file(rng, nodes),
        },
    }
}

/// What other implementations let through: a length without data, a rename that fails half-way.
fn careless(rng: &mut Rng) -> Op {
    if rng.chance(600) {
        return Op::Write {
            path: file(rng),
            offset: u32::try_from(rng.between(1, 50)).unwrap_or(1),
            data: Bytes::new(),
            truncate: true,
        };
    }
    Op::Rename {
        from: directory(rng),
        to: directory(rng),
    }
}
