//! Scenarios with real processes: a daemon that can be told to fail, a supervisor that can be
//! told to hang or die, and a harness that starts both and checks what must hold.
//!
//! [`fixture`] is what the helper binaries are made of, [`harness`] what the scenarios use.

pub mod fixture;
pub mod harness;
