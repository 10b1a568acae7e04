//! Reading the configuration, and the files beside it that say who may use the local services.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::config::{Config, ConfigError, Document, Host, Keys};

/// Beside the configuration: more `uidgid` sections.
const ACCESS_DIR: &str = "uidgid.d";
/// A file that is longer is not a configuration.
const FILE_MAX: u64 = 16 << 20;

/// Why there is no configuration.
#[derive(Debug)]
pub enum ReadError {
    /// A file can not be read.
    File(PathBuf, io::Error),
    /// What it says is not valid.
    Invalid(PathBuf, Box<ConfigError>),
}

impl ReadError {
    /// Exit code of a daemon that is started with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File(..) => super::cli::code::CONFIG,
            Self::Invalid(_, error) => error.exit_status(),
        }
    }

    /// Several lines for a person at a terminal.
    pub fn render(&self) -> String {
        match self {
            Self::File(..) => format!("{self}\n"),
            Self::Invalid(path, error) => error.render(&path.to_string_lossy()),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => {
                let number = error.raw_os_error().map(Errno::from_raw);
                let words = number.map_or_else(|| error.to_string(), |it| it.desc().to_owned());
                write!(f, "Can't read file {}: {words}", path.display())?;
                if error.kind() == io::ErrorKind::NotFound {
                    f.write_str("; name another with -c")?;
                }
                Ok(())
            }
            Self::Invalid(path, error) => {
                f.write_str(&error.original_message(&path.to_string_lossy()))
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// What is written, before anybody has understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// The configuration.
    pub main: Vec<u8>,
    /// The files beside it.
    pub access: Vec<(PathBuf, Vec<u8>)>,
}

/// Reads all files.
///
/// # Errors
/// The first file that can not be read.
pub fn texts(path: &Path) -> Result<Texts, ReadError> {
    let with_text = |path: PathBuf| contents(&path).map(|text| (path, text));
    Ok(Texts {
        main: contents(path)?,
        access: access_files(path)?
            .into_iter()
            .map(with_text)
            .collect::<Result<_, _>>()?,
    })
}

/// Reads all keys.
///
/// # Errors
/// The first file that can not be read, or the first line that is not valid.
pub fn keys(path: &Path, host: &dyn Host) -> Result<Keys, ReadError> {
    let invalid = |path: &Path| {
        let path = path.to_owned();
        move |error| ReadError::Invalid(path, Box::new(error))
    };
    let texts = texts(path)?;
    let document = Document::parse(&texts.main).map_err(invalid(path))?;
    let mut keys = Keys::read(&document, host).map_err(invalid(path))?;
    for (path, text) in &texts.access {
        let document = Document::parse(text).map_err(invalid(path))?;
        keys.read_uidgid(&document, host).map_err(invalid(path))?;
    }
    Ok(keys)
}

/// Reads a configuration that the daemon can be started with.
///
/// # Errors
/// As [`keys`], and when the whole does not fit together.
pub fn config(path: &Path, host: &dyn Host) -> Result<Config, ReadError> {
    Config::from_keys(keys(path, host)?, host)
        .map_err(|error| ReadError::Invalid(path.to_owned(), Box::new(error)))
}

fn contents(path: &Path) -> Result<Vec<u8>, ReadError> {
    let read = || {
        let mut bytes = Vec::new();
        // Devices and pipes do not tell how much they have.
        let mut file = fs::File::open(path)?.take(FILE_MAX + 1);
        file.read_to_end(&mut bytes)?;
        match file.limit() {
            0 => Err(io::ErrorKind::FileTooLarge.into()),
            _ => Ok(bytes),
        }
    };
    read().map_err(|error| ReadError::File(path.to_owned(), error))
}

fn access_files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let directory = path.parent().unwrap_or(Path::new("")).join(ACCESS_DIR);
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if fs::metadata(&path)?.is_file() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| ReadError::File(directory, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ThisHost;

    const CONF: &str = "totem {\n  version: 2\n  transport: knet\n}\nnodelist {\n  node {\n    \
        ring0_addr: 127.0.0.1\n    nodeid: 1\n  }\n}\n";

    #[test]
    fn users_of_the_directory_beside_the_file_are_added() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("corosync.conf");
        fs::write(&path, CONF).unwrap();
        let config = config(&path, &ThisHost).unwrap();
        assert_eq!(config.local_node().map(|node| node.id), Some(1));

        let directory = root.path().join("uidgid.d");
        fs::create_dir_all(directory.join("folder")).unwrap();
        fs::write(directory.join("a"), "uidgid {\n  uid: 33\n}\n").unwrap();
        fs::write(directory.join("b"), "uidgid {\n  gid: 44\n}\n").unwrap();
        let keys = keys(&path, &ThisHost).unwrap();
        assert_eq!(keys.number("uidgid.config.uid.33"), Some(1));
        assert_eq!(keys.number("uidgid.config.gid.44"), Some(1));
    }

    #[test]
    fn what_has_no_end_is_too_large() {
        let error = texts(Path::new("/dev/zero")).unwrap_err();
        let is_so = |error: &io::Error| error.kind() == io::ErrorKind::FileTooLarge;
        assert!(matches!(&error, ReadError::File(_, error) if is_so(error)));
    }

    #[test]
    fn errors_name_the_file_they_are_in() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("corosync.conf");
        let error = config(&path, &ThisHost).unwrap_err();
        assert_eq!(error.exit_code(), 8);
        assert!(error.render().contains("name another with -c"));
        fs::write(&path, CONF).unwrap();
        let directory = root.path().join("uidgid.d");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a"), "uidgid {\n  what\n}\n").unwrap();
        let error = config(&path, &ThisHost).unwrap_err();
        assert!(
            error.render().contains("uidgid.d/a:2:"),
            "{}",
            error.render()
        );
        fs::remove_file(directory.join("a")).unwrap();
        fs::write(&path, format!("{CONF}logging {{\n  debug: loud\n}}\n")).unwrap();
        let error = config(&path, &ThisHost).unwrap_err();
        assert_eq!(error.exit_code(), 7);
        assert!(
            error.render().contains("  debug: loud\n"),
            "{}",
            error.render()
        );
    }
}
