//! Builds of one daemon whose struct changes: `fixture-structs CONTROL DATA BUILD`. Each appends a byte
//! to each of its shards as soon as it serves.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use handoff::daemon::{Daemon, Opening};
use handoff::drainable::digest_file;
use handoff::{Drainable, Gate, Result, Shard};
use signal_hook::{consts::SIGTERM, iterator::Signals};

/// A file whose revision is its length.
struct File(PathBuf);

impl File {
    fn open(data: &Path, name: impl AsRef<Path>) -> Result<Self> {
        let path = data.join(name);
        OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self(path))
    }

    fn write(&self) -> Result<()> {
        Ok(OpenOptions::new().append(true).open(&self.0)?.write_all(b"+")?)
    }
}

impl Shard for File {
    fn seal(&self) -> Result<u64> {
        Ok(self.revision())
    }

    fn revision(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        digest_file(&self.0)
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

trait Files: Drainable + Sized + 'static {
    fn open(data: &Path) -> Result<Self>;
}

fn tables(data: &Path, count: usize) -> Result<Vec<File>> {
    (0..count).map(|index| File::open(data, format!("tables.{index}"))).collect()
}

/// A build: its attributes, its fields with theirs, and the values of these.
macro_rules! build {
    ($name:ident, $(#[$attribute:meta])* {
        $($(#[$of_field:meta])* $field:ident: $type:ty = $value:expr,)*
    }) => {
        #[derive(Drainable)]
        #[handoff(after_admit = "write")]
        $(#[$attribute])*
        struct $name {
            #[handoff(gate)]
            gate: Gate,
            $($(#[$of_field])* $field: $type,)*
        }

        impl $name {
            fn write(&self) -> Result<()> {
                $(for shard in [&self.$field].into_iter().flat_map(Each::each) {
                    shard.write()?;
                })*
                Ok(())
            }
        }

        impl Files for $name {
            fn open(data: &Path) -> Result<Self> {
                Ok(Self { gate: Gate::new(), $($field: $value(data)?,)* })
            }
        }
    };
}

trait Each {
    fn each(&self) -> &[File];
}

impl Each for File {
    fn each(&self) -> &[File] {
        std::slice::from_ref(self)
    }
}

impl Each for Vec<File> {
    fn each(&self) -> &[File] {
        self
    }
}

const LOG: fn(&Path) -> Result<File> = |data| File::open(data, "log");
const AUDIT: fn(&Path) -> Result<File> = |data| File::open(data, "audit");
const INDEX: fn(&Path) -> Result<File> = |data| File::open(data, "index");
const TWO: fn(&Path) -> Result<Vec<File>> = |data| tables(data, 2);
const FOUR: fn(&Path) -> Result<Vec<File>> = |data| tables(data, 4);

build!(Base, { log: File = LOG, audit: File = AUDIT, tables: Vec<File> = TWO, });
build!(Reordered, { tables: Vec<File> = TWO, audit: File = AUDIT, log: File = LOG, });

build!(Added, {
    #[handoff(added)]
    index: File = INDEX,
    log: File = LOG,
    audit: File = AUDIT,
    tables: Vec<File> = TWO,
});
build!(Removed, #[handoff(retired("audit"))] { log: File = LOG, tables: Vec<File> = TWO, });
build!(Renamed, {
    #[handoff(was = "log")]
    journal: File = LOG,
    audit: File = AUDIT,
    #[handoff(name = "pages", was = "tables")]
    tables: Vec<File> = TWO,
});
build!(Grown, {
    log: File = LOG,
    audit: File = AUDIT,
    #[handoff(resizable)]
    tables: Vec<File> = FOUR,
});

build!(AddedOnly, {
    index: File = INDEX,
    log: File = LOG,
    audit: File = AUDIT,
    tables: Vec<File> = TWO,
});
build!(RemovedOnly, { log: File = LOG, tables: Vec<File> = TWO, });
build!(RenamedOnly, {
    journal: File = LOG,
    audit: File = AUDIT,
    #[handoff(name = "pages")]
    tables: Vec<File> = TWO,
});
build!(GrownOnly, { log: File = LOG, audit: File = AUDIT, tables: Vec<File> = FOUR, });

fn run<F: Files>(control: &str, data: &str) -> Result<()> {
    let open = |(), opening: &mut Opening<'_>| {
        let files = F::open(opening.data_dir())?;
        let (stop, mut signals) = (opening.stop_handle(), Signals::new([SIGTERM])?);
        std::thread::spawn(move || signals.forever().for_each(|_| stop.stop()));
        Ok(files)
    };
    Daemon::new(control, data).run(|_warm| Ok(()), open).map(drop)
}

fn main() -> ExitCode {
    match of_build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn of_build() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [control, data, build] = &arguments[..] else { panic!("CONTROL DATA BUILD") };
    match &**build {
        "base" => run::<Base>(control, data),
        "reordered" => run::<Reordered>(control, data),
        "added" => run::<Added>(control, data),
        "removed" => run::<Removed>(control, data),
        "renamed" => run::<Renamed>(control, data),
        "grown" => run::<Grown>(control, data),
        "added only" => run::<AddedOnly>(control, data),
        "removed only" => run::<RemovedOnly>(control, data),
        "renamed only" => run::<RenamedOnly>(control, data),
        "grown only" => run::<GrownOnly>(control, data),
        other => panic!("no build is called {other}"),
    }
}
