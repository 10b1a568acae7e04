//! From a request to its answer.

use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use hyper::{Method, Request};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::answer::{Answer, ApiError};
use super::auth::{Caller, Shown};
use super::form::{Values, decode_form, decode_json, percent_decode};
use super::params::Params;
use super::routes::{Call, Route, Who, find};
use super::{Server, calls, login};
use crate::host::wait::now;

/// Where the API begins; other formats of the original are not here.
const BASE: &str = "/api2/json";

/// Answers a request. Whatever it is, there is an answer.
pub async fn respond(server: &Arc<Server>, from: IpAddr, request: Request<Incoming>) -> Answer {
    let start = now();
    let method = request.method().clone();
    let path = shown_path(request.uri().path());
    let mut caller = Caller::Nobody;
    let answer = match handle(server, from, request, &mut caller).await {
        Ok(answer) => answer,
        Err(error) => {
            if error.status == 401 {
                sleep(server.limits.failed_login).await;
            }
            if !error.errors.is_empty() || error.status >= 500 {
                tracing::debug!(errors = ?error.errors, "{}", error.message);
            }
            error.answer()
        }
    };
    let took = now().saturating_duration_since(start);
    tracing::info!(
        "{from} {} {method} {path} {} {} ms",
        caller.name(),
        answer.status().as_u16(),
        took.as_millis()
    );
    answer
}

async fn handle(
    server: &Arc<Server>,
    from: IpAddr,
    request: Request<Incoming>,
    caller: &mut Caller,
) -> Result<Answer, ApiError> {
    let method = request.method().clone();
    if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&method) {
        let text = format!("method '{method}' not available");
        return Err(ApiError::new(501, text));
    }
    if request.headers().contains_key(TRANSFER_ENCODING) {
        let text = "chunked transfer encoding not supported";
        return Err(ApiError::new(501, text));
    }
    let path = percent_decode(request.uri().path().as_bytes(), false);
    let path = String::from_utf8(path);
    let path = path.map_err(|_| ApiError::new(400, "the path is not UTF-8"))?;
    let path = path.strip_prefix(BASE).filter(|rest| rest.starts_with('/'));
    let path = path.ok_or_else(|| ApiError::new(404, "no such file"))?;
    let route = find(&method, path);
    if !matches!(&route, Some(route) if route.who == Who::Anybody) {
        let shown = Shown::of(request.headers());
        *caller = on_thread(server, move |server| {
            shown.caller(&server.host, method != Method::GET)
        })
        .await?;
    }
    let Some(route) = route else {
        let method = request.method();
        let text = format!("Method '{method} {path}' not implemented");
        return Err(ApiError::new(501, text));
    };
    may_call(caller, &route)?;
    let params = params(server, request, &route).await?;
    if let Call::Login = route.call {
        return login::login(server, from, params).await;
    }
    let caller = caller.clone();
    on_thread(server, move |server| {
        calls::run(server, &caller, route.call, params)
    })
    .await
}

fn may_call(caller: &Caller, route: &Route) -> Result<(), ApiError> {
    let is_allowed = match caller {
        Caller::Nobody => route.who == Who::Anybody,
        Caller::User(user) => user == super::auth::ROOT || route.who <= Who::User,
        Caller::Joiner { .. } => route.for_joiners,
    };
    if is_allowed {
        return Ok(());
    }
    Err(ApiError::new(
        403,
        match (caller, route.who) {
            (Caller::Joiner { .. }, _) => "a join token may do no more than let one node join",
            (_, Who::Audit) => "Permission check failed (/, Sys.Audit)",
            (_, Who::Modify) => "Permission check failed (/, Sys.Modify)",
            _ => "Permission check failed (user != root@pam)",
        },
    ))
}

/// The parameters of a request: of its body, of its query, and of its path.
async fn params(
    server: &Server,
    request: Request<Incoming>,
    route: &Route,
) -> Result<Params, ApiError> {
    let mut values = Values::new();
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream()
        || parts
            .headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes() != b"0");
    if has_body {
        if ![Method::POST, Method::PUT].contains(&parts.method) {
            let text = format!("Unexpected content for method '{}'", parts.method);
            return Err(ApiError::new(501, text));
        }
        let kind = parts.headers.get(CONTENT_TYPE);
        let kind = kind.map(|kind| kind.to_str().unwrap_or("?")).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let is_json = kind.eq_ignore_ascii_case("application/json");
        let is_form =
            kind.is_empty() || kind.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        if !is_json && !is_form {
            return Err(ApiError::new(415, "send a form or a JSON object"));
        }
        let limit = if matches!(route.call, Call::Login) {
            server.limits.login_size
        } else {
            server.limits.body_size
        };
        let body = read_body(server, body, limit).await?;
        if is_json {
            decode_json(&body, &mut values)?;
        } else {
            decode_form(&body, &mut values)?;
        }
    }
    let mut query = Values::new();
    decode_form(parts.uri.query().unwrap_or_default().as_bytes(), &mut query)?;
    values.extend(query);
    for (name, value) in &route.from_path {
        let text = "duplicate parameter (already defined in URI) with conflicting values!";
        let given = values.insert((*name).to_owned(), vec![value.clone()]);
        if given.is_some_and(|given| given != [value.clone()]) {
            return Err(ApiError::parameter(name, text));
        }
    }
    Ok(Params::new(values))
}

async fn read_body(
    server: &Server,
    body: Incoming,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let too_large = || ApiError::new(413, format!("more than {limit} bytes of data"));
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let whole = timeout(server.limits.body, Limited::new(body, limit).collect()).await;
    let whole = whole.map_err(|_| ApiError::new(408, "the data did not come in time"))?;
    match whole {
        Ok(whole) => Ok(Zeroizing::new(whole.to_bytes().to_vec())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::new(400, "the data did not come whole")),
    }
}

/// Runs what looks at files on a thread of its own, of which there is a bounded number.
async fn on_thread<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let busy = || ApiError::new(503, "this node is busy: try again in a moment");
    let turn = timeout(server.limits.turn, server.call_turns.acquire()).await;
    let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
    let held = Arc::clone(server);
    let done = tokio::task::spawn_blocking(move || work(&held)).await;
    done.unwrap_or_else(|_| {
        tracing::error!("a call has panicked");
        Err(ApiError::new(
            500,
            "internal error, see the log of this node",
        ))
    })
}

/// A path for the log: short, and without what would look like another line of it.
fn shown_path(path: &str) -> String {
    let shown = path.chars().take(120);
    shown
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}
