//! Scenarios with real processes: a daemon that can be told to fail, a supervisor that can be
//! told to hang or die, and a harness that starts both and checks what must hold.
//!
//! [`fixture`] is what the helper binaries are made of, [`harness`] what the scenarios use, and
//! [`arena`] what the matrix of faults and the soak are run in. [`systemd`] boots the service manager of
//! the test of that name, [`books`] is the daemon of the test `power`, and [`figures`] is for the benches.

pub mod arena;
pub mod books;
pub mod figures;
pub mod fixture;
pub mod grpc;
pub mod harness;
pub mod kvd;
pub mod log;
pub mod systemd;
