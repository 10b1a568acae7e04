//! Root's own key and the settings of its client.

use std::fs;
use std::path::PathBuf;

use super::keys::entries;
use crate::failure::Outcome;
use crate::host::changes::Changes;
use crate::host::command::program;
use crate::host::files::{self, PUBLIC, SECRET, failed};
use crate::tell::announce;

/// Mode of root's SSH directory.
pub const DIRECTORY: u32 = 0o700;
/// Mode of the client's settings.
const CONFIG_MODE: u32 = 0o640;
/// Ciphers that processors are fast at come first.
const CONFIG: &str = "Ciphers aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,\
                      aes256-gcm@openssh.com,chacha20-poly1305@openssh.com\n";

/// Makes root's key if there is none. Either half is never replaced.
pub fn key(changes: &mut Changes<'_>, silent: bool) -> Outcome {
    let paths = &changes.host().paths;
    let (private, public) = (paths.ssh("id_rsa"), paths.ssh("id_rsa.pub"));
    changes.directory(&paths.ssh(""), DIRECTORY)?;
    changes.protected(&private, SECRET)?;
    if public.exists() {
        return Ok(());
    }
    let comment = format!("root@{}", changes.host().name);
    if private.exists() {
        if changes.due(format!("write '{}'", public.display()))? {
            let key = private.to_string_lossy();
            // The empty passphrase keeps it from asking.
            let text = program("ssh-keygen", ["-y", "-P", "", "-f", &key]).output();
            let text = text.map_err(|failure| {
                failure.within("SSH between nodes needs a key of root without a passphrase")
            })?;
            let words = entries(text.as_bytes())
                .next()
                .map(|entry| entry.key.text());
            let words = words.unwrap_or_default();
            files::replace(&public, format!("{words} {comment}\n").as_bytes(), PUBLIC)?;
        }
        return Ok(());
    }
    if changes.due(format!("make the SSH key '{}'", private.display()))? {
        make(&private, &public, &comment, silent)?;
    }
    Ok(())
}

/// Makes a key under another name first: whoever stops it leaves no half of one.
fn make(private: &PathBuf, public: &PathBuf, comment: &str, silent: bool) -> Outcome {
    let mut beside = private.as_os_str().to_owned();
    beside.push(format!(".tmp.{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let beside_public = PathBuf::from({
        let mut name = beside.as_os_str().to_owned();
        name.push(".pub");
        name
    });
    files::remove(&beside)?;
    let path = beside.to_string_lossy();
    let args = [
        "-t", "rsa", "-b", "4096", "-N", "", "-C", comment, "-f", &path,
    ];
    // Nobody has to listen, which the program itself would not bear.
    let made = program("ssh-keygen", args).output();
    let moved = made.and_then(|said| {
        if !silent {
            let named = said.replace(&*path, &private.to_string_lossy());
            announce(named.trim_end());
        }
        fs::rename(&beside, private).map_err(|error| failed("make", private, &error))?;
        fs::rename(&beside_public, public).map_err(|error| failed("make", public, &error))
    });
    if moved.is_err() {
        drop(files::remove(&beside));
        drop(files::remove(&beside_public));
    }
    moved
}

/// Writes the settings of root's client if there are none.
pub fn config(changes: &mut Changes<'_>) -> Outcome {
    let path = changes.host().paths.ssh("config");
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    changes.file(&path, CONFIG.as_bytes(), CONFIG_MODE)
}
