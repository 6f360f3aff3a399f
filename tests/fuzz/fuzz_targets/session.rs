//! See `handoff::fuzzing::session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| handoff::fuzzing::session(input));
