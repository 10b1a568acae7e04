//! Parameters of a request: the query, and a body that is a form or a JSON object.
//!
//! Invariant: every value is text; what is not UTF-8 is refused before anybody reads it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::ApiError;

/// Values by name, in the order of the request.
pub type Values = BTreeMap<String, Vec<String>>;

/// How many parameters a request may have.
const COUNT_MAX: usize = 128;

/// Adds what is in `name=value&name=value`.
///
/// # Errors
/// When a name or value is not UTF-8, or there are too many.
pub fn decode_form(text: &[u8], into: &mut Values) -> Result<(), ApiError> {
    let pairs = text.split(|byte| matches!(byte, b'&' | b';'));
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let name = decoded(halves.next().unwrap_or_default())?;
        let value = decoded(halves.next().unwrap_or_default())?;
        add(into, name, value)?;
    }
    Ok(())
}

/// Adds the members of a JSON object.
///
/// # Errors
/// When it is none, or has other objects in it.
pub fn decode_json(text: &[u8], into: &mut Values) -> Result<(), ApiError> {
    let refused = || ApiError::new(400, "the body is no JSON object");
    let value: Value = serde_json::from_slice(text).map_err(|_| refused())?;
    let Value::Object(members) = value else {
        return Err(refused());
    };
    for (name, value) in members {
        match value {
            Value::Null => {}
            Value::Array(values) => {
                for value in values {
                    add(into, name.clone(), scalar(&name, value)?)?;
                }
            }
            value => {
                let value = scalar(&name, value)?;
                add(into, name, value)?;
            }
        }
    }
    Ok(())
}

fn scalar(name: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(yes) => Ok(u8::from(yes).to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(ApiError::parameter(
            name,
            "type check ('string') failed - got an object",
        )),
    }
}

fn add(into: &mut Values, name: String, value: String) -> Result<(), ApiError> {
    into.entry(name).or_default().push(value);
    if into.values().map(Vec::len).sum::<usize>() > COUNT_MAX {
        return Err(ApiError::new(400, "too many parameters"));
    }
    Ok(())
}

fn decoded(text: &[u8]) -> Result<String, ApiError> {
    String::from_utf8(percent_decode(text, true))
        .map_err(|_| ApiError::new(400, "a parameter is not UTF-8"))
}

/// Replaces `%XX`, and `+` by a blank if asked to. What looks like an escape and is none stays.
#[must_use]
pub fn percent_decode(text: &[u8], plus: bool) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escape = match byte {
            b'%' => digit(text.get(at + 1)).zip(digit(text.get(at + 2))),
            _ => None,
        };
        match (
            escape.map(|(high, low)| u8::try_from(high * 16 + low)),
            byte,
        ) {
            (Some(Ok(escaped)), _) => {
                bytes.push(escaped);
                at += 2;
            }
            (_, b'+') if plus => bytes.push(b' '),
            (_, byte) => bytes.push(*byte),
        }
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn form(text: &str) -> Values {
        let mut values = Values::new();
        decode_form(text.as_bytes(), &mut values).unwrap();
        values
    }

    #[test]
    fn forms_are_decoded() {
        let values = form("username=root%40pam&password=a+b%2B%26%3D%25&empty=&none;x=1&x=2");
        assert_eq!(values["username"], ["root@pam"]);
        assert_eq!(values["password"], ["a b+&=%"]);
        assert_eq!(values["empty"], [""]);
        assert_eq!(values["none"], [""]);
        assert_eq!(values["x"], ["1", "2"]);
        assert_eq!(form("a=%zz%4")["a"], ["%zz%4"]);
        assert!(decode_form(b"a=%ff", &mut Values::new()).is_err());
        assert!(decode_form(b"a&".repeat(200).as_slice(), &mut Values::new()).is_err());
    }

    #[test]
    fn json_objects_are_taken_like_forms() {
        let mut values = Values::new();
        let text = br#"{"a":"x","b":1,"c":true,"d":null,"e":["1",2]}"#;
        decode_json(text, &mut values).unwrap();
        let wanted = form("a=x&b=1&c=1&e=1&e=2");
        assert_eq!(values, wanted);
        for refused in ["", "[]", "1", "{", r#"{"a":{}}"#, r#"{"a":[[]]}"#] {
            assert!(decode_json(refused.as_bytes(), &mut Values::new()).is_err());
        }
        let deep = "[".repeat(100_000);
        assert!(decode_json(deep.as_bytes(), &mut Values::new()).is_err());
    }

    fn encode(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(name in ".{1,20}", value in ".{0,50}") {
            let values = form(&format!("{}={}", encode(&name), encode(&value)));
            prop_assert_eq!(&values[&name], &[value]);
        }

        #[test]
        fn no_bytes_are_too_strange(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(decode_form(&text, &mut Values::new()));
            drop(decode_json(&text, &mut Values::new()));
        }
    }
}
