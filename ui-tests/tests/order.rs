//! The order of a swap: one misuse a file, on the supervisor's side and the successor's.

#[test]
fn order() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/order/pass/*.rs");
    cases.compile_fail("tests/order/*.rs");
}
