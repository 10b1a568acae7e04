//! `datacenter.cfg`: what goes for the whole cluster, shown and changed.
//!
//! Invariant: a change keeps every line that it is not about, also those with keys not known here.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::super::answer::ApiError;
use super::super::form::percent_decode;
use super::super::params::Params;
use crate::host::files::{self, PUBLIC};
use crate::host::lock::ClusterLock;
use crate::host::{Host, Paths, pve};

/// Guests get numbers from here on.
const LOWER: u32 = 100;
/// And below this one.
const UPPER: u32 = 1_000_000;
/// Cards of guests begin so, and that is not written.
const MAC_PREFIX: &str = "BC:24:11";
/// Longest value.
const VALUE_MAX: usize = 64 * 1024;
/// Text that is written as comments.
const DESCRIPTION: &str = "description";

/// What a value may be.
#[derive(Clone, Copy)]
enum Kind {
    /// Any line of text.
    Text,
    /// Yes or no.
    Bool,
    /// A number of at least one.
    Count,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// `a=1,b=2` of these keys, the first of which may go without its name; shown as it is written.
    Line(&'static [&'static str]),
    /// The same, shown as an object.
    Object(&'static [&'static str]),
    /// Words with semicolons between them, shown as a list.
    Words,
}

const TRANSFER: &[&str] = &["type", "network"];
const LIMITS: &[&str] = &["default", "clone", "migration", "move", "restore"];

const KEYS: &[(&str, Kind)] = &[
    ("bwlimit", Kind::Line(LIMITS)),
    ("consent-text", Kind::Text),
    (
        "console",
        Kind::OneOf(&["applet", "vv", "html5", "xtermjs"]),
    ),
    (
        "crs",
        Kind::Object(&[
            "ha",
            "ha-rebalance-on-start",
            "ha-auto-rebalance",
            "ha-auto-rebalance-threshold",
            "ha-auto-rebalance-method",
            "ha-auto-rebalance-hold-duration",
            "ha-auto-rebalance-margin",
        ]),
    ),
    ("email_from", Kind::Text),
    ("fencing", Kind::OneOf(&["watchdog", "hardware", "both"])),
    ("ha", Kind::Object(&["shutdown_policy"])),
    ("http_proxy", Kind::Text),
    ("keyboard", Kind::Text),
    ("language", Kind::Text),
    ("location", Kind::Line(&["latitude", "longitude", "name"])),
    ("mac_prefix", Kind::Text),
    ("max_workers", Kind::Count),
    ("migration", Kind::Object(TRANSFER)),
    ("migration_unsecure", Kind::Bool),
    ("next-id", Kind::Object(&["lower", "upper"])),
    (
        "notify",
        Kind::Object(&[
            "package-updates",
            "target-package-updates",
            "fencing",
            "target-fencing",
            "replication",
            "target-replication",
        ]),
    ),
    ("registered-tags", Kind::Words),
    ("replication", Kind::Object(TRANSFER)),
    (
        "tag-style",
        Kind::Object(&["shape", "color-map", "ordering", "case-sensitive"]),
    ),
    ("u2f", Kind::Object(&["appid", "origin"])),
    (
        "user-tag-access",
        Kind::Object(&["user-allow", "user-allow-list"]),
    ),
    (
        "webauthn",
        Kind::Object(&["rp", "origin", "id", "allow-subdomains"]),
    ),
];

/// The file: comments as one text, then values by key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Config {
    description: String,
    values: BTreeMap<String, String>,
}

pub fn show(host: &Host, params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    Ok(Config::read(&host.paths)?.shown().into())
}

pub fn change(host: &Host, mut params: Params) -> Result<Value, ApiError> {
    let removed = params.text("delete", VALUE_MAX).unwrap_or_default();
    let description = params.text(DESCRIPTION, VALUE_MAX);
    let mut changed = BTreeMap::new();
    for (key, kind) in KEYS {
        if let Some(value) = params.text(key, VALUE_MAX) {
            if let Err(error) = kind.check(&value) {
                params.wrong(key, &error);
            }
            changed.insert((*key).to_owned(), value);
        }
    }
    let removed = removed.split([',', ';', ' ', '\0']);
    let removed: Vec<&str> = removed.filter(|key| !key.is_empty()).collect();
    let is_known = |key: &str| key == DESCRIPTION || kind(key).is_some();
    if let Some(unknown) = removed.iter().find(|key| !is_known(key)) {
        params.wrong("delete", &format!("unknown option '{unknown}'"));
    }
    params.finish()?;
    pve::need_quorum(&host.paths)?;
    let _lock = ClusterLock::take(&host.paths.pve("priv/lock"), "file-datacenter_cfg")?;
    let mut config = Config::read(&host.paths)?;
    config.values.extend(changed);
    if let Some(description) = description {
        config.description = description;
    }
    for key in removed {
        config.values.remove(key);
        if key == DESCRIPTION {
            config.description.clear();
        }
    }
    let range = config.next_id();
    if range.start > range.end {
        let (lower, upper) = (range.start, range.end);
        let text = format!("lower ({lower}) <= upper ({upper}) boundary rule broken");
        return Err(ApiError::new(500, text));
    }
    let path = host.paths.pve("datacenter.cfg");
    files::replace(&path, config.text().as_bytes(), PUBLIC)?;
    Ok(Value::Null)
}

/// Numbers for new guests.
pub fn next_id(paths: &Paths) -> Result<Range<u32>, ApiError> {
    Ok(Config::read(paths)?.next_id())
}

fn kind(key: &str) -> Option<Kind> {
    let found = KEYS.iter().find(|(name, _)| *name == key);
    found.map(|(_, kind)| *kind)
}

impl Kind {
    fn check(self, value: &str) -> Result<(), String> {
        if value.chars().any(char::is_control) {
            return Err("invalid format - more than one line".to_owned());
        }
        match self {
            Self::Text | Self::Words => Ok(()),
            Self::Bool => match value {
                "0" | "1" => Ok(()),
                _ => Err("type check ('boolean') failed".to_owned()),
            },
            Self::Count => match value.parse::<u32>() {
                Ok(1..) => Ok(()),
                _ => Err("value must have a minimum value of 1".to_owned()),
            },
            Self::OneOf(words) if words.contains(&value) => Ok(()),
            Self::OneOf(words) => Err(format!(
                "value '{value}' does not have a value in the enumeration '{}'",
                words.join(", ")
            )),
            Self::Line(keys) | Self::Object(keys) => match properties(value, keys) {
                Ok(_) => Ok(()),
                Err(part) => Err(format!("invalid format - '{part}' is not known")),
            },
        }
    }
}

/// The parts of a value by key, or the part that has no known one.
fn properties<'a>(value: &'a str, keys: &[&'a str]) -> Result<BTreeMap<&'a str, &'a str>, &'a str> {
    let mut parts = BTreeMap::new();
    for part in value.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some(pair) => pair,
            None => (*keys.first().ok_or(part)?, part),
        };
        if !keys.contains(&key) {
            return Err(part);
        }
        parts.insert(key, value);
    }
    Ok(parts)
}

impl Config {
    fn read(paths: &Paths) -> Result<Self, ApiError> {
        let text = files::read(&paths.pve("datacenter.cfg"))?.unwrap_or_default();
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        let mut config = Self::default();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix('#') {
                let comment = percent_decode(comment.as_bytes(), false);
                config.description += &String::from_utf8_lossy(&comment);
                config.description.push('\n');
            } else if let Some((key, value)) = line.split_once(':') {
                let key = key.trim().to_owned();
                config.values.insert(key, value.trim().to_owned());
            }
        }
        config
    }

    fn text(&self) -> String {
        let comments = self.description.lines();
        let comments = comments.map(|line| format!("#{}\n", encode(line)));
        let mut text: String = comments.collect();
        text.push('\n');
        for (key, value) in &self.values {
            let value = match (key.as_str(), value.as_str()) {
                ("mac_prefix", prefix) if prefix.eq_ignore_ascii_case(MAC_PREFIX) => continue,
                ("crs", "") => continue,
                ("console", "applet") => "html5",
                (_, value) => value,
            };
            text += &format!("{key}: {value}\n");
        }
        text
    }

    fn shown(&self) -> Map<String, Value> {
        let mut shown = Map::new();
        shown.insert(DESCRIPTION.to_owned(), self.description.as_str().into());
        shown.insert("mac_prefix".to_owned(), MAC_PREFIX.into());
        for (key, value) in &self.values {
            let value = match kind(key) {
                None => continue,
                Some(Kind::Object(keys)) => match properties(value, keys) {
                    Ok(parts) if !parts.is_empty() => object(&parts),
                    _ => continue,
                },
                Some(Kind::Words) => words(value),
                Some(_) if key == "console" && value == "applet" => "html5".into(),
                Some(_) => value.as_str().into(),
            };
            shown.insert(key.clone(), value);
        }
        shown
    }

    fn next_id(&self) -> Range<u32> {
        let value = self.values.get("next-id").map_or("", String::as_str);
        let parts = properties(value, &["lower", "upper"]).unwrap_or_default();
        let number = |key, default| {
            let number = parts.get(key).and_then(|text| text.parse().ok());
            number.unwrap_or(default)
        };
        number("lower", LOWER)..number("upper", UPPER)
    }
}

fn object(parts: &BTreeMap<&str, &str>) -> Value {
    let part = |(key, value): (&&str, &&str)| {
        let value = match *key {
            "user-allow-list" => words(value),
            _ => (*value).into(),
        };
        ((*key).to_owned(), value)
    };
    Value::Object(parts.iter().map(part).collect())
}

fn words(value: &str) -> Value {
    let words = value.split(';').filter(|word| !word.is_empty());
    words.collect()
}

/// A line of the description as a comment holds it.
fn encode(line: &str) -> String {
    let byte = |byte: u8| match byte {
        b':' | b'%' | 0..b' ' | 0x7f.. => format!("%{byte:02X}"),
        byte => char::from(byte).to_string(),
    };
    line.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn options_are_shown_as_the_original_does() {
        let text = "#first%3A line\n#second\n\nmigration: secure,network=10.0.0.0/24\nnext-id: \
                    lower=200,upper=300\nregistered-tags: a;b\nconsole: applet\nother: kept\n\
                    user-tag-access: user-allow=list,user-allow-list=x;y\ncrs:\n";
        let config = Config::parse(text);
        let wanted = json!({
            "description": "first: line\nsecond\n",
            "mac_prefix": "BC:24:11",
            "migration": {"type": "secure", "network": "10.0.0.0/24"},
            "next-id": {"lower": "200", "upper": "300"},
            "registered-tags": ["a", "b"],
            "console": "html5",
            "user-tag-access": {"user-allow": "list", "user-allow-list": ["x", "y"]},
        });
        assert_eq!(Value::Object(config.shown()), wanted);
        assert_eq!(config.next_id(), 200..300);
        let written = config.text();
        assert!(written.starts_with("#first%3A line\n#second\n\nconsole: html5\n"));
        assert!(written.contains("\nother: kept\n"), "{written}");
        assert!(!written.contains("crs"), "{written}");
        assert_eq!(Config::default().text(), "\n");
    }

    #[test]
    fn values_are_checked() {
        let check = |key: &str, value: &str| kind(key).unwrap().check(value);
        assert!(check("max_workers", "4").is_ok());
        assert!(check("max_workers", "0").is_err());
        assert!(check("fencing", "both").is_ok());
        assert!(check("fencing", "none").is_err());
        assert!(check("migration", "insecure,network=10.0.0.0/8").is_ok());
        assert!(check("migration", "secure,speed=1").is_err());
        assert!(check("keyboard", "de\nha: x").is_err());
    }

    proptest! {
        #[test]
        fn any_description_comes_back(lines in proptest::collection::vec("[^\\n\\r]{0,30}", 0..4)) {
            let description: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let config = Config { description, ..Config::default() };
            prop_assert_eq!(Config::parse(&config.text()), config);
        }
    }
}
