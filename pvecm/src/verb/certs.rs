//! `certs`: shows the cluster's certificates, and gives its authority a new key.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::change::need_root;
use super::show;
use super::updatecerts::{self, UpdateOptions};
use crate::cert::Facts;
use crate::cert::list::{Listed, list};
use crate::cert::rollover::{self, Phase, Step};
use crate::cli::{Certs, CertsAction, Format};
use crate::failure::{Failure, Outcome};
use crate::host::changes::{Changes, Mode};
use crate::host::lock::{ClusterLock, NodeLock};
use crate::host::{Host, calendar, pve, wait};

/// What is written under the cluster's lock is written within this time: a key may take long.
const LOCK_USE: Duration = Duration::from_secs(100);

/// Shows or changes them.
///
/// # Errors
/// When a file can not be read, or a step not be done.
pub fn run(host: &Host, args: &Certs) -> Outcome {
    pve::need_mount(&host.paths)?;
    match args.action {
        None => show_all(host, args.output_format),
        Some(CertsAction::Rollover { step, dry_run }) => roll_over(host, step, dry_run),
    }
}

fn show_all(host: &Host, format: Format) -> Outcome {
    let all = list(host, calendar());
    let phase = rollover::phase(host);
    match format {
        Format::Json => show(&format!(
            "{:#}\n",
            json!({"rollover": phase, "certificates": all.certificates, "unusable": all.unusable})
        )),
        Format::Text => show(&text(&all, phase)),
    }
}

fn text(all: &Listed, phase: Phase) -> String {
    let mut text = String::new();
    for it in &all.certificates {
        // Writing to a string does not fail.
        writeln!(text, "{}\n  subject      {}", it.file, it.subject).ok();
        if it.node.is_some() {
            writeln!(text, "  issuer       {}", it.issuer).ok();
            writeln!(text, "  names        {}", it.names.join(", ")).ok();
        }
        writeln!(text, "  ends         {} ({} days)", it.ends, it.days).ok();
        writeln!(text, "  fingerprint  {}\n", it.fingerprint).ok();
    }
    if all.certificates.is_empty() && all.unusable.is_empty() {
        text += "there are no certificates yet: 'pvecm updatecerts' makes them\n";
    }
    for it in &all.unusable {
        writeln!(text, "{}: {}\n", it.file, it.error).ok();
    }
    text + match phase {
        Phase::None => "no new authority is on its way\n",
        Phase::Announced => {
            "a new authority is trusted and signs nothing yet: 'pvecm certs rollover switch' has it sign\n"
        }
        Phase::Switched => {
            "a new authority signs, the old one is still trusted: 'pvecm certs rollover finish' ends that when \
             all nodes have a certificate of the new one\n"
        }
    }
}

fn roll_over(host: &Host, step: Step, dry_run: bool) -> Outcome {
    need_root()?;
    let facts = Facts::of(host);
    if dry_run {
        rollover::step(&mut Changes::new(host, Mode::Say, false), &facts, step)?;
        return Ok(());
    }
    pve::need_quorum(&host.paths)?;
    let (phase, next) = {
        let _own = NodeLock::take(&host.paths.at("var/lock/pvecm-updatecerts.lock"))?;
        let _lock = ClusterLock::take(&host.paths.pve("priv/lock"), updatecerts::LOCK)?;
        let mut changes = Changes::new(host, Mode::Make, false).before(wait::now() + LOCK_USE);
        rollover::step(&mut changes, &facts, step)?
    };
    if phase == Phase::Switched {
        // This node begins; the service of the others does it by itself.
        let made = updatecerts::cluster_files(host, UpdateOptions::default());
        made.map_err(Failure::midway)?;
    }
    show(&format!("{next}\n"))
}
