//! Redis's own tools, unmodified, against the example daemon: `redis-cli` and
//! `redis-benchmark` have to be installed (Debian: `redis-tools`). They stay connected while it
//! is replaced, and so does a client that stands in the midst of a command.

mod benchmark;
mod commands;
mod halves;
mod kvd;
mod session;
