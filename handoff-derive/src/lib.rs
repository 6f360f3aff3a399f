//! `#[derive(Drainable)]` for the crate [handoff](https://docs.rs/handoff), which re-exports it.

mod ast;
mod attr;
mod errors;
mod expand;
mod fallback;
mod valid;

use proc_macro2::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Writes `handoff::Drainable` for a struct that holds a daemon's state.
///
/// ```ignore
/// #[derive(Drainable)]
/// #[handoff(before_seal = "flush_caches")]
/// struct Kv {
///     #[handoff(gate)]
///     gate: Gate,
///     shards: Vec<Log>, // shards named shards.0, shards.1, ...
///     #[handoff(name = "audit")]
///     audit_log: Log,
///     #[handoff(skip)]
///     metrics: Metrics,
/// }
///
/// impl Kv {
///     fn flush_caches(&self) -> handoff::Result<()> { ... }
/// }
/// ```
///
/// # On a field
///
/// Every field is a shard, or a collection of shards, unless it says otherwise.
///
/// | attribute | meaning |
/// |---|---|
/// | `shards` | the role of a field without an attribute: implements `handoff::Shards` |
/// | `name = "..."` | the shard's name in the data format; without it, the field's |
/// | `was = "..."` | the shard's name in older builds, see below |
/// | `added` | older builds have no such shard |
/// | `resizable` | older builds may have more shards in this collection, or fewer |
/// | `format = 3`, `reads = 1..=3` | the field's own formats, in place of the struct's |
/// | `gate` | a `Gate`, an `Arc<Gate>`, or a `Vec` of either: a drain closes it, serving opens it |
/// | `carry` | connections or memory: `handoff::carry::Carry`; the next build looks up `name` |
/// | `serve` | a gate and connections that are carried, in one: `handoff::drainable::Serve` |
/// | `skip` | nothing to seal or to carry, and no gate |
///
/// # On the struct
///
/// `before_admit`, `after_admit`, `before_drain`, `after_drain`, `before_seal`, `after_seal`,
/// `before_resume` and `after_resume` name a function that takes `&self` and returns nothing
/// or `handoff::Result<()>`. One word is a method of the struct; a path (`Self::flush`,
/// `self::flush`, `crate::hooks::flush`) is used unchanged. `after_resume` runs once the
/// shards are open, and before the gates are. Those of `admit`, `drain` and `seal` are part of the
/// pause. After a commit one of `admit` that goes on failing has the swap undone at its deadline,
/// unless that is more than 60 s away: by then the successor says that it serves, and goes on trying.
/// A shard is fingerprinted before `after_seal`: bytes that this hook writes belong to no shard.
///
/// `retired("...", "...")` names the shards of older builds that this one does not open.
///
/// `format = 3` is the format of the data that this build writes, and `reads = 1..=3` are those that
/// it reads: without `reads` that one alone, without `format` format 1. A start, or a swap, to a
/// build that does not read the format that is there is refused before anything is opened.
///
/// # Builds with another struct
///
/// A new build and an older one open each other's data, in swaps and starts, where the newer one
/// declares the differences (`added`, `was`, `resizable`, `retired`): the seal manifest tells the
/// older one. A name stands for its whole collection. A shard that only one of the two has is compared
/// with nothing, and the log names it. The successor finds an undeclared difference before the drain, in
/// the schema that the incumbent has left beside its data. It finds another length of a `Vec` or a map
/// only once it has opened them. So:
///
/// - `open` leaves the files of the older build where and as they are: that build serves on if the
///   swap is undone. It may write others beside them. Where the older build may come back, leave its
///   files to it; a later build, or a step of `Opening::on_commit` in a one-way swap, removes them.
/// - An older build neither sees nor writes a shard that it does not have. When the newer build comes
///   back it finds that shard as it left it: rebuild one that follows others, such as an index.
/// - Give a build a higher `format` where an older one would not read its data. The bytes of a shard
///   may differ then, so that only its revision is compared. A swap to a format that the present
///   build does not read is one-way, and the supervisor has to allow it (`SpawnSpec::one_way`); a
///   stop and a start need no leave. The conversion keeps the revision of each shard. The number of a
///   field goes on from that of the struct, and the recorded format never falls.
/// - To keep a way back, first release a build that reads the next format and does not write it:
///   `format = 1, reads = 1..=2`. It may go on with data that it finds in format 2.
/// - A build whose struct has a higher format declares all that it lacks. Between builds of one format
///   nobody knows which is the older, so that a declaration of either counts.
/// - Remove a declaration once no build from before it is swapped in or out any more.
///
/// `handoff::testing::Rehearsal` tries all of this with two builds, in a test.
///
/// `no_gate` says that the daemon has no gate on purpose: it serves no requests. Without a gate and
/// without this attribute it logs a warning when it starts.
///
/// `crate = "..."` is the path of the crate handoff, where it is not `::handoff`.
#[proc_macro_derive(Drainable, attributes(handoff))]
pub fn derive_drainable(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    derive(&parse_macro_input!(input as DeriveInput)).into()
}

fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = errors::Errors::default();
    let container = attr::Container::parse(&input.attrs, &mut errors);
    let members = ast::Fields::parse(input, &mut errors)
        .map(|fields| valid::Members::check(fields, &container, &mut errors));
    match (members, errors.finish()) {
        (Some(members), Ok(())) => expand::expand(input, &container, &members),
        (_, outcome) => fallback::expand(input, &container, outcome.err()),
    }
}

#[cfg(test)]
mod tests;
