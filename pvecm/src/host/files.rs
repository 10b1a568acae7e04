//! Files are written whole.
//!
//! Invariant: a file that is there has either its old or its new content, also after a crash.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};

/// Mode of a file that anybody may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of a file that only root may read.
pub const SECRET: u32 = 0o600;
/// Mode of a key that nobody changes.
pub const KEY: u32 = 0o400;

/// Replaces a file: writes it beside, on disk before it gets its name.
///
/// The cluster file system sets modes by path and refuses others; there `mode` has no effect.
///
/// # Errors
/// Names the file. The old content stays.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Outcome {
    replace_as(path, content, mode, None)
}

/// User and group of a file.
pub type Owner = (u32, u32);

/// As [`replace`]; the file belongs to `owner` then, if one is given, else to who runs this.
///
/// # Errors
/// As [`replace`].
pub fn replace_as(path: &Path, content: &[u8], mode: u32, owner: Option<Owner>) -> Outcome {
    let beside = beside(path);
    let written = write_new(&beside, content, mode, owner).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        // What could not be made need not be there to be removed.
        drop(fs::remove_file(&beside));
        failed("write", path, &error)
    })?;
    sync_directory(path);
    Ok(())
}

/// The content of a file, or nothing if there is none.
///
/// # Errors
/// Names the file.
pub fn read(path: &Path) -> Outcome<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, &error)),
    }
}

/// Removes a file if it is there.
///
/// # Errors
/// Names the file.
pub fn remove(path: &Path) -> Outcome {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, &error))
        }
        _ => {
            sync_directory(path);
            Ok(())
        }
    }
}

/// Makes a directory and those above it.
///
/// # Errors
/// Names the directory.
pub fn make_directory(path: &Path) -> Outcome {
    fs::create_dir_all(path).map_err(|error| failed("make directory", path, &error))
}

/// A failure of an operation on a file.
pub fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("can not {what} '{}': {error}", path.display()))
}

/// Name of the file that is written first.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".tmp.{}", std::process::id()));
    name.into()
}

/// Names of what is in a directory.
///
/// # Errors
/// Names the directory.
pub fn names(directory: &Path) -> Outcome<Vec<OsString>> {
    let listed = fs::read_dir(directory).and_then(|listed| {
        let names = listed.map(|entry| entry.map(|entry| entry.file_name()));
        names.collect::<io::Result<Vec<OsString>>>()
    });
    listed.map_err(|error| failed("list", directory, &error))
}

fn write_new(path: &Path, content: &[u8], mode: u32, owner: Option<Owner>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    if let Some((user, group)) = owner {
        fchown(&file, Some(user), Some(group))?;
    }
    match file.set_permissions(Permissions::from_mode(mode)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        _ => {}
    }
    file.sync_all()
}

/// A name that changed is on disk when its directory is. A file system that can not do that keeps
/// names in order by itself.
fn sync_directory(path: &Path) {
    if let Some(directory) = path.parent()
        && let Ok(directory) = fs::File::open(directory)
    {
        drop(directory.sync_all());
    }
}
