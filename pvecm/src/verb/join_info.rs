//! `join-info`: what a node needs to join this cluster.

use super::show;
use crate::cli::JoinInfo;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, pve};
use crate::info::{self, ConfView};

/// Shows it, as JSON or as the one line.
///
/// # Errors
/// When this node is in no cluster.
pub fn run(host: &Host, args: &JoinInfo) -> Outcome {
    pve::need_mount(&host.paths)?;
    let conf = ConfView::read(&host.paths)?
        .ok_or_else(|| Failure::refused("node is not in a cluster, no join info available!"))?;
    let info = info::join_info(host, &conf, host.name.as_str())?;
    let text = if args.base64 {
        info::line(&info)?
    } else {
        serde_json::to_string_pretty(&info).unwrap_or_default()
    };
    show(&format!("{text}\n"))
}
