//! The kernel's interfaces: polling, processes, files, sockets, inherited descriptors, threads.
//! The only module that may hold `unsafe`. It uses no other module of this crate.

/// Borrows a value's descriptor from one of its fields.
macro_rules! as_fd {
    ($type:ty, $field:tt) => {
        impl std::os::fd::AsFd for $type {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                std::os::fd::AsFd::as_fd(&self.$field)
            }
        }
    };
}

pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod inherited;
pub(crate) mod memory;
pub(crate) mod poll;
pub(crate) mod pool;
pub(crate) mod process;
pub(crate) mod rights;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod sync;

pub(crate) use as_fd;
