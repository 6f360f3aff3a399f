//! `#[derive(Drainable)]`: one misuse a file, and what has to compile.

#[test]
fn derive() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/derive/pass/*.rs");
    cases.compile_fail("tests/derive/*.rs");
}
