//! The units that the program ships, under a real systemd, with the example daemon behind them and
//! clients that write all the while.
//!
//! All scenarios share one machine; each has an instance of the units of its own. Where no machine can
//! be booted they are skipped by name; with `HANDOFF_SYSTEMD=required` that is a failure.

mod hardened;
mod instance;
mod life;
mod machine;
mod sockets;
mod watched;
