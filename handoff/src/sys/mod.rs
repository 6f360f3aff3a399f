//! What needs the kernel's word: polling, processes, sockets, inherited descriptors, threads. The
//! only module that may hold `unsafe`. It uses nothing of ours.

pub(crate) mod inherited;
pub(crate) mod memory;
pub(crate) mod poll;
pub(crate) mod pool;
pub(crate) mod process;
pub(crate) mod rights;
pub(crate) mod socket;
