//! See `handoff::fuzzing::record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| handoff::fuzzing::record(input));
