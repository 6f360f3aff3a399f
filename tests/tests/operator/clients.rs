//! Clients that write all the while.

pub(crate) use handoff_tests::kvd::{Clients, Connection};
