//! See `handoff::fuzzing::journal`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| handoff::fuzzing::journal(input));
