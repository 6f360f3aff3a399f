//! Scenarios with real processes. Each is named for what happens, or does not, and ends in
//! the one check of what must always hold.

mod aborts;
mod adoption;
mod carry;
mod commits;
mod descriptors;
mod directories;
mod environment;
mod hooks;
mod hostile;
mod pause;
mod peers;
mod processes;
mod sessions;
mod states;
mod supervisors;
mod unfit;
mod writers;
