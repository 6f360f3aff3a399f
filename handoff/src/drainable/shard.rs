//! One independently sealed part of a daemon's state, and collections of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::error::Result;

/// One independently sealed part of a daemon's state: a log, a database file, a directory.
///
/// Shards take `&self`, because requests use them while the library holds them; a shard
/// brings its own lock. After [`seal`](Self::seal) a write must fail until
/// [`resume`](Self::resume): a request that outlived the drain may still try one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a shard",
    note = "implement `handoff::Shard` for it",
    note = "or say what the field is, since each is a shard unless it says otherwise: \
            `#[handoff(skip)]` where there is nothing to seal, `#[handoff(gate)]` for a gate, \
            `#[handoff(carry)]` for connections and memory"
)]
pub trait Shard: Send + Sync {
    /// Flushes and syncs the writes until now, outside the pause, so that [`seal`](Self::seal)
    /// finds little to do and clients wait less. Does nothing by default.
    ///
    /// An incumbent calls it ahead of a drain, and again if that took long, and before the last
    /// seal of a clean stop. A successor calls it right after the commit, and there it has to cover
    /// the incumbent's writes too. Requests may be in flight each time. Hold no lock that a request
    /// waits for while the disk works: a duplicate of the file (`try_clone`) can be synced beside
    /// it.
    ///
    /// After a sync that failed, fail from then on, or write anew everything that was not synced:
    /// the kernel tells the error once, may have dropped the writes, and lets the next sync
    /// succeed.
    ///
    /// # Errors
    ///
    /// Ahead of a drain any error undoes the swap: writes that cannot be synced now could not be
    /// synced later. After a commit the successor logs it, and the next drain or stop fails with
    /// it. At a stop, the stop fails with it.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Flushes, syncs and closes for writing. Returns the last revision:
    /// [`revision`](Self::revision) returns it from here on, also in the process that opens the
    /// shard next. The incumbent writes it to the seal manifest.
    ///
    /// Where an acknowledgement never promised that a write is durable, the shard may leave the
    /// sync to [`settle`](Self::settle): it is enough to have written (invariant 2). The successor
    /// reads the incumbent's writes, whether or not they are on the disk yet, and syncs them right
    /// after the commit. A crash of the machine in between takes no more than it could have taken
    /// without a swap. The bytes that `seal` itself writes, it syncs.
    ///
    /// # Errors
    ///
    /// Any error undoes the swap, and [`resume`](Self::resume) follows.
    fn seal(&self) -> Result<u64>;

    /// The revision now: it grows with every committed write, and survives a restart.
    /// Called at any time, also of a sealed shard.
    fn revision(&self) -> u64;

    /// BLAKE3 over the contents, by the shard's own account: the same bytes sealed here and
    /// opened in the successor give the same digest.
    ///
    /// Called after a seal, and of a shard that was just opened. It is part of the pause, so
    /// a shard of any size keeps a running digest, or caches it until the next write.
    ///
    /// # Errors
    ///
    /// An error after a seal undoes the swap; one after an opening keeps the successor from
    /// serving.
    fn fingerprint(&self) -> Result<[u8; 32]>;

    /// Opens for writing again, from disk: another process may have written since the seal.
    ///
    /// It may be called twice, and after a seal that failed or never ran: a shard that is not
    /// sealed has nothing to do. Requests may be in flight then, since a drain that was cut
    /// short waits for none, so change the shard under its own lock.
    ///
    /// # Errors
    ///
    /// The incumbent repeats the call until it succeeds (invariant 5).
    fn resume(&self) -> Result<()>;
}

macro_rules! deref_shard {
    ($($pointer:ty),*) => {$(
        #[diagnostic::do_not_recommend]
        impl<T: Shard + ?Sized> Shard for $pointer {
            fn settle(&self) -> Result<()> {
                (**self).settle()
            }
            fn seal(&self) -> Result<u64> {
                (**self).seal()
            }
            fn revision(&self) -> u64 {
                (**self).revision()
            }
            fn fingerprint(&self) -> Result<[u8; 32]> {
                (**self).fingerprint()
            }
            fn resume(&self) -> Result<()> {
                (**self).resume()
            }
        }
    )*};
}

deref_shard!(&T, Box<T>, Arc<T>);

/// A type that a field of a daemon's state may have: one shard, or a collection of shards.
///
/// The elements of the field `logs` are named `logs.0`, `logs.1`, or `logs.KEY` in a map;
/// the name is part of the data format. An `Option` that is `None` holds no shard.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a shard nor a collection of shards",
    label = "not a shard",
    note = "implement `handoff::Shard` for it, or for its elements",
    note = "or say what the field is, since each is a shard unless it says otherwise: \
            `#[handoff(skip)]` where there is nothing to seal, `#[handoff(gate)]` for a gate, \
            `#[handoff(carry)]` for connections and memory"
)]
pub trait Shards: Send + Sync {
    /// Calls `visit` with every shard and its name, in an order that depends on the names
    /// and places alone. `name` is the name of the whole.
    fn each_shard<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, &'a dyn Shard));

    /// How many shards every value of this type holds.
    fn extent() -> Extent
    where
        Self: Sized,
    {
        Extent::Varies
    }
}

/// How many shards a field holds, as far as its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// One, of the field's own name.
    One,
    /// That many elements.
    Elements(usize),
    /// Only the value says.
    Varies,
}

impl Extent {
    /// The end of the first name that only one of two fields with shards of one name has.
    pub(crate) fn first_unlike(self, other: Self) -> Option<String> {
        match (self, other) {
            (Self::Varies, _) | (_, Self::Varies) => None,
            (Self::Elements(one), Self::Elements(another)) => {
                (one != another).then(|| format!(".{}", one.min(another)))
            }
            (one, another) => (one != another).then(String::new),
        }
    }
}

impl<T: Shard> Shards for T {
    fn each_shard<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, &'a dyn Shard)) {
        visit(name.to_owned(), self);
    }

    fn extent() -> Extent {
        Extent::One
    }
}

impl<T: Shards> Shards for Option<T> {
    fn each_shard<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, &'a dyn Shard)) {
        self.iter().for_each(|shards| shards.each_shard(name, visit));
    }
}

impl<T: Shards> Shards for Vec<T> {
    fn each_shard<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, &'a dyn Shard)) {
        for (index, shards) in self.iter().enumerate() {
            shards.each_shard(&element(name, index), visit);
        }
    }
}

impl<T: Shards, const N: usize> Shards for [T; N] {
    fn each_shard<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, &'a dyn Shard)) {
        for (index, shards) in self.iter().enumerate() {
            shards.each_shard(&element(name, index), visit);
        }
    }

    fn extent() -> Extent {
        Extent::Elements(N)
    }
}

/// In the order of the keys.
impl<K: Display + Send + Sync, T: Shards> Shards for BTreeMap<K, T> {
    fn each_shard<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, &'a dyn Shard)) {
        for (key, shards) in self {
            shards.each_shard(&element(name, key), visit);
        }
    }
}

/// In the order of the names, since a hash map has none.
impl<K: Display + Send + Sync, T: Shards, S: BuildHasher + Send + Sync> Shards
    for HashMap<K, T, S>
{
    fn each_shard<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, &'a dyn Shard)) {
        let mut named: Vec<_> =
            self.iter().map(|(key, shards)| (element(name, key), shards)).collect();
        named.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (name, shards) in named {
            shards.each_shard(&name, visit);
        }
    }
}

macro_rules! tuple_of_shards {
    ($($T:ident $index:tt),*) => {
        #[diagnostic::do_not_recommend]
        impl<$($T: Shards),*> Shards for ($($T,)*) {
            fn each_shard<'a>(
                &'a self,
                name: &str,
                visit: &mut dyn FnMut(String, &'a dyn Shard),
            ) {
                $(self.$index.each_shard(&element(name, $index), visit);)*
            }

            fn extent() -> Extent {
                Extent::Elements([$($index),*].len())
            }
        }
    };
}

tuple_of_shards!(A 0);
tuple_of_shards!(A 0, B 1);
tuple_of_shards!(A 0, B 1, C 2);
tuple_of_shards!(A 0, B 1, C 2, D 3);
tuple_of_shards!(A 0, B 1, C 2, D 3, E 4);
tuple_of_shards!(A 0, B 1, C 2, D 3, E 4, F 5);

fn element(name: &str, key: impl Display) -> String {
    format!("{name}.{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still(u64);

    impl Shard for Still {
        fn seal(&self) -> Result<u64> {
            Ok(self.0)
        }
        fn revision(&self) -> u64 {
            self.0
        }
        fn fingerprint(&self) -> Result<[u8; 32]> {
            Ok([0; 32])
        }
        fn resume(&self) -> Result<()> {
            Ok(())
        }
    }

    fn seen(shards: &impl Shards) -> Vec<(String, u64)> {
        let mut seen = Vec::new();
        shards.each_shard("field", &mut |name, shard| seen.push((name, shard.revision())));
        seen
    }

    fn named(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(name, revision)| ((*name).to_owned(), *revision)).collect()
    }

    #[test]
    fn a_shard_and_pointers_to_one_have_the_field_s_name() {
        assert_eq!(seen(&Still(7)), named(&[("field", 7)]));
        assert_eq!(seen(&&Still(7)), named(&[("field", 7)]));
        assert_eq!(seen(&Box::new(Still(7))), named(&[("field", 7)]));
        let dynamic: Box<dyn Shard> = Box::new(Still(7));
        assert_eq!(seen(&dynamic), named(&[("field", 7)]));
        let shared: Arc<dyn Shard> = Arc::new(Still(7));
        assert_eq!(seen(&shared), named(&[("field", 7)]));
    }

    #[test]
    fn elements_are_named_by_their_place() {
        assert_eq!(seen(&vec![Still(3), Still(4)]), named(&[("field.0", 3), ("field.1", 4)]));
        assert_eq!(seen(&[Still(3), Still(4)]), named(&[("field.0", 3), ("field.1", 4)]));
        assert_eq!(
            seen(&(Still(3), vec![Still(4), Still(5)])),
            named(&[("field.0", 3), ("field.1.0", 4), ("field.1.1", 5)])
        );
    }

    #[test]
    fn a_map_s_elements_are_named_by_their_keys_in_one_order() {
        let sorted = BTreeMap::from([(10, Still(1)), (9, Still(2))]);
        assert_eq!(seen(&sorted), named(&[("field.9", 2), ("field.10", 1)]));
        let hashed: HashMap<String, Still> =
            (0..32).map(|n| (format!("{n:02}"), Still(n))).collect();
        let expected: Vec<_> = (0..32).map(|n| (format!("field.{n:02}"), n)).collect();
        assert_eq!(seen(&hashed), expected);
    }

    #[test]
    fn what_is_empty_holds_no_shard() {
        assert_eq!(seen(&Vec::<Still>::new()), []);
        assert_eq!(seen(&None::<Still>), []);
        assert_eq!(seen(&Some(Still(2))), named(&[("field", 2)]));
    }
}
