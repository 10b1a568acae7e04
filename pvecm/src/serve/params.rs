//! Parameters of a call are taken one by one; what is wrong, missing or left over is told together.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::answer::ApiError;
use super::form::Values;
use crate::cli::Links;
use crate::value::LINK_MAX;

const MISSING: &str = "property is missing and it is not optional";
const UNKNOWN: &str =
    "property is not defined in schema and the schema does not allow additional properties";

/// Parameters that have not been taken yet.
#[derive(Debug)]
pub struct Params {
    values: Values,
    errors: BTreeMap<String, String>,
}

impl Params {
    /// All parameters of a request.
    #[must_use]
    pub fn new(mut values: Values) -> Self {
        // Only there so that nobody between takes the answer of another call for it.
        values.remove("_dc");
        Self {
            values,
            errors: BTreeMap::new(),
        }
    }

    /// A text of at most `longest` characters.
    pub fn text(&mut self, name: &str, longest: usize) -> Option<String> {
        let mut values = self.values.remove(name)?;
        let value = values.pop()?;
        if !values.is_empty() {
            self.wrong(name, "type check ('string') failed - got ARRAY");
            return None;
        }
        if value.chars().count() > longest {
            self.wrong(
                name,
                &format!("value may only be {longest} characters long"),
            );
            return None;
        }
        Some(value)
    }

    /// A text that must be there.
    pub fn needed(&mut self, name: &str, longest: usize) -> String {
        if !self.values.contains_key(name) {
            self.wrong(name, MISSING);
        }
        self.text(name, longest).unwrap_or_default()
    }

    /// A whole number.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let text = self.text(name, usize::MAX)?;
        match text.parse::<i64>() {
            Ok(number) if number < i64::from(*range.start()) => {
                let least = range.start();
                self.wrong(name, &format!("value must have a minimum value of {least}"));
                None
            }
            Ok(number) => match u32::try_from(number) {
                Ok(number) if range.contains(&number) => Some(number),
                _ => {
                    let most = range.end();
                    self.wrong(name, &format!("value must have a maximum value of {most}"));
                    None
                }
            },
            Err(_) => {
                let text = excerpt(&text);
                self.wrong(
                    name,
                    &format!("type check ('integer') failed - got '{text}'"),
                );
                None
            }
        }
    }

    /// Yes or no; no if it is not there.
    pub fn boolean(&mut self, name: &str) -> bool {
        let Some(text) = self.text(name, usize::MAX) else {
            return false;
        };
        match text.to_ascii_lowercase().as_str() {
            "1" | "on" | "yes" | "true" => true,
            "0" | "off" | "no" | "false" => false,
            _ => {
                let text = excerpt(&text);
                self.wrong(
                    name,
                    &format!("type check ('boolean') failed - got '{text}'"),
                );
                false
            }
        }
    }

    /// A value that says itself what is wrong with it.
    pub fn parsed<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(name, 1024)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(name, &format!("invalid format - {error}"));
                None
            }
        }
    }

    /// Such a value that must be there.
    pub fn needed_parsed<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        if !self.values.contains_key(name) {
            self.wrong(name, MISSING);
        }
        self.parsed(name)
    }

    /// `link0` to `link7`.
    pub fn links(&mut self) -> Links {
        let mut links = Links::default();
        let places = [
            &mut links.link0,
            &mut links.link1,
            &mut links.link2,
            &mut links.link3,
            &mut links.link4,
            &mut links.link5,
            &mut links.link6,
            &mut links.link7,
        ];
        for (number, place) in (0..=LINK_MAX).zip(places) {
            *place = self.parsed(&format!("link{number}"));
        }
        links
    }

    /// All that is left, by name.
    pub fn rest(&mut self) -> Values {
        std::mem::take(&mut self.values)
    }

    /// Notes what is wrong with a parameter; the first fault counts.
    pub fn wrong(&mut self, name: &str, error: &str) {
        let known = self.errors.entry(name.to_owned());
        known.or_insert_with(|| error.to_owned());
    }

    /// Everything has been taken.
    ///
    /// # Errors
    /// All that was wrong, and what nobody has taken.
    pub fn finish(mut self) -> Result<(), ApiError> {
        for name in std::mem::take(&mut self.values).into_keys() {
            self.wrong(excerpt(&name), UNKNOWN);
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::parameters(self.errors))
        }
    }
}

/// The beginning of what somebody sent.
fn excerpt(text: &str) -> &str {
    let end = text.char_indices().nth(64).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> Params {
        let mut values = Values::new();
        super::super::form::decode_form(text.as_bytes(), &mut values).unwrap();
        Params::new(values)
    }

    #[test]
    fn what_is_wrong_is_told_together() {
        let mut params = params("votes=-1&nodeid=x&force=2&link0=a_b&stray=1&name=a&name=b");
        params.integer("votes", 0..=u32::MAX);
        params.integer("nodeid", 1..=u32::MAX);
        params.boolean("force");
        params.links();
        params.needed("hostname", 10);
        params.text("name", 10);
        let error = params.finish().unwrap_err();
        assert_eq!(error.status, 400);
        let told: Vec<_> = error.errors.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        assert_eq!(
            told,
            [
                ("force", "type check ('boolean') failed - got '2'"),
                ("hostname", MISSING),
                (
                    "link0",
                    "invalid format - 'a_b' is neither an IP address nor a host name"
                ),
                ("name", "type check ('string') failed - got ARRAY"),
                ("nodeid", "type check ('integer') failed - got 'x'"),
                ("stray", UNKNOWN),
                ("votes", "value must have a minimum value of 0"),
            ]
        );
    }

    #[test]
    fn values_are_taken() {
        let mut params = params("votes=0&force=1&link1=10.0.0.1,priority=3&_dc=5&text=abc");
        assert_eq!(params.integer("votes", 0..=9), Some(0));
        assert!(params.boolean("force"));
        assert!(!params.boolean("other"));
        assert_eq!(params.links().given()[&1].address, "10.0.0.1");
        assert_eq!(params.text("text", 3).as_deref(), Some("abc"));
        assert_eq!(params.finish(), Ok(()));
    }
}
