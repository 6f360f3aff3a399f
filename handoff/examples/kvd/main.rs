//! A key-value server that speaks RESP2, keeps its data in sixteen redb files, and is replaced
//! while its clients stay connected.
//!
//! The parts that make it replaceable are `serve.rs` (the state, and how a process opens it),
//! `store.rs` (a shard that can be sealed and resumed) and `connection.rs` (requests pass a gate,
//! and connections go from process to process); the values of `cache.rs` go with them.
//! Without arguments the program demonstrates itself: `cargo run --release --example kvd`. With
//! `-- --kill-supervisor` after that, the server outlives its supervisor. The demonstration and
//! its supervisor are in the folder `demo`; no module of the server uses them.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test fails by it"))]

mod blob;
mod cache;
mod cli;
mod command;
mod connection;
mod demo;
mod execute;
mod resp;
mod serve;
mod store;
mod writer;

use std::process::ExitCode;

use crate::cli::Task;

/// Any error that ends the program.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let task = match cli::parse(std::env::args_os().skip(1)) {
        Ok(task) => task,
        Err(error) => {
            eprintln!("kvd: {error}; see kvd --help");
            return ExitCode::from(2);
        }
    };
    let outcome = match task {
        Task::Demo(options) => demo::run(&options),
        Task::Serve(options) => serve::serve(&options),
        Task::Supervise(options) => demo::supervise(options),
        Task::Help => {
            println!("{}", cli::HELP);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvd: {error}");
            ExitCode::FAILURE
        }
    }
}
