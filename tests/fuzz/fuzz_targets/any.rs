//! Any target, for libFuzzer: the variable `FUZZ_TARGET` has its name.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tests::fuzz::{Target, find};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        match find(&name) {
            Ok(target) => drop(TARGET.set(target)),
            Err(error) => {
                eprintln!("FUZZ_TARGET: {error}");
                std::process::exit(1);
            }
        }
    },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(input);
        }
    }
);
