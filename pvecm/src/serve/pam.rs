//! The node's own users: a password is checked through PAM.
//!
//! The service is `proxmox-ve-auth`; where `/etc/pam.d` has no file of that name, PAM takes `other`.
//!
//! Safety: this module alone speaks to libpam. What PAM is handed (the names, the conversation and
//! the password) outlives the handle, which `Session` ends; what it gets back from the conversation
//! is allocated by `calloc` and `strdup`, for PAM frees it. PAM waits itself after a failure unless
//! told not to: the caller does the waiting, without holding a thread.

#![expect(unsafe_code, reason = "libpam is a C library")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::net::IpAddr;
use std::ptr;

use zeroize::Zeroizing;

/// Name of the file below `/etc/pam.d`.
const SERVICE: &CStr = c"proxmox-ve-auth";

const SUCCESS: c_int = 0;
const CONVERSATION_FAILED: c_int = 19;
const ITEM_REMOTE_HOST: c_int = 4;
const ITEM_FAIL_DELAY: c_int = 10;
const SILENT: c_int = 0x8000;
const PROMPT_ECHO_OFF: c_int = 1;
const PROMPT_ECHO_ON: c_int = 2;
/// More messages than this are never sent at once.
const MESSAGES_MAX: c_int = 32;

/// Why a password is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    code: c_int,
}

type Converse = unsafe extern "C" fn(
    count: c_int,
    messages: *mut *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int;

#[repr(C)]
struct Conversation {
    converse: Converse,
    data: *mut c_void,
}

#[link(name = "pam")]
unsafe extern "C" {
    fn pam_start(
        service: *const c_char,
        user: *const c_char,
        conversation: *const Conversation,
        handle: *mut *mut c_void,
    ) -> c_int;
    fn pam_end(handle: *mut c_void, status: c_int) -> c_int;
    fn pam_set_item(handle: *mut c_void, item: c_int, value: *const c_void) -> c_int;
    fn pam_authenticate(handle: *mut c_void, flags: c_int) -> c_int;
    fn pam_acct_mgmt(handle: *mut c_void, flags: c_int) -> c_int;
    fn pam_strerror(handle: *mut c_void, status: c_int) -> *const c_char;
}

/// A handle of libpam, ended when it goes.
struct Session {
    handle: *mut c_void,
    status: c_int,
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the handle came from `pam_start` and is ended here alone.
        unsafe { pam_end(self.handle, self.status) };
    }
}

impl Session {
    /// Turns a status into a result with PAM's own words.
    fn done(&mut self, status: c_int) -> Result<(), Refused> {
        self.status = status;
        if status == SUCCESS {
            return Ok(());
        }
        // SAFETY: the handle is valid; the text is a constant of libpam, or null.
        let text = unsafe {
            let text = pam_strerror(self.handle, status);
            if text.is_null() {
                None
            } else {
                Some(CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        Err(Refused(text.unwrap_or_else(|| format!("status {status}"))))
    }
}

/// Checks a user's password, and that the user may log in. Blocks for as long as hashing takes.
///
/// # Errors
/// What PAM says.
pub fn authenticate(user: &str, password: &str, from: IpAddr) -> Result<(), Refused> {
    if password.is_empty() {
        return Err(Refused("no password".to_owned()));
    }
    let zero = |_| Refused("a zero byte in it".to_owned());
    let user = CString::new(user).map_err(zero)?;
    let mut password = Zeroizing::new(password.as_bytes().to_vec());
    if password.contains(&0) {
        return Err(Refused("a zero byte in it".to_owned()));
    }
    password.push(0);
    let from = CString::new(from.to_string()).map_err(zero)?;
    let conversation = Conversation {
        converse,
        data: password.as_mut_ptr().cast(),
    };
    let mut handle = ptr::null_mut();
    // SAFETY: all texts end in zero and live until the session is dropped, below; so does the
    // conversation and the password that it points to.
    let status = unsafe {
        pam_start(
            SERVICE.as_ptr(),
            user.as_ptr(),
            &raw const conversation,
            &raw mut handle,
        )
    };
    if handle.is_null() {
        return Err(Refused(format!("PAM can not be used: status {status}")));
    }
    let mut session = Session { handle, status };
    session.done(status)?;
    // SAFETY: the handle is valid; PAM copies the text.
    let status = unsafe { pam_set_item(handle, ITEM_REMOTE_HOST, from.as_ptr().cast()) };
    session.done(status)?;
    // SAFETY: the handle is valid; the function is of the type that the item has.
    let status = unsafe { pam_set_item(handle, ITEM_FAIL_DELAY, no_delay as *const c_void) };
    session.done(status)?;
    // SAFETY: the handle is valid.
    let status = unsafe { pam_authenticate(handle, SILENT) };
    session.done(status)?;
    // SAFETY: the handle is valid.
    let status = unsafe { pam_acct_mgmt(handle, SILENT) };
    session.done(status)
}

/// Called instead of waiting after a failure.
extern "C" fn no_delay(_status: c_int, _microseconds: c_uint, _data: *mut c_void) {}

/// Answers each prompt with the password, which `data` points to.
unsafe extern "C" fn converse(
    count: c_int,
    messages: *mut *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int {
    let Ok(length) = usize::try_from(count) else {
        return CONVERSATION_FAILED;
    };
    if !(1..=MESSAGES_MAX).contains(&count) || messages.is_null() || responses.is_null() {
        return CONVERSATION_FAILED;
    }
    // SAFETY: plain allocation; zeroed, so that texts not set below are null.
    let answers: *mut Response = unsafe { libc::calloc(length, size_of::<Response>()) }.cast();
    if answers.is_null() {
        return CONVERSATION_FAILED;
    }
    for place in 0..length {
        // SAFETY: Linux-PAM hands `count` pointers to messages, and `answers` has as many places;
        // `data` is the password with its zero byte.
        unsafe {
            let message = *messages.add(place);
            if !message.is_null() && matches!((*message).style, PROMPT_ECHO_OFF | PROMPT_ECHO_ON) {
                (*answers.add(place)).text = libc::strdup(data.cast());
            }
        }
    }
    // SAFETY: checked above; PAM takes the answers over.
    unsafe { *responses = answers };
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_wrong_password_is_refused_at_once() {
        let start = crate::host::wait::now();
        for user in ["root", "nobody-of-that-name"] {
            assert!(authenticate(user, "certainly not this one", HERE).is_err());
        }
        // `pam_unix` would wait two seconds for each.
        assert!(crate::host::wait::now() - start < std::time::Duration::from_millis(3900));
    }

    #[test]
    fn what_c_can_not_hold_is_refused() {
        assert!(authenticate("root", "", HERE).is_err());
        assert!(authenticate("root", "a\0b", HERE).is_err());
        assert!(authenticate("ro\0ot", "a", HERE).is_err());
    }
}
