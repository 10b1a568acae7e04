//! Programs that start themselves again as clients on hosts: `PROGRAM OPTION ID CONTROLLER`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Runs the client, if this process was started as one.
pub fn run_if_asked(
    option: &str,
    run: impl FnOnce(usize, &Path) -> Result<()>,
) -> Option<Result<()>> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != option {
        return None;
    }
    let id = args
        .next()?
        .to_str()?
        .parse()
        .context("no number of a host");
    let controller = PathBuf::from(args.next()?);
    Some(id.and_then(|id| run(id, &controller)))
}
