//! Who asks: what a request shows, and what that is worth.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE};
use zeroize::Zeroizing;

use super::answer::ApiError;
use super::form::percent_decode;
use super::ticket::Keys;
use super::token::{SCHEME, TokenId, TokenRefused, TokenSecret, Tokens};
use crate::host::{Host, calendar};

/// Name of the cookie that carries a ticket.
const TICKET: &str = "PVEAuthCookie";
/// Name of the header that carries the token beside it.
const CSRF: &str = "csrfpreventiontoken";
/// The one user who may do everything.
pub const ROOT: &str = "root@pam";

/// What a request shows.
#[derive(Debug, Default)]
pub struct Shown {
    ticket: Option<Zeroizing<String>>,
    csrf: Option<String>,
    join_token: Option<Zeroizing<String>>,
    is_api_token: bool,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody without a login.
    Nobody,
    /// A user with a ticket.
    User(String),
    /// A node that holds a join token.
    Joiner {
        /// Of the token.
        id: TokenId,
        /// Of the token.
        secret: TokenSecret,
    },
}

impl Caller {
    /// For the log.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Nobody => "-".to_owned(),
            Self::User(user) => user.clone(),
            Self::Joiner { id, .. } => format!("token {id}"),
        }
    }
}

impl Shown {
    /// Takes it from the headers. The cookie counts first, then the header `Authorization`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let cookies = headers.get_all(COOKIE).iter();
        let cookies = cookies.filter_map(|cookie| cookie.to_str().ok());
        let mut ticket = cookies.filter_map(|cookie| value(cookie, TICKET)).next();
        let authorization = headers.get(AUTHORIZATION);
        let authorization = authorization.and_then(|header| header.to_str().ok());
        let authorization = authorization.unwrap_or_default();
        if ticket.is_none() {
            ticket = value(authorization, TICKET);
        }
        let csrf = headers.get(CSRF).and_then(|header| header.to_str().ok());
        Self {
            ticket,
            csrf: csrf.map(str::to_owned),
            join_token: value(authorization, SCHEME),
            is_api_token: value(authorization, "PVEAPIToken").is_some(),
        }
    }

    /// Who that is. `is_change`: the call does more than read.
    ///
    /// # Errors
    /// 401 if it is nobody who may ask anything, 500 if that can not be found out.
    pub fn caller(&self, host: &Host, is_change: bool) -> Result<Caller, ApiError> {
        let failed = || ApiError::new(401, "Authentication failed!");
        if let Some(ticket) = &self.ticket {
            let keys = Keys::of(&host.paths);
            let now = calendar();
            let user = keys.user(ticket, now).map_err(not_set_up)?;
            let user = user.ok_or_else(failed)?.user;
            if is_change {
                let token = self.csrf.as_deref().unwrap_or_default();
                let is_good = keys.is_csrf_token(&user, token, now);
                if !is_good.map_err(not_set_up)? {
                    let text = "Permission denied - invalid csrf token";
                    return Err(ApiError::new(401, text));
                }
            }
            return Ok(Caller::User(user));
        }
        if let Some(token) = &self.join_token {
            let (id, secret) = token.split_once(':').ok_or_else(failed)?;
            let id: TokenId = id.parse().map_err(|_| failed())?;
            let secret = TokenSecret::read(secret.to_owned()).ok_or_else(failed)?;
            return match Tokens::of(&host.paths).check(&id, &secret) {
                // A used one may still take back what it did.
                Ok(()) | Err(TokenRefused::Used) => Ok(Caller::Joiner { id, secret }),
                Err(TokenRefused::Failed(text)) => Err(ApiError::new(500, text)),
                Err(refused) => Err(ApiError::new(401, refused.to_string())),
            };
        }
        if self.is_api_token {
            let text = "API tokens are not known here: log in with root's password, or join with a \
                        token of 'pvecm token'";
            return Err(ApiError::new(401, text));
        }
        Err(ApiError::new(401, "No ticket"))
    }
}

/// The reason is for the log alone: whoever asks has not logged in.
fn not_set_up(failure: crate::failure::Failure) -> ApiError {
    tracing::error!("tickets can not be checked: {failure}");
    ApiError::new(500, "logins can not be checked on this node, see its log")
}

/// What follows `name=` or `name ` in a header, to the next semicolon.
fn value(header: &str, name: &str) -> Option<Zeroizing<String>> {
    let starts = header.match_indices(name).map(|(at, _)| at);
    let mut starts = starts.filter(|at| {
        let before = header[..*at].chars().next_back();
        before.is_none_or(|before| before.is_whitespace() || before == ';')
    });
    let rest = starts.find_map(|at| {
        let rest = &header[at + name.len()..];
        rest.strip_prefix('=').or_else(|| rest.strip_prefix(' '))
    })?;
    let value = rest.split(';').next().unwrap_or_default().trim();
    let decoded = percent_decode(value.as_bytes(), false);
    let text = String::from_utf8(decoded).ok()?;
    (!text.is_empty()).then(|| Zeroizing::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    fn ticket(name: hyper::header::HeaderName, text: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(text).unwrap());
        Shown::of(&headers).ticket.map(|ticket| ticket.to_string())
    }

    #[test]
    fn tickets_are_in_the_cookie_or_the_authorization() {
        let found = Some("PVE:root@pam:69000000::a+b/c=".to_owned());
        let cookie = "x=1; PVEAuthCookie=PVE%3Aroot%40pam%3A69000000%3A%3Aa+b%2Fc%3D; y=2";
        assert_eq!(ticket(COOKIE, cookie), found);
        let plain = "PVEAuthCookie=PVE:root@pam:69000000::a+b/c=";
        assert_eq!(ticket(COOKIE, plain), found);
        assert_eq!(ticket(AUTHORIZATION, plain), found);
        let blank = "PVEAuthCookie PVE:root@pam:69000000::a+b/c=";
        assert_eq!(ticket(AUTHORIZATION, blank), found);
        assert_eq!(ticket(COOKIE, "XPVEAuthCookie=a"), None);
        assert_eq!(ticket(COOKIE, "PVEAuthCookie="), None);
        assert_eq!(ticket(COOKIE, "PVEAuthCookie=%ff"), None);
    }

    proptest! {
        #[test]
        fn no_header_is_too_strange(text in "[ -~]{0,100}") {
            drop(ticket(COOKIE, &text));
            drop(ticket(AUTHORIZATION, &format!("PVEAuthCookie={text}")));
        }
    }
}
