//! The key that signs login tickets, and the secret against forged requests.
//!
//! The ticket key is changed once a day. The public key before it is kept: tickets live longer than
//! the moment of the change.
//!
//! Invariant: changes happen under the cluster's lock `authkey`; the public key of the key that
//! signs is there at any moment, as `authkey.pub` or `authkey.pub.old`.

use std::time::{Duration, UNIX_EPOCH};

use openssl::pkey::{PKey, PKeyRef, Private};

use super::x509;
use crate::failure::Outcome;
use crate::host::changes::{Changes, Mode};
use crate::host::files::{self, PUBLIC, SECRET};
use crate::host::lock::ClusterLock;
use crate::host::{Host, pve};

/// Size of both keys.
const KEY_BITS: u32 = 2048;
/// The ticket key is changed when it is older.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The cluster's lock for it.
const LOCK: &str = "authkey";

/// Makes what is not there.
pub(super) fn ensure(changes: &mut Changes<'_>) -> Outcome {
    let paths = &changes.host().paths;
    let secret = paths.pve("pve-www.key");
    if files::read(&secret)?.is_none_or(|text| text.is_empty())
        && changes.due("make the key that forged requests lack")?
    {
        let key = x509::key_text(&*x509::new_key(KEY_BITS)?)?;
        changes.put(&secret, &key, SECRET)?;
    }
    if !is_whole(changes.host())? && changes.due("make the key that signs tickets")? {
        let _lock = ClusterLock::take(&paths.pve("priv/lock"), LOCK)?;
        if !is_whole(changes.host())? {
            let key = match x509::key(&paths.pve("priv/authkey.key"))?.usable() {
                Some(key) => key,
                None => {
                    let key = x509::new_key(KEY_BITS)?;
                    let text = x509::key_text(&key)?;
                    changes.put(&paths.pve("priv/authkey.key"), &text, SECRET)?;
                    key
                }
            };
            changes.put(&paths.pve("authkey.pub"), &public_text(&key)?, PUBLIC)?;
        }
    }
    Ok(())
}

/// Changes the ticket key if it is older than a day; returns whether it did. `now` is the time since
/// 1970.
///
/// # Errors
/// When the cluster can not be written to, or somebody else changes it for long.
pub fn rotate(host: &Host, now: Duration) -> Outcome<bool> {
    pve::need_quorum(&host.paths)?;
    if !is_old(host, now) {
        return Ok(false);
    }
    let _lock = ClusterLock::take(&host.paths.pve("priv/lock"), LOCK)?;
    // Another node may have done it meanwhile.
    if !is_old(host, now) {
        return Ok(false);
    }
    let changes = Changes::new(host, Mode::Make, true);
    let public = host.paths.pve("authkey.pub");
    let key = x509::new_key(KEY_BITS)?;
    if let Some(old) = files::read(&public)? {
        changes.put(&host.paths.pve("authkey.pub.old"), &old, PUBLIC)?;
    }
    changes.put(&public, &public_text(&key)?, PUBLIC)?;
    let text = x509::key_text(&key)?;
    changes.put(&host.paths.pve("priv/authkey.key"), &text, SECRET)?;
    Ok(true)
}

fn is_old(host: &Host, now: Duration) -> bool {
    let changed = host.paths.pve("authkey.pub").metadata();
    let changed = changed.and_then(|it| it.modified()).ok();
    let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    changed.is_some_and(|changed| now.saturating_sub(changed) > AGE_MAX)
}

/// Whether both halves are there and belong together.
fn is_whole(host: &Host) -> Outcome<bool> {
    let key = x509::key(&host.paths.pve("priv/authkey.key"))?.usable();
    let public = files::read(&host.paths.pve("authkey.pub"))?.unwrap_or_default();
    let public = PKey::public_key_from_pem(&public).ok();
    Ok(key
        .zip(public)
        .is_some_and(|(key, public)| key.public_eq(&public)))
}

fn public_text(key: &PKeyRef<Private>) -> Outcome<Vec<u8>> {
    key.public_key_to_pem()
        .map_err(|error| x509::failed("the text of a public key", &error))
}
