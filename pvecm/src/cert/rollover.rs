//! The cluster's authority gets a new key, without a moment in which a certificate is refused.
//!
//! | step | `pve-root-ca.pem` | who signs |
//! |---|---|---|
//! | announce | the old certificate, then the new one: both are trusted | the old key |
//! | switch | the new one, then the old one | the new key: each node gets a certificate of it |
//! | finish | the new one | the new key |
//!
//! Between announcing and switching, whoever has a copy of the file takes the new one. The last step
//! is refused while a node still shows a certificate of the old key.
//!
//! Invariants: a key is in its file before its certificate is; the certificate of the key that signs
//! is in the file at every moment, so a command that was killed at any point is just run again.

use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509Ref};

use super::x509;
use super::{Facts, ca};
use crate::failure::{Failure, Outcome};
use crate::host::changes::Changes;
use crate::host::files::{PUBLIC, SECRET};
use crate::host::{Host, Paths, pve};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// There is one authority.
    None,
    /// The new one is trusted, and signs nothing yet.
    Announced,
    /// The new one signs, the old one is still trusted.
    Switched,
}

struct State {
    key: PKey<Private>,
    next: Option<PKey<Private>>,
    /// Certificates in the file, in order.
    bundle: Vec<X509>,
}

impl State {
    fn read(host: &Host) -> Outcome<Self> {
        let paths = &host.paths;
        let key = x509::key(&paths.pve("priv/pve-root-ca.key"))?.or_nothing()?;
        let bundle = x509::bundle(&ca::path(paths))?;
        let has_own = |key: &PKey<Private>| {
            let mut own = bundle.iter().filter(|it| x509::is_of(it, key));
            own.any(|it| ca::is_ours(it))
        };
        match key {
            Some(key) if has_own(&key) => Ok(Self {
                next: x509::key(&next(paths))?.or_nothing()?,
                key,
                bundle,
            }),
            _ if bundle.first().is_some_and(|first| !ca::is_ours(first)) => Err(Failure::refused(
                "the authority is not the cluster's own: whoever made it has to make a new one",
            )),
            _ => Err(Failure::refused(
                "the cluster's authority is not complete: run 'pvecm updatecerts' first",
            )),
        }
    }

    /// The next key, as long as it does not sign.
    fn waiting(&self) -> Option<&PKey<Private>> {
        self.next.as_ref().filter(|next| !next.public_eq(&self.key))
    }

    fn has(&self, key: &PKey<Private>) -> bool {
        self.bundle.iter().any(|it| x509::is_of(it, key))
    }

    /// Certificates of the key that signs.
    fn own(&self) -> impl Iterator<Item = &X509> {
        self.bundle.iter().filter(|it| x509::is_of(it, &self.key))
    }

    fn others(&self) -> impl Iterator<Item = &X509> {
        self.bundle.iter().filter(|it| !x509::is_of(it, &self.key))
    }

    fn phase(&self) -> Phase {
        match self.waiting() {
            Some(next) if self.has(next) => Phase::Announced,
            Some(_) => Phase::None,
            None if self.others().next().is_some() => Phase::Switched,
            None => Phase::None,
        }
    }
}

fn next(paths: &Paths) -> std::path::PathBuf {
    paths.pve("priv/pve-root-ca-next.key")
}

/// How far it is; nothing where the authority is not the cluster's own.
#[must_use]
pub fn phase(host: &Host) -> Phase {
    State::read(host).map_or(Phase::None, |state| state.phase())
}

/// One of the three steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// Make the new authority and have it trusted beside the old one
    Announce,
    /// Have the new authority sign
    Switch,
    /// End trust in the old authority
    Finish,
}

/// Does a step, where it is not done yet, and returns how far it is then and what comes next.
///
/// # Errors
/// When it may not be done yet, or a file can not be written.
pub fn step(
    changes: &mut Changes<'_>,
    facts: &Facts,
    wanted: Step,
) -> Outcome<(Phase, &'static str)> {
    let state = State::read(changes.host())?;
    match (wanted, state.phase()) {
        (Step::Announce, Phase::None) => announce(changes, &state, facts)?,
        (Step::Switch, Phase::Announced) => switch(changes, &state)?,
        (Step::Finish, Phase::Switched) => finish(changes, &state)?,
        (Step::Switch, Phase::Switched) => complete(changes, &state)?,
        (Step::Announce, Phase::Announced) => {}
        (Step::Finish, Phase::None) => {
            return Ok((Phase::None, "no new authority is on its way"));
        }
        (Step::Announce, Phase::Switched) => {
            return Err(Failure::refused(
                "a new authority signs already: 'pvecm certs rollover finish' comes before another one",
            ));
        }
        (Step::Switch, Phase::None) => {
            return Err(Failure::refused(
                "there is no new authority that could sign: 'pvecm certs rollover announce' makes one",
            ));
        }
        (Step::Finish, Phase::Announced) => {
            return Err(Failure::refused(
                "the old authority still signs: 'pvecm certs rollover switch' has the new one do that",
            ));
        }
    }
    Ok(match wanted {
        Step::Announce => (
            Phase::Announced,
            "both authorities are trusted, the old one signs: give pve-root-ca.pem to browsers and \
             programs that have a copy of it, then have the new one sign with 'pvecm certs rollover switch'",
        ),
        Step::Switch => (
            Phase::Switched,
            "the new authority signs: each node gets a certificate of it within an hour, or at once \
             with 'pvecm updatecerts' on it; when all have one, end trust in the old with 'pvecm certs \
             rollover finish'",
        ),
        Step::Finish => (Phase::None, "the old authority is trusted no more"),
    })
}

fn announce(changes: &mut Changes<'_>, state: &State, facts: &Facts) -> Outcome {
    if !changes.due("make the next key of the cluster's authority, and have it trusted")? {
        return Ok(());
    }
    let paths = &changes.host().paths;
    let key = match state.waiting() {
        // Whoever made it did not come to its certificate.
        Some(key) => key.clone(),
        None => {
            let key = x509::new_key(ca::KEY_BITS)?;
            changes.put(&next(paths), &x509::key_text(&key)?, SECRET)?;
            key
        }
    };
    let made = ca::issue(&key, None, facts.now);
    let made = made.map_err(|error| x509::failed("the certificate authority", &error))?;
    write(changes, state.own().chain(state.others()).chain([&made]))
}

fn switch(changes: &mut Changes<'_>, state: &State) -> Outcome {
    if !changes.due("have the next key of the cluster's authority sign")? {
        return Ok(());
    }
    let Some(key) = state.waiting() else {
        return Ok(());
    };
    let paths = &changes.host().paths;
    let text = x509::key_text(key)?;
    changes.put(&paths.pve("priv/pve-root-ca.key"), &text, SECRET)?;
    let (new, old): (Vec<&X509>, Vec<&X509>) =
        state.bundle.iter().partition(|it| x509::is_of(it, key));
    write(changes, new.into_iter().chain(old))?;
    changes.absent(&next(paths))
}

/// Does what a switch that was killed has left to do: its key signs already.
fn complete(changes: &mut Changes<'_>, state: &State) -> Outcome {
    let is_first = state
        .bundle
        .first()
        .is_some_and(|it| x509::is_of(it, &state.key));
    if is_first && state.next.is_none() {
        return Ok(());
    }
    if changes.due("put the certificate of the authority that signs first")? {
        write(changes, state.own().chain(state.others()))?;
        changes.absent(&next(&changes.host().paths))?;
    }
    Ok(())
}

fn finish(changes: &mut Changes<'_>, state: &State) -> Outcome {
    let behind = behind(changes.host(), &state.key)?;
    if !behind.is_empty() {
        return Err(Failure::refused(format!(
            "nodes still have a certificate of the old authority: {}; run 'pvecm updatecerts' there, or \
             remove what is left of them with 'pvecm delnode --purge'",
            behind.join(", ")
        )));
    }
    if changes.due("end trust in the old authority of the cluster")? {
        write(changes, state.own())?;
        changes.absent(&next(&changes.host().paths))?;
    }
    Ok(())
}

/// Nodes whose certificate is from another authority like ours.
fn behind(host: &Host, key: &PKey<Private>) -> Outcome<Vec<String>> {
    let mut behind = Vec::new();
    for node in pve::node_directories(&host.paths) {
        let found = x509::certificate(&host.paths.node(&node, "pve-ssl.pem"))?.usable();
        let is_behind =
            |it: &X509Ref| super::node::is_of_a_cluster(it) && !it.verify(key).unwrap_or(false);
        if found.is_some_and(|it| is_behind(&it)) {
            behind.push(node);
        }
    }
    Ok(behind)
}

fn write<'a>(changes: &Changes<'_>, bundle: impl Iterator<Item = &'a X509>) -> Outcome {
    let text = x509::bundle_text(bundle)?;
    changes.put(&ca::path(&changes.host().paths), &text, PUBLIC)
}
