//! The demonstration of the server: `kvd demo`, and its supervisor, `kvd supervise`.
//!
//! `demonstration.rs` runs clients and swaps, and prints the results; with `--kill-supervisor`,
//! `kill.rs` kills the supervisor on the way. The supervisor is a process of its own:
//! `supervise.rs` adopts a server or starts one, `swap.rs` swaps it, and `report.rs` has the lines
//! that the two processes write to each other. `processes.rs` starts and ends the supervisor,
//! `clients.rs` loads the server, and `table.rs` shows the results.

mod clients;
mod demonstration;
mod kill;
mod processes;
mod report;
mod supervise;
mod swap;
mod table;

pub(crate) use demonstration::run;
pub(crate) use supervise::supervise;
