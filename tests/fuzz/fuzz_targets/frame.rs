//! See `handoff::fuzzing::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| handoff::fuzzing::frame(input));
