//! The program `handoff`, used as an operator would: at a terminal, with the example daemon behind
//! it and clients that write all the while.

mod clients;
mod day;
mod dead_ends;
mod faults;
mod hangup;
mod health;
mod hidden;
mod inputs;
mod listeners;
mod logs;
mod manager;
mod names;
mod notify;
mod once;
mod one_way;
mod pause;
mod security;
mod stopping;
mod tools;
mod world;
