//! `#[derive(Drainable)]`.
