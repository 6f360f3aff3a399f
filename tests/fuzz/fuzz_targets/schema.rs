//! See `handoff::fuzzing::schema`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| handoff::fuzzing::schema(input));
