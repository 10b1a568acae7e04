//! Join tokens: one line of text that lets one node join, once, for some time.
//!
//! The text is `PVEJOIN1-` and the URL form of base64, without padding, of a JSON object with `id`,
//! `secret`, `address` and `fingerprint` (of the certificate of the member that made it). A request
//! carries it as `Authorization: PVEJoinToken=ID:SECRET`.
//!
//! A file below `/etc/pve/priv/join-tokens` stands for each token; it holds a hash of the secret.
//! `ID.json` can be used, `ID.used` has been: renaming the one is how a token is used, and of several
//! who do it at once, on whatever nodes, the cluster file system lets one succeed.
//!
//! Invariants: the secret is in no file; a token admits one node at most.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::failure::{Failure, Outcome};
use crate::host::files::{self, SECRET, failed};
use crate::host::{Paths, calendar};
use crate::value::{Fingerprint, NodeName};

/// Begins the text of each token; the number changes with the form.
const PREFIX: &str = "PVEJOIN1-";
/// Scheme of the header that carries a token.
pub const SCHEME: &str = "PVEJoinToken";
/// Bytes of a secret.
const SECRET_SIZE: usize = 32;
/// Bytes of an id.
const ID_SIZE: usize = 8;
/// A token that can be used.
const FRESH: &str = "json";
/// A token that was used.
const USED: &str = "used";

/// Short name of a token: 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId(String);

/// What proves that one may use a token. Wiped when it goes; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(Zeroizing<String>);

/// A token as its text has it: all that a joining node needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Its short name.
    pub id: TokenId,
    /// Its secret.
    pub secret: TokenSecret,
    /// A member: address or host name.
    pub address: String,
    /// Of the member's certificate.
    pub fingerprint: Fingerprint,
}

/// A text that is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token: it begins with '{PREFIX}' and is one line, as 'pvecm token' shows it"
)]
pub struct NotAToken;

#[derive(Serialize, Deserialize)]
struct Fields {
    id: String,
    secret: String,
    address: String,
    fingerprint: String,
}

impl JoinToken {
    /// Value of the header `Authorization` that carries it.
    #[must_use]
    pub fn authorization(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{SCHEME}={}:{}", self.id, *self.secret.0))
    }

    /// The one line of text.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut fields = Fields {
            id: self.id.0.clone(),
            secret: self.secret.0.to_string(),
            address: self.address.clone(),
            fingerprint: self.fingerprint.to_string(),
        };
        let json = Zeroizing::new(serde_json::to_string(&fields).unwrap_or_default());
        fields.secret.zeroize();
        Zeroizing::new(format!("{PREFIX}{}", BASE64.encode(json.as_bytes())))
    }
}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(NotAToken)?;
        let json = Zeroizing::new(BASE64.decode(text).map_err(|_| NotAToken)?);
        let fields: Fields = serde_json::from_slice(&json).map_err(|_| NotAToken)?;
        let secret = TokenSecret::read(fields.secret).ok_or(NotAToken)?;
        if !crate::value::is_address(&fields.address) {
            return Err(NotAToken);
        }
        Ok(Self {
            id: fields.id.parse()?,
            secret,
            address: fields.address,
            fingerprint: fields.fingerprint.parse().map_err(|_| NotAToken)?,
        })
    }
}

impl FromStr for TokenId {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 2 * ID_SIZE && text.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAToken)
        }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TokenSecret {
    /// Takes the text of a secret, which is wiped if it is none.
    pub(crate) fn read(mut text: String) -> Option<Self> {
        let is_secret = BASE64
            .decode(&text)
            .is_ok_and(|mut bytes| (bytes.len() == SECRET_SIZE, bytes.zeroize()).0);
        if is_secret {
            Some(Self(Zeroizing::new(text)))
        } else {
            text.zeroize();
            None
        }
    }

    fn hash(&self) -> [u8; 32] {
        openssl::sha::sha256(self.0.as_bytes())
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret")
    }
}

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// SHA-256 of the secret's text, in hexadecimal digits.
    hash: String,
    /// Seconds since 1970.
    created: u64,
    /// Seconds since 1970.
    expires: u64,
    /// Who made it.
    node: String,
    /// Whom it let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joined: Option<String>,
}

/// A token as `pvecm token list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its short name.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub expires: u64,
    /// The node that it was made on.
    pub node: String,
}

/// Why a token does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// There is none of that name, or the secret is another one.
    #[error("join token is not known: it was revoked, has expired, or never was")]
    Unknown,
    /// It was good once.
    #[error("join token has expired: make a new one with 'pvecm token'")]
    Expired,
    /// It has let a node in.
    #[error("join token was used already: make a new one with 'pvecm token'")]
    Used,
    /// It could not be looked up or marked.
    #[error("join token can not be checked: {0}")]
    Failed(String),
}

/// The tokens of the cluster.
#[derive(Clone, Debug)]
pub struct Tokens {
    directory: PathBuf,
}

/// A token that is being used by this process: [`keep`](Self::keep) it, or give it back.
#[derive(Debug)]
#[must_use = "a token that admitted nobody is given back"]
pub struct Claim {
    tokens: Tokens,
    id: TokenId,
    record: Record,
}

impl Tokens {
    /// The tokens of the cluster that this node is in.
    #[must_use]
    pub fn of(paths: &Paths) -> Self {
        Self {
            directory: paths.pve("priv/join-tokens"),
        }
    }

    /// Makes a token. Its secret is nowhere but in what this returns.
    ///
    /// # Errors
    /// When the cluster's files can not be written.
    pub fn create(&self, node: &NodeName, lifetime: Duration) -> Outcome<(TokenId, TokenSecret)> {
        files::make_directory(&self.directory)?;
        self.sweep();
        let mut secret = Zeroizing::new([0; SECRET_SIZE]);
        let mut id = [0; ID_SIZE];
        let random = openssl::rand::rand_bytes(secret.as_mut());
        let random = random.and_then(|()| openssl::rand::rand_bytes(&mut id));
        random.map_err(|error| Failure::failed(format!("no random numbers: {error}")))?;
        let id = TokenId(hex(&id));
        let secret = TokenSecret(Zeroizing::new(BASE64.encode(*secret)));
        let now = calendar();
        let record = Record {
            hash: hex(&secret.hash()),
            created: now.as_secs(),
            expires: (now + lifetime).as_secs(),
            node: node.to_string(),
            joined: None,
        };
        self.write(&self.path(&id, FRESH), &record)?;
        Ok((id, secret))
    }

    /// Those that can still be used.
    ///
    /// # Errors
    /// When the directory can not be read.
    pub fn list(&self) -> Outcome<Vec<Listed>> {
        let now = calendar().as_secs();
        let mut listed = Vec::new();
        for id in self.ids(FRESH)? {
            if let Ok(Some(record)) = self.read(&self.path(&id, FRESH))
                && record.expires > now
            {
                listed.push(Listed {
                    id: id.0,
                    created: record.created,
                    expires: record.expires,
                    node: record.node,
                });
            }
        }
        listed.sort_by(|one, other| (one.created, &one.id).cmp(&(other.created, &other.id)));
        Ok(listed)
    }

    /// Makes a token useless; whether there was one.
    ///
    /// # Errors
    /// When the cluster's files can not be written.
    pub fn revoke(&self, id: &TokenId) -> Outcome<bool> {
        let mut found = false;
        for state in [FRESH, USED] {
            let path = self.path(id, state);
            match fs::remove_file(&path) {
                Ok(()) => found = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove", &path, &error)),
            }
        }
        Ok(found)
    }

    /// Whether a token can be used now.
    ///
    /// # Errors
    /// Why it can not.
    pub fn check(&self, id: &TokenId, secret: &TokenSecret) -> Result<(), TokenRefused> {
        match self.proven(id, FRESH, secret)? {
            Some(_) => Ok(()),
            None => Err(match self.proven(id, USED, secret)? {
                Some(_) => TokenRefused::Used,
                None => TokenRefused::Unknown,
            }),
        }
    }

    /// Uses a token: nobody else can from now on.
    ///
    /// # Errors
    /// Why it can not be used.
    pub fn claim(&self, id: &TokenId, secret: &TokenSecret) -> Result<Claim, TokenRefused> {
        self.check(id, secret)?;
        let Some(record) = self.proven(id, FRESH, secret)? else {
            return Err(TokenRefused::Used);
        };
        let claim = Claim {
            tokens: self.clone(),
            id: id.clone(),
            record,
        };
        // First to a name of this claim alone. A kernel that has not heard yet that another node has
        // moved the file knows it by both names, and moves nothing then, without asking anybody.
        let mut own = [0; ID_SIZE];
        let random = openssl::rand::rand_bytes(&mut own);
        random.map_err(|error| TokenRefused::Failed(error.to_string()))?;
        let own = self.path(id, &hex(&own));
        let moved = fs::rename(self.path(id, FRESH), &own);
        match moved.and_then(|()| fs::rename(&own, self.path(id, USED))) {
            Ok(()) => Ok(claim),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TokenRefused::Used),
            Err(error) => Err(TokenRefused::Failed(error.to_string())),
        }
    }

    /// The node that a used token has let in, until the token would have expired.
    ///
    /// # Errors
    /// When there is no such token, or the secret is another one.
    pub fn joined(
        &self,
        id: &TokenId,
        secret: &TokenSecret,
    ) -> Result<Option<NodeName>, TokenRefused> {
        let record = self.proven(id, USED, secret)?;
        let record = record.ok_or(TokenRefused::Unknown)?;
        Ok(record.joined.and_then(|name| name.parse().ok()))
    }

    /// The record of a token whose secret was shown.
    fn proven(
        &self,
        id: &TokenId,
        state: &str,
        secret: &TokenSecret,
    ) -> Result<Option<Record>, TokenRefused> {
        let record = self.read(&self.path(id, state));
        let record = record.map_err(|failure| TokenRefused::Failed(failure.to_string()))?;
        let Some(record) = record else {
            return Ok(None);
        };
        let shown = hex(&secret.hash());
        let is_same = shown.len() == record.hash.len()
            && openssl::memcmp::eq(shown.as_bytes(), record.hash.as_bytes());
        if !is_same {
            return Err(TokenRefused::Unknown);
        }
        if record.expires <= calendar().as_secs() {
            return Err(TokenRefused::Expired);
        }
        Ok(Some(record))
    }

    /// Removes what has expired. What can not be removed is left for the next time.
    fn sweep(&self) {
        let now = calendar().as_secs();
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if let Ok(Some(record)) = self.read(&path)
                && record.expires <= now
            {
                drop(fs::remove_file(path));
            }
        }
    }

    fn ids(&self, state: &str) -> Outcome<Vec<TokenId>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &self.directory, &error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let id = |name: String| name.strip_suffix(&format!(".{state}"))?.parse().ok();
        Ok(names.filter_map(id).collect())
    }

    fn read(&self, path: &Path) -> Outcome<Option<Record>> {
        let Some(text) = files::read(path)? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&text);
        record.map_err(|error| failed("read", path, &io::Error::other(error)))
    }

    fn write(&self, path: &Path, record: &Record) -> Outcome {
        let text = serde_json::to_vec(record).unwrap_or_default();
        files::replace(path, &text, SECRET)
    }

    fn path(&self, id: &TokenId, state: &str) -> PathBuf {
        self.directory.join(format!("{id}.{state}"))
    }
}

impl Claim {
    /// The token has let `node` in.
    ///
    /// # Errors
    /// When that can not be noted; the token is used all the same.
    pub fn keep(mut self, node: &NodeName) -> Outcome {
        self.record.joined = Some(node.to_string());
        let path = self.tokens.path(&self.id, USED);
        self.tokens.write(&path, &self.record)
    }

    /// The token has let nobody in and can be used again.
    ///
    /// # Errors
    /// When the cluster's files can not be written: the token is lost then.
    pub fn give_back(self) -> Outcome {
        let path = self.tokens.path(&self.id, USED);
        fs::rename(&path, self.tokens.path(&self.id, FRESH))
            .map_err(|error| failed("give back the token", &path, &error))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn tokens() -> (tempfile::TempDir, Tokens) {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(&Paths::below(directory.path()));
        (directory, tokens)
    }

    fn n1() -> NodeName {
        "n1".parse().unwrap()
    }

    #[test]
    fn a_token_lets_one_node_in_and_is_listed_until_then() {
        let (_directory, tokens) = tokens();
        assert_eq!(tokens.list().unwrap(), []);
        let (id, secret) = tokens.create(&n1(), HOUR).unwrap();
        assert_eq!(tokens.list().unwrap()[0].id, id.to_string());
        tokens.check(&id, &secret).unwrap();
        let claim = tokens.claim(&id, &secret).unwrap();
        assert_eq!(tokens.check(&id, &secret), Err(TokenRefused::Used));
        assert_eq!(tokens.list().unwrap(), []);
        assert_eq!(tokens.joined(&id, &secret), Ok(None));
        claim.keep(&"n2".parse().unwrap()).unwrap();
        assert_eq!(tokens.claim(&id, &secret).unwrap_err(), TokenRefused::Used);
        let joined = tokens.joined(&id, &secret).unwrap().unwrap();
        assert_eq!(joined.as_str(), "n2");
    }

    #[test]
    fn a_token_that_let_nobody_in_is_good_again() {
        let (_directory, tokens) = tokens();
        let (id, secret) = tokens.create(&n1(), HOUR).unwrap();
        tokens.claim(&id, &secret).unwrap().give_back().unwrap();
        tokens.check(&id, &secret).unwrap();
    }

    #[test]
    fn of_many_who_use_a_token_at_once_one_succeeds() {
        let (_directory, tokens) = tokens();
        let (id, secret) = tokens.create(&n1(), HOUR).unwrap();
        let start = Barrier::new(8);
        let winners = std::thread::scope(|scope| {
            let claim = || {
                start.wait();
                tokens.claim(&id, &secret).is_ok()
            };
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
            let won = racers.into_iter().map(|racer| racer.join().unwrap());
            won.filter(|won| *won).count()
        });
        assert_eq!(winners, 1);
    }

    #[test]
    fn expired_revoked_and_foreign_tokens_are_refused() {
        let (_directory, tokens) = tokens();
        let (id, secret) = tokens.create(&n1(), Duration::ZERO).unwrap();
        assert_eq!(tokens.check(&id, &secret), Err(TokenRefused::Expired));
        assert_eq!(tokens.list().unwrap(), []);
        let (other_id, other) = tokens.create(&n1(), HOUR).unwrap();
        // Making one sweeps those that have expired.
        assert_eq!(tokens.check(&id, &secret), Err(TokenRefused::Unknown));
        assert_eq!(tokens.check(&other_id, &secret), Err(TokenRefused::Unknown));
        assert!(tokens.revoke(&other_id).unwrap());
        assert!(!tokens.revoke(&other_id).unwrap());
        assert_eq!(tokens.check(&other_id, &other), Err(TokenRefused::Unknown));
    }

    #[test]
    fn the_secret_is_in_no_file_and_files_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let (directory, tokens) = tokens();
        let (id, secret) = tokens.create(&n1(), HOUR).unwrap();
        let path = directory
            .path()
            .join(format!("etc/pve/priv/join-tokens/{id}.json"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(secret.0.as_str()));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(format!("{secret:?}"), "TokenSecret");
    }

    #[test]
    fn a_token_is_read_from_its_text() {
        let (_directory, tokens) = tokens();
        let (id, secret) = tokens.create(&n1(), HOUR).unwrap();
        let token = JoinToken {
            id,
            secret,
            address: "fd00::1".to_owned(),
            fingerprint: Fingerprint::new([7; 32]),
        };
        let text = token.text();
        assert!(!text.contains(char::is_whitespace));
        assert_eq!(format!(" {}\n", *text).parse(), Ok(token));
        for refused in ["", PREFIX, "PVEJOIN1-e30", &text[1..], &text[..60]] {
            assert!(refused.parse::<JoinToken>().is_err(), "{refused}");
        }
        for id in [
            "",
            "../../../secret1",
            "0123456789ABCDEF",
            "0123456789abcde/",
        ] {
            assert!(id.parse::<TokenId>().is_err(), "{id}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(text.parse::<JoinToken>());
            drop(format!("{PREFIX}{text}").parse::<JoinToken>());
            drop(format!("{PREFIX}{}", BASE64.encode(bytes)).parse::<JoinToken>());
        }
    }
}
