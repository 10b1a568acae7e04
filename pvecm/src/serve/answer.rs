//! Answers: `{"data": ...}`, and errors in the original's form.
//!
//! An error's text is in the status line, where the original's clients look for it, and in the body.

use std::collections::BTreeMap;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, PRAGMA, SERVER};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Longest text in a status line.
const REASON_MAX: usize = 512;

/// An answer that is on its way.
pub type Answer = Response<Full<Bytes>>;

/// Why a call is not answered with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// What went wrong.
    pub message: String,
    /// By parameter, or what else there is to say.
    pub errors: BTreeMap<String, String>,
}

impl ApiError {
    /// An error with a text of its own.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            errors: BTreeMap::new(),
        }
    }

    /// One parameter is wrong.
    pub fn parameter(name: &str, error: impl Into<String>) -> Self {
        Self::parameters([(name.to_owned(), error.into())].into())
    }

    /// Parameters are wrong.
    #[must_use]
    pub fn parameters(errors: BTreeMap<String, String>) -> Self {
        Self {
            errors,
            ..Self::new(400, "Parameter verification failed.")
        }
    }

    /// The answer that says so.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let mut body = Map::new();
        body.insert("data".to_owned(), Value::Null);
        body.insert("message".to_owned(), format!("{}\n", self.message).into());
        if !self.errors.is_empty() {
            let errors = self.errors.iter();
            let errors = errors.map(|(name, text)| (name.clone(), text.as_str().into()));
            body.insert("errors".to_owned(), Value::Object(errors.collect()));
        }
        let status = StatusCode::from_u16(self.status);
        let mut answer = answer(
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            &Value::Object(body),
        );
        if let Ok(reason) = ReasonPhrase::try_from(reason(&self.message)) {
            answer.extensions_mut().insert(reason);
        }
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self {
            errors: failure.fields().iter().cloned().collect(),
            ..Self::new(500, failure.text())
        }
    }
}

/// The answer that carries data.
#[must_use]
pub fn data(data: Value) -> Answer {
    let body: Map<String, Value> = [("data".to_owned(), data)].into_iter().collect();
    answer(StatusCode::OK, &Value::Object(body))
}

/// The answer to a page of lines of which there are `total`.
#[must_use]
pub fn page(lines: Value, total: usize) -> Answer {
    let members = [
        ("data".to_owned(), lines),
        ("total".to_owned(), total.into()),
    ];
    answer(
        StatusCode::OK,
        &Value::Object(members.into_iter().collect()),
    )
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    let fixed = [
        (CONTENT_TYPE, "application/json;charset=UTF-8"),
        (CACHE_CONTROL, "max-age=0"),
        (PRAGMA, "no-cache"),
        (SERVER, "pve-api-daemon/3.0"),
    ];
    for (name, value) in fixed {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// First line of a text, without what a status line can not hold.
fn reason(message: &str) -> Vec<u8> {
    let line = message.lines().next().unwrap_or_default().bytes();
    let line = line.map(|byte| match byte {
        b' '..=b'~' | 0x80.. => byte,
        _ => b'?',
    });
    line.take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use http_body_util::BodyExt as _;

    fn body(answer: Answer) -> Value {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let body = runtime.unwrap().block_on(answer.into_body().collect());
        serde_json::from_slice(&body.unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn errors_are_told_in_the_status_line_and_in_the_body() {
        let answer = ApiError::parameter("vmid", "VM 100 already exists").answer();
        assert_eq!(answer.status(), 400);
        let reason = answer.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"Parameter verification failed.");
        let wanted = serde_json::json!({
            "data": null,
            "message": "Parameter verification failed.\n",
            "errors": {"vmid": "VM 100 already exists"},
        });
        assert_eq!(body(answer), wanted);
    }

    #[test]
    fn a_status_line_has_one_line() {
        let answer = ApiError::new(500, "one\r\nSet-Cookie: x\u{7f}").answer();
        let told = answer.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(told.as_bytes(), b"one");
        assert_eq!(reason("a\u{7f}\tb"), b"a??b");
        assert_eq!(reason(&"x".repeat(1000)).len(), REASON_MAX);
    }
}
