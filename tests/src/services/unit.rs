//! Unit files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Where a host has them.
pub(super) const UNITS: &str = "/etc/systemd/system";

/// When a service counts as started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// At once.
    #[default]
    Simple,
    /// When it says so.
    Notify,
    /// When what was started has ended, and has left a process.
    Forking,
}

/// A unit file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) before: Vec<String>,
    pub(super) wants: Vec<String>,
    /// Paths that have to be there, or must not be, for it to be started.
    pub(super) conditions: Vec<(PathBuf, bool)>,
    pub(super) pid_file: Option<PathBuf>,
    /// Run before it starts.
    pub(super) prepare: Vec<Vec<String>>,
    pub(super) start: Vec<String>,
    pub(super) stop: Option<Vec<String>>,
    pub(super) reload: Option<Vec<String>>,
}

impl Unit {
    /// Reads the unit of that name, with or without `.service`.
    pub(super) fn load(name: &str) -> Result<Self> {
        let name = name.strip_suffix(".service").unwrap_or(name);
        ensure!(
            !name.contains('/') && !name.is_empty(),
            "'{name}' is no unit"
        );
        // A link is another name of a unit.
        let path = Path::new(UNITS).join(format!("{name}.service"));
        let path = fs::canonicalize(&path)
            .with_context(|| format!("Unit {name}.service not found in {UNITS}."))?;
        let name = path.file_stem().and_then(|name| name.to_str());
        let text = fs::read_to_string(&path)?;
        Self::parse(name.unwrap_or_default(), &text).with_context(|| path.display().to_string())
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut unit = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        let is_setting = |line: &&str| !line.is_empty() && !line.starts_with(['#', ';', '[']);
        for line in text.lines().map(str::trim).filter(is_setting) {
            let (key, value) = line
                .split_once('=')
                .with_context(|| format!("no '=' in '{line}'"))?;
            unit.set(key, value)?;
        }
        ensure!(!unit.start.is_empty(), "no ExecStart=");
        Ok(unit)
    }

    /// What has no meaning for a test host is passed over.
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let words = || -> Vec<String> { value.split_whitespace().map(str::to_owned).collect() };
        let units = || words().into_iter().map(|unit| unit.replace(".service", ""));
        match key {
            "Type" => self.kind = kind(value)?,
            "Before" => self.before.extend(units()),
            "Wants" => self.wants.extend(units()),
            "ConditionPathExists" => {
                let absent = value.strip_prefix('!');
                let path = absent.unwrap_or(value).into();
                self.conditions.push((path, absent.is_none()));
            }
            "PIDFile" => self.pid_file = Some(value.into()),
            "ExecStartPre" => self.prepare.push(words()),
            "ExecStart" => self.start = words(),
            "ExecStop" => self.stop = Some(words()),
            "ExecReload" => self.reload = Some(words()),
            _ => {}
        }
        Ok(())
    }
}

fn kind(word: &str) -> Result<Kind> {
    match word {
        "simple" | "exec" => Ok(Kind::Simple),
        "notify" | "notify-reload" => Ok(Kind::Notify),
        "forking" => Ok(Kind::Forking),
        _ => bail!("Type={word} is not known here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        let text = "[Unit]\nBefore=b.service c\n# Wants=x\nConditionPathExists=/a\nConditionPathExists=!/b\n[Service]\n\
                    Type=notify\nExecStart=/bin/a --foreground\nExecReload=kill -HUP $MAINPID\n";
        let unit = Unit::parse("a", text).unwrap();
        assert_eq!(unit.kind, Kind::Notify);
        assert_eq!(unit.before, ["b", "c"]);
        assert_eq!(unit.conditions, [("/a".into(), true), ("/b".into(), false)]);
        assert_eq!(unit.start, ["/bin/a", "--foreground"]);
        assert_eq!(unit.reload.unwrap().len(), 3);
        assert!(Unit::parse("a", "[Service]\n").is_err());
        assert!(Unit::parse("a", "Type=odd\nExecStart=a\n").is_err());
    }
}
