#![no_implicit_prelude]
#![deny(warnings)]
#![allow(non_upper_case_globals, dead_code)]

// Everything that the derive's output could mean by a bare name means something else here.
struct Result;
struct Vec;
struct Option;
struct Box;
struct ShardList;
struct Carriage;
struct Connections;
struct Memory;
struct Drainable;
struct Ok;
struct Some;
const shard_list: u8 = 0;
const gates: u8 = 0;
const carriage: u8 = 0;
const moment: u8 = 0;
const deadline: u8 = 0;
const progress: u8 = 0;
mod handoff {}
mod std {}
mod core {}

struct Log;

impl ::handoff::Shard for Log {
    fn seal(&self) -> ::handoff::Result<u64> {
        ::std::result::Result::Ok(0)
    }
    fn revision(&self) -> u64 {
        0
    }
    fn fingerprint(&self) -> ::handoff::Result<[u8; 32]> {
        ::std::result::Result::Ok([0; 32])
    }
    fn resume(&self) -> ::handoff::Result<()> {
        ::std::result::Result::Ok(())
    }
}

#[derive(::handoff::Drainable)]
#[handoff(
    before_seal = "flush",
    after_resume = "self::resumed",
    after_seal = "<Self as Hooks>::sealed"
)]
struct Kv<S> {
    #[handoff(gate)]
    gate: ::handoff::Gate,
    #[handoff(carry)]
    cache: ::handoff::carry::Memory,
    log: Log,
    tables: ::std::vec::Vec<S>,
    #[handoff(skip)]
    requests: u64,
}

#[derive(::handoff::Drainable)]
struct Nothing;

trait Hooks {
    fn sealed(&self) {}

    // Methods of the same names as the library's, which must not be called instead.
    fn drain(&self) {}
    fn hook(&self) {}
    fn seal(&self) {}
    fn carriage(&self) {}
}

impl<S> Hooks for Kv<S> {}

impl<S> Kv<S> {
    fn flush(&self) -> ::handoff::Result<()> {
        ::std::result::Result::Ok(())
    }

    fn shard_list(&self) {}
    fn with(&self) {}
}

fn resumed<S>(_: &Kv<S>) {}

fn main() {
    let kv = Kv {
        gate: ::handoff::Gate::new(),
        cache: ::handoff::carry::Memory::new(),
        log: Log,
        tables: ::std::vec![Log, Log],
        requests: 0,
    };
    let sealed = ::handoff::Drainable::seal(&kv);
    ::std::assert!(::std::matches!(
        sealed,
        ::std::result::Result::Ok(report) if report.last_revision_per_shard.len() == 3
    ));
    ::std::assert!(::handoff::Drainable::resume_after_abort(&kv).is_ok());
    ::std::assert!(::handoff::Drainable::carriage(&kv).len() == 1);
    ::std::assert!(::handoff::Drainable::seal(&Nothing).is_ok());
}
