//! `token`: one-time tokens that let a node join.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::change::{need_root, show_plan};
use super::show;
use crate::cert::fingerprint;
use crate::cli::{Format, Token, TokenAction};
use crate::failure::{Failure, Outcome};
use crate::host::{Host, calendar, pve};
use crate::serve::token::{JoinToken, Tokens};
use crate::tell::tell;

/// Makes, lists or revokes tokens.
///
/// # Errors
/// When there is no quorum, no cluster, or no such token.
pub fn run(host: &Host, args: &Token) -> Outcome {
    need_root()?;
    let tokens = Tokens::of(&host.paths);
    match &args.action {
        None => make(host, &tokens, args),
        Some(TokenAction::List) => list(host, &tokens, args.output_format),
        Some(TokenAction::Revoke { id, dry_run }) => revoke(host, &tokens, id, *dry_run),
    }
}

fn make(host: &Host, tokens: &Tokens, args: &Token) -> Outcome {
    pve::need_quorum(&host.paths)?;
    if !host.paths.cluster_conf().exists() {
        return Err(Failure::refused(
            "this node is in no cluster: make one with 'pvecm create'",
        ));
    }
    let address = host.address()?.to_string();
    let fingerprint = fingerprint(host, host.name.as_str())?;
    if args.dry_run {
        let minutes = args.minutes;
        return show_plan(&[format!(
            "make a token for one node and {minutes} minutes, that leads to '{address}'"
        )]);
    }
    let lifetime = Duration::from_secs(u64::from(args.minutes) * 60);
    let (id, secret) = tokens.create(&host.name, lifetime)?;
    let token = JoinToken {
        id,
        secret,
        address,
        fingerprint,
    };
    let text = token.text();
    match args.output_format {
        Format::Json => {
            let expires = (calendar() + lifetime).as_secs();
            let id = token.id.to_string();
            let made = json!({"id": id, "token": *text, "expires": expires});
            show(&format!("{made}\n"))
        }
        Format::Text => {
            // Scripts take the token from standard output, people read the rest beside it.
            tell(&format!(
                "Token {} lets one node join within {} minutes. It is shown this once:",
                token.id, args.minutes
            ));
            show(&format!("{}\n", *text))?;
            tell("On the new node, with the token on standard input: pvecm add --token-file -");
            Ok(())
        }
    }
}

fn list(host: &Host, tokens: &Tokens, format: Format) -> Outcome {
    pve::need_mount(&host.paths)?;
    let listed = tokens.list()?;
    if format == Format::Json {
        return show(&format!("{}\n", json!(listed)));
    }
    let now = calendar().as_secs();
    let mut text = format!("{:<16}  {:<7}  {}\n", "ID", "EXPIRES", "MADE ON");
    for token in listed {
        let minutes = token.expires.saturating_sub(now).div_ceil(60);
        let left = format!("{minutes} min");
        // Writing to a string does not fail.
        writeln!(text, "{:<16}  {left:<7}  {}", token.id, token.node).ok();
    }
    show(&text)
}

fn revoke(host: &Host, tokens: &Tokens, id: &str, dry_run: bool) -> Outcome {
    pve::need_quorum(&host.paths)?;
    let unknown = || Failure::refused(format!("no token '{id}': 'pvecm token list' shows them"));
    let parsed = id.parse().map_err(|_| unknown())?;
    if dry_run {
        let is_listed = tokens.list()?.iter().any(|token| token.id == id);
        return match is_listed {
            true => show_plan(&[format!("make token {id} useless")]),
            false => Err(unknown()),
        };
    }
    if tokens.revoke(&parsed)? {
        show(&format!("Token {id} is revoked.\n"))
    } else {
        Err(unknown())
    }
}
