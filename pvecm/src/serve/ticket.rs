//! Tickets and the tokens beside them, as the original makes and checks them.
//!
//! A ticket is `PVE:USER:TIME::SIGNATURE`: who has logged in, when, and the cluster's word for it
//! (RSA, PKCS#1 v1.5). The original signs with the default of its library, which is SHA-1 on the
//! releases in use and SHA-256 on newer ones: both are taken, SHA-1 is made.
//!
//! Invariant: what is checked here is checked in whole; a ticket that is a byte off is none.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private, Public};
use openssl::sign::{Signer, Verifier};

use crate::failure::{Failure, Outcome};
use crate::host::{Paths, files};

/// A ticket is good for so long.
pub const LIFETIME: Duration = Duration::from_secs(2 * 3600);
/// Clocks of nodes may differ by so much.
const GRACE: Duration = Duration::from_secs(300);

/// A key that proves tickets.
#[derive(Debug)]
pub struct PublicKey {
    key: PKey<Public>,
    /// When another one took its place.
    replaced: Option<Duration>,
}

/// The keys of the cluster.
#[derive(Debug)]
pub struct Keys {
    paths: Paths,
}

/// Whose ticket it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// `NAME@REALM`.
    pub user: String,
    /// When it was made, since 1970.
    pub made: Duration,
}

impl Keys {
    /// Keys of the cluster that this node is in.
    #[must_use]
    pub fn of(paths: &Paths) -> Self {
        Self {
            paths: paths.clone(),
        }
    }

    /// Makes a ticket and the token that goes with it.
    ///
    /// # Errors
    /// When the keys can not be read.
    pub fn issue(&self, user: &str, now: Duration) -> Outcome<(String, String)> {
        let pem = self.file("priv/authkey.key")?;
        let key = PKey::private_key_from_pem(&pem);
        let ticket = key.and_then(|key| sign(&key, user, now));
        let token = self.csrf_secret()?;
        let token = csrf(&token, user, now);
        match (ticket, token) {
            (Ok(ticket), Ok(token)) => Ok((ticket, token)),
            (Err(error), _) | (_, Err(error)) => Err(Failure::failed(format!(
                "no ticket can be made: {error}; check '{}'",
                self.paths.pve("priv/authkey.key").display()
            ))),
        }
    }

    /// Whose ticket a text is, if it is one that is good now.
    ///
    /// # Errors
    /// When the keys can not be read.
    pub fn user(&self, ticket: &str, now: Duration) -> Outcome<Option<Ticket>> {
        let mut keys = vec![PublicKey {
            key: self.public_key("authkey.pub")?,
            replaced: None,
        }];
        let old = self.paths.pve("authkey.pub.old");
        if old.exists() {
            let changed = old.metadata().and_then(|found| found.modified()).ok();
            let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            keys.push(PublicKey {
                key: self.public_key("authkey.pub.old")?,
                replaced: changed,
            });
        }
        Ok(verify(&keys, ticket, now))
    }

    /// Whether a token goes with a user's ticket.
    ///
    /// # Errors
    /// When the key can not be read.
    pub fn is_csrf_token(&self, user: &str, token: &str, now: Duration) -> Outcome<bool> {
        let secret = self.csrf_secret()?;
        Ok(is_csrf(&secret, user, token, now))
    }

    fn public_key(&self, name: &str) -> Outcome<PKey<Public>> {
        let pem = self.file(name)?;
        PKey::public_key_from_pem(&pem).map_err(|error| {
            let path = self.paths.pve(name);
            Failure::failed(format!("'{}' is no public key: {error}", path.display()))
        })
    }

    fn csrf_secret(&self) -> Outcome<String> {
        let key = self.file("pve-www.key")?;
        secret_of(&key).map_err(|error| Failure::failed(format!("no secret: {error}")))
    }

    fn file(&self, name: &str) -> Outcome<zeroize::Zeroizing<Vec<u8>>> {
        let path = self.paths.pve(name);
        let content = files::read(&path)?.ok_or_else(|| {
            Failure::failed(format!(
                "'{}' is not there: run 'pvecm updatecerts'",
                path.display()
            ))
        })?;
        Ok(zeroize::Zeroizing::new(content))
    }
}

fn sign(key: &PKey<Private>, user: &str, now: Duration) -> Result<String, ErrorStack> {
    let plain = format!("PVE:{}:{}", escape(user), stamp(now));
    let mut signer = Signer::new(MessageDigest::sha1(), key)?;
    let signature = signer.sign_oneshot_to_vec(plain.as_bytes())?;
    Ok(format!("{plain}::{}", BASE64.encode(signature)))
}

fn verify(keys: &[PublicKey], ticket: &str, now: Duration) -> Option<Ticket> {
    let (plain, signature) = ticket.rsplit_once("::")?;
    let rest = plain.strip_prefix("PVE:")?;
    let (user, made) = rest.rsplit_once(':')?;
    let made = read_stamp(made)?;
    let user = unescape(user)?;
    // Tickets of other kinds (a second factor is missing) begin with these.
    let is_whole = !user.is_empty()
        && !user.contains(['!', '\0'])
        && !user.chars().any(char::is_whitespace)
        && is_recent(made, now);
    if !is_whole {
        return None;
    }
    let signature = BASE64.decode(signature).ok()?;
    let proves = |key: &PublicKey| {
        // A key that was replaced has made no tickets since.
        key.replaced.is_none_or(|at| made < at + GRACE)
            && [MessageDigest::sha1(), MessageDigest::sha256()]
                .into_iter()
                .any(|digest| is_signed(&key.key, digest, plain, &signature).unwrap_or(false))
    };
    keys.iter().any(proves).then_some(Ticket { user, made })
}

fn is_signed(
    key: &PKey<Public>,
    digest: MessageDigest,
    plain: &str,
    signature: &[u8],
) -> Result<bool, ErrorStack> {
    Verifier::new(digest, key)?.verify_oneshot(signature, plain.as_bytes())
}

/// What tokens are made with, of the content of the key's file.
fn secret_of(key: &[u8]) -> Result<String, ErrorStack> {
    Ok(STANDARD_NO_PAD.encode(hmac(key, b"")?))
}

fn csrf(secret: &str, user: &str, now: Duration) -> Result<String, ErrorStack> {
    let time = stamp(now);
    let mac = hmac(secret.as_bytes(), format!("{time}:{user}").as_bytes())?;
    Ok(format!("{time}:{}", STANDARD_NO_PAD.encode(mac)))
}

fn is_csrf(secret: &str, user: &str, token: &str, now: Duration) -> bool {
    let Some((time, shown)) = token.split_once(':') else {
        return false;
    };
    let Some(made) = read_stamp(time) else {
        return false;
    };
    let Ok(mac) = hmac(secret.as_bytes(), format!("{time}:{user}").as_bytes()) else {
        return false;
    };
    let wanted = STANDARD_NO_PAD.encode(mac);
    is_recent(made, now)
        && wanted.len() == shown.len()
        && openssl::memcmp::eq(wanted.as_bytes(), shown.as_bytes())
}

fn hmac(key: &[u8], message: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let key = PKey::hmac(key)?;
    Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(message)
}

fn is_recent(made: Duration, now: Duration) -> bool {
    made < now + GRACE && now < made + LIFETIME
}

fn stamp(now: Duration) -> String {
    format!("{:08X}", now.as_secs())
}

fn read_stamp(text: &str) -> Option<Duration> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
    let is_stamp = text.len() == 8 && text.bytes().all(is_digit);
    let seconds = is_stamp.then(|| u64::from_str_radix(text, 16).ok())??;
    Some(Duration::from_secs(seconds))
}

/// Only the colon has to be escaped.
fn escape(user: &str) -> String {
    user.replace(':', "%3A")
}

fn unescape(user: &str) -> Option<String> {
    let bytes = super::form::percent_decode(user.as_bytes(), false);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    use openssl::rsa::Rsa;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(0x6900_0000);

    fn key() -> (PKey<Private>, PublicKey) {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let public = PKey::public_key_from_pem(&key.public_key_to_pem().unwrap()).unwrap();
        let public = PublicKey {
            key: public,
            replaced: None,
        };
        (key, public)
    }

    #[test]
    fn a_ticket_has_the_form_of_the_original() {
        let (private, public) = key();
        let ticket = sign(&private, "root@pam", NOW).unwrap();
        assert!(ticket.starts_with("PVE:root@pam:69000000::"), "{ticket}");
        let found = verify(&[public], &ticket, NOW).unwrap();
        assert_eq!((found.user.as_str(), found.made), ("root@pam", NOW));
    }

    /// Made with the libraries of the original: Crypt::OpenSSL::RSA 0.33 and Digest::SHA.
    #[test]
    fn what_the_original_makes_is_taken() {
        let pem = "-----BEGIN PUBLIC KEY-----\n\
            MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA2MutppwhsmjOlDfcrypt\n\
            LecYfsoR+6Shq5RIOqWs5Kxvm9c2k5gSSmWZ7Vr3pLJ6xSOUwZbrr93pBfx5BmbZ\n\
            U0MsMW7NKgOWB36ItF2bylWr2M+0HZ8NLVFWl6O3lZgn+t+P8vbLWv6HfNIaOj1L\n\
            UtfXbIll+Ieqpl6KRNvNQXNEUXE+Cw7/z0JoHB8PyC5CpywjMHCEvwh7U5ZdM0fh\n\
            4dvRa5DuKe23zDGBbi3NaRP5pZc/dNn6tKkjV5Tb788iEXcNZ6T542HY6xAoxe3F\n\
            1H2BoTzcBn4zWfogXCswLGMfUiQbOytZMOdBB0QHVnPXmjA/qn0jLxO2BVVyseWs\n\
            ZQIDAQAB\n-----END PUBLIC KEY-----\n";
        let ticket = "PVE:root@pam:69000000::p/fcqOzxw9yNDEunH8+ZaKtQDP5JjfWVDRQv7fdW7cK5NOOyNv5h\
            PvFggVzoBVDdTZ+8Gg7gO7xH2dBRNmq3h9C52TVbvy0CXNHSxQrcR2Kn4a/+YTXH/9uw/Cx3jLssr930FWE0h5\
            B8ix6zrBo+iFd6HczUcVN/QaD+nkIVh/iTSnNSIRUmQh3a2wWultFnHRNvxGO6tyvmClsH99DoJAtJ52JQBGKb\
            DsH4hG2v2FgkiZL75rw7FKrQJyACBBXyMzUp6/AhcAOu8BJn5FWjc/n0scc6ZDvgMEOBILBK6gnoEKby3/regM\
            L+gGpvKDnfpcJKy1kP5XcQUC0lU05lwg==";
        let public = PublicKey {
            key: PKey::public_key_from_pem(pem.as_bytes()).unwrap(),
            replaced: None,
        };
        assert!(verify(&[public], ticket, NOW).is_some());
        let secret = secret_of(b"the bytes of the key\n").unwrap();
        assert_eq!(secret, "2DXarESkwRVYjoet9v6470uNywcDzcKC3IkB+6cxKdA");
        let token = "69000000:vVLnPflCyNo+oU2MgY6jBeSmHO0NAOwOk5MtFjPOLq0";
        assert_eq!(csrf(&secret, "root@pam", NOW).unwrap(), token);
    }

    #[test]
    fn both_hashes_are_taken_and_no_other() {
        let (private, public) = key();
        let keys = [public];
        let plain = "PVE:root@pam:69000000";
        let with = |digest| {
            let mut signer = Signer::new(digest, &private).unwrap();
            let signature = signer.sign_oneshot_to_vec(plain.as_bytes()).unwrap();
            format!("{plain}::{}", BASE64.encode(signature))
        };
        assert!(verify(&keys, &with(MessageDigest::sha1()), NOW).is_some());
        assert!(verify(&keys, &with(MessageDigest::sha256()), NOW).is_some());
        assert!(verify(&keys, &with(MessageDigest::sha512()), NOW).is_none());
    }

    #[test]
    fn tickets_are_good_for_two_hours_and_clocks_may_differ_a_little() {
        let (private, public) = key();
        let keys = [public];
        let at = |seconds: i64| {
            let made = NOW.as_secs().checked_add_signed(seconds).unwrap();
            let ticket = sign(&private, "root@pam", Duration::from_secs(made)).unwrap();
            verify(&keys, &ticket, NOW).is_some()
        };
        assert!(at(0) && at(-7199) && at(299));
        assert!(!at(-7200) && !at(300) && !at(-100_000) && !at(100_000));
    }

    #[test]
    fn a_replaced_key_proves_what_it_signed_before() {
        let (private, mut old) = key();
        let (_, new) = key();
        let early = sign(&private, "root@pam", NOW - Duration::from_secs(3600)).unwrap();
        let late = sign(&private, "root@pam", NOW).unwrap();
        old.replaced = Some(NOW - Duration::from_secs(1800));
        let keys = [new, old];
        assert!(verify(&keys, &early, NOW).is_some());
        assert!(verify(&keys, &late, NOW).is_none());
    }

    #[test]
    fn tickets_without_their_second_factor_are_none() {
        let (private, public) = key();
        let keys = [public];
        for user in ["!tfa!%7B%7D", "tfa!root@pam", "u2f!root@pam!x", "a b", ""] {
            let ticket = sign(&private, user, NOW).unwrap();
            assert_eq!(verify(&keys, &ticket, NOW), None, "{user}");
        }
    }

    #[test]
    fn csrf_tokens_belong_to_a_user_and_a_time() {
        let token = csrf("secret", "root@pam", NOW).unwrap();
        assert!(is_csrf("secret", "root@pam", &token, NOW));
        assert!(!is_csrf("secret", "other@pam", &token, NOW));
        assert!(!is_csrf("another", "root@pam", &token, NOW));
        assert!(!is_csrf("secret", "root@pam", &token, NOW + LIFETIME));
        for refused in ["", ":", "69000000", "69000000:", &token[1..]] {
            assert!(!is_csrf("secret", "root@pam", refused, NOW), "{refused}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_changed_ticket_is_none(place in 0usize..200, byte in 0x20u8..0x7f) {
            let (private, public) = key_once();
            let ticket = sign(private, "root@pam", NOW).unwrap();
            let mut bytes = ticket.clone().into_bytes();
            let place = place % bytes.len();
            bytes[place] = byte;
            let changed = String::from_utf8(bytes).unwrap();
            let found = verify(std::slice::from_ref(public), &changed, NOW);
            prop_assert_eq!(found.is_some(), changed == ticket);
        }

        #[test]
        fn no_text_is_too_strange(text in ".*") {
            let (_, public) = key_once();
            let keys = std::slice::from_ref(public);
            prop_assert_eq!(verify(keys, &text, NOW), None);
            prop_assert_eq!(verify(keys, &format!("PVE:{text}:69000000::AAAA"), NOW), None);
            prop_assert!(!is_csrf("secret", "root@pam", &text, NOW));
        }

        #[test]
        fn any_user_name_comes_back(user in "[^!\\s\\x00%]{1,40}") {
            prop_assume!(!user.chars().any(char::is_whitespace));
            let (private, public) = key_once();
            let ticket = sign(private, &user, NOW).unwrap();
            let found = verify(std::slice::from_ref(public), &ticket, NOW).unwrap();
            prop_assert_eq!(found.user, user);
        }
    }

    fn key_once() -> &'static (PKey<Private>, PublicKey) {
        static KEY: std::sync::OnceLock<(PKey<Private>, PublicKey)> = std::sync::OnceLock::new();
        KEY.get_or_init(key)
    }
}
