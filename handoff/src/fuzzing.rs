//! The checks of the project's fuzz targets. Not part of the API.
//!
//! A target is a function that takes an input and panics where a property does not hold.
//! `tests/fuzz` hands it to libFuzzer; the tests here replay the corpus in `tests/fuzz`. To add
//! one: a file beside these, a line in [`TARGETS`], some seeds, and a binary in `tests/fuzz`.

mod carry;
mod frame;
mod journal;
mod manifest;
mod record;
mod schema;
#[cfg(test)]
mod seeds;
mod session;

pub use carry::carry;
pub use frame::frame;
pub use journal::journal;
pub use manifest::manifest;
pub use record::record;
pub use schema::schema;
pub use session::session;

/// A target: its name, which its corpus has too, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("frame", frame),
    ("record", record),
    ("manifest", manifest),
    ("schema", schema),
    ("journal", journal),
    ("session", session),
    ("carry", carry),
];

/// An input that a target reads from its front. After its end a target reads zeros, so that
/// every input means something.
#[derive(Debug)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// That many bytes, or all that are left.
    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn rest(&mut self) -> &'a [u8] {
        self.bytes(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn corpus(target: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus")).join(target)
    }

    #[test]
    fn every_input_of_the_corpus_passes() {
        for (name, target) in TARGETS {
            let directory = corpus(name);
            let mut inputs: Vec<PathBuf> = fs::read_dir(&directory)
                .unwrap_or_else(|error| panic!("no corpus in {}: {error}", directory.display()))
                .map(|entry| entry.expect("the directory is read").path())
                .collect();
            inputs.sort();
            assert_ne!(inputs, Vec::<PathBuf>::new(), "{} is empty", directory.display());
            for path in inputs {
                let input = fs::read(&path).expect("the input is read");
                if std::panic::catch_unwind(|| target(&input)).is_err() {
                    panic!("{name} fails for {}", path.display());
                }
            }
        }
    }

    /// `WRITE_SEEDS=1 cargo test -p handoff --features fuzzing` writes them.
    #[test]
    fn every_seed_is_in_the_corpus() {
        for (target, _) in TARGETS {
            let seeds = seeds::of(target);
            assert_ne!(seeds.len(), 0, "{target} has no seeds");
            for (name, seed) in seeds {
                let path = corpus(target).join(format!("seed-{name}"));
                if std::env::var_os("WRITE_SEEDS").is_some() {
                    fs::create_dir_all(corpus(target)).expect("the directory is created");
                    fs::write(&path, &seed).expect("the seed is written");
                }
                let kept = fs::read(&path).unwrap_or_default();
                assert_eq!(kept, seed, "{} is another: WRITE_SEEDS=1", path.display());
            }
        }
    }

    #[test]
    fn an_input_that_has_ended_goes_on_with_zeros() {
        let mut input = Input(&[1, 2, 3]);
        assert_eq!(input.byte(), 1);
        assert_eq!(input.number(), 0x0302);
        assert!(input.is_empty());
        assert_eq!(input.array(), [0; 4]);
        assert!(input.rest().is_empty());
    }
}
