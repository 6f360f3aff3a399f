//! See `handoff::fuzzing::manifest`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| handoff::fuzzing::manifest(input));
