//! A new key for the messaging daemon.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::change::show_plan;
use super::show;
use crate::cli::Keygen;
use crate::failure::{Failure, Outcome};
use crate::host::files::{self, KEY};

/// Size of a key in bytes, as Corosync makes them.
pub const KEY_SIZE: usize = 256;

/// Makes a key.
///
/// # Errors
/// When the file is there already, or can not be written.
pub fn run(args: &Keygen) -> Outcome {
    if args.dry_run {
        if args.filename.symlink_metadata().is_ok() {
            return Err(exists(&args.filename));
        }
        let key = args.filename.display();
        return show_plan(&[format!("write a new key to '{key}'")]);
    }
    show("Corosync Cluster Engine Authentication key generator.\n")?;
    show("Gathering 2048 bits for key from /dev/urandom.\n")?;
    write(&args.filename)?;
    show(&format!(
        "Writing corosync key to {}.\n",
        args.filename.display()
    ))
}

/// Writes a new key to `path`, which must not be there.
///
/// # Errors
/// When it is there, or can not be written.
pub fn write(path: &Path) -> Outcome {
    if let Some(directory) = path.parent() {
        files::make_directory(directory)?;
    }
    let mut key = [0; KEY_SIZE];
    let source = Path::new("/dev/urandom");
    let read = File::open(source).and_then(|mut file| file.read_exact(&mut key));
    read.map_err(|error| files::failed("read", source, &error))?;
    let open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(KEY)
        .open(path);
    let mut file = open.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => files::failed("make", path, &error),
    })?;
    let written = file.write_all(&key).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key would only be in the way of the next one.
        drop(fs::remove_file(path));
        files::failed("write", path, &error)
    })
}

fn exists(path: &Path) -> Failure {
    Failure::refused(format!("key file '{}' already exists", path.display()))
}
