//! See `handoff::fuzzing::carry`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| handoff::fuzzing::carry(input));
