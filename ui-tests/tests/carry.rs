//! What goes to the next process: one misuse a file.

#[test]
fn carry() {
    trybuild::TestCases::new().compile_fail("tests/carry/*.rs");
}
