//! A control connection: frames and the descriptors beside them, the greeting at its beginning,
//! and the sockets that are passed to a process.
//!
//! ```text
//! Connection   frames in, frames out, descriptors; never waits without a deadline
//!   Link       for two threads: one reads and writes, the pulse sends heartbeats in between
//! greet        the hello of a process, and the supervisor's answer
//! Listeners    the sockets that a process inherited, and gives back to an adopting supervisor
//! ```

mod connection;
mod greeting;
mod link;
mod listeners;
mod socket;

pub(crate) use connection::{Connection, Heard, encode_all, send_some};
pub(crate) use greeting::{
    Greeting, echo_value, greet, hear_hello, hello, hello_ack, judge_hello_ack,
};
pub(crate) use link::{HEARTBEAT_INTERVAL, LIVENESS_TIMEOUT, Link, Lost, Pulse, Received};
pub use listeners::Listeners;
pub(crate) use listeners::{
    CONTROL_VARIABLE, FIRST_DESCRIPTOR, ONE_WAY_VARIABLE, Passed, check_name,
};
pub(crate) use socket::{bind_hidden, check_path, connect};
