//! One line that says who to talk to: join information, or a join token.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::secret::Secret;
use crate::failure::{Failure, Outcome};
use crate::value::{Fingerprint, is_address};

/// Begins the text of each token.
const TOKEN_PREFIX: &str = "PVEJOIN1-";

/// Who to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Address or name of a member.
    pub address: String,
    /// Of its certificate.
    pub fingerprint: Fingerprint,
    /// What a request carries as `Authorization`, if there is a token.
    pub authorization: Option<Secret>,
}

/// Reads join information.
///
/// # Errors
/// When it is something else.
pub fn info(text: &str) -> Outcome<Carried> {
    let refused = |what: &str| {
        Failure::usage(format!(
            "--info: this is no join information: {what}; copy all of the line that 'pvecm join-info \
             --base64' shows"
        ))
    };
    // Terminals and mail programs break long lines.
    let packed: String = text.split_whitespace().collect();
    let json = STANDARD
        .decode(packed)
        .map_err(|_| refused("it is not base64"))?;
    let value: Value =
        serde_json::from_slice(&json).map_err(|_| refused("there is no JSON in it"))?;
    if !value["totem"].is_object() {
        return Err(refused("'totem' is missing"));
    }
    place(&value, "ipAddress").ok_or_else(|| refused("address or fingerprint is missing"))
}

/// Reads a join token.
///
/// # Errors
/// When it is something else.
pub fn token(text: &Secret) -> Outcome<Carried> {
    let refused = || {
        Failure::refused(format!(
            "this is no join token: it begins with '{TOKEN_PREFIX}' and is one line, as 'pvecm token' \
             shows it"
        ))
    };
    let packed = text.expose().trim().strip_prefix(TOKEN_PREFIX);
    let packed = packed.ok_or_else(refused)?;
    let json = URL_SAFE_NO_PAD.decode(packed).map_err(|_| refused())?;
    let value: Value = serde_json::from_slice(&json).map_err(|_| refused())?;
    let (Some(id), Some(secret)) = (value["id"].as_str(), value["secret"].as_str()) else {
        return Err(refused());
    };
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain(id) || !is_plain(secret) {
        return Err(refused());
    }
    let carried = place(&value, "address").ok_or_else(refused)?;
    Ok(Carried {
        authorization: Some(Secret::new(format!("PVEJoinToken={id}:{secret}"))),
        ..carried
    })
}

fn place(value: &Value, address: &str) -> Option<Carried> {
    let address = value[address].as_str().filter(|at| is_address(at))?;
    Some(Carried {
        address: address.to_owned(),
        fingerprint: value["fingerprint"].as_str()?.parse().ok()?,
        authorization: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint() -> String {
        ["AB"; 32].join(":")
    }

    #[test]
    fn information_says_where_and_with_which_certificate() {
        let json = format!(
            r#"{{"ipAddress":"10.0.0.1","fingerprint":"{}","peerLinks":{{"0":"10.0.0.1"}},"ring_addr":["10.0.0.1"],"totem":{{}}}}"#,
            fingerprint()
        );
        let line = STANDARD.encode(json);
        let read = info(&format!("{}\n {}", &line[..30], &line[30..])).unwrap();
        assert_eq!(read.address, "10.0.0.1");
        assert_eq!(read.fingerprint.to_string(), fingerprint());
        assert_eq!(read.authorization, None);
        for junk in ["", "!", "e30=", &STANDARD.encode(r#"{"totem":{}}"#)] {
            assert_eq!(info(junk).unwrap_err().code(), 64, "{junk}");
        }
    }

    #[test]
    fn a_token_is_also_what_lets_in() {
        let json = format!(
            r#"{{"id":"0011223344556677","secret":"abc","address":"n1","fingerprint":"{}"}}"#,
            fingerprint()
        );
        let text = format!("PVEJOIN1-{}\n", URL_SAFE_NO_PAD.encode(json));
        let read = token(&Secret::new(text)).unwrap();
        assert_eq!(read.address, "n1");
        let carried = read.authorization.unwrap();
        assert_eq!(carried.expose(), "PVEJoinToken=0011223344556677:abc");
        let header = URL_SAFE_NO_PAD.encode(r#"{"id":"a\r\nb","secret":"c"}"#);
        for junk in [
            "",
            "PVEJOIN1-",
            "PVEJOIN1-e30",
            "x",
            &format!("PVEJOIN1-{header}"),
        ] {
            assert_eq!(token(&Secret::new(junk)).unwrap_err().code(), 2, "{junk}");
        }
    }
}
