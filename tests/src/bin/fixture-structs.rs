//! Builds of one daemon whose struct changes: `fixture-structs CONTROL DATA BUILD`. Each appends a byte
//! to each of its shards as soon as it serves.
//!
//! Format 2 has the log in a file of another name. The builds that write it move the log there once
//! they have committed; a file `broken` in the data directory fails the first try of that, and a
//! file `slow` makes it take 300 ms.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

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

/// The log of a build that reads the formats 1 and 2.
struct Log {
    one: PathBuf,
    two: PathBuf,
}

impl Log {
    fn open(data: &Path) -> Result<Self> {
        let log = Self { one: data.join("log"), two: data.join("log.of-format-2") };
        log.now()?;
        Ok(log)
    }

    fn now(&self) -> Result<File> {
        let path = if self.two.exists() { &self.two } else { &self.one };
        File::open(Path::new(""), path)
    }

    /// What format 1 cannot undo: its builds do not know the other file.
    fn migrate(data: &Path) -> Result<()> {
        if fs::remove_file(data.join("broken")).is_ok() {
            return Err(std::io::Error::other("the disk is broken").into());
        }
        if fs::remove_file(data.join("slow")).is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
        let Self { one, two } = Self::open(data)?;
        if one.exists() {
            let contents = fs::read_to_string(&one)?;
            fs::write(two.with_extension("new"), contents.replace('+', "*"))?;
            fs::rename(two.with_extension("new"), two)?;
            fs::remove_file(one)?;
        }
        Ok(())
    }
}

impl Shard for Log {
    fn seal(&self) -> Result<u64> {
        self.now()?.seal()
    }

    fn revision(&self) -> u64 {
        self.now().map_or(0, |file| file.revision())
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        self.now()?.fingerprint()
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

trait Files: Drainable + Sized + 'static {
    /// Whether it writes format 2.
    const MIGRATES: bool;

    fn open(data: &Path) -> Result<Self>;
}

fn tables<const N: usize>(data: &Path) -> Result<[File; N]> {
    let tables: Result<Vec<File>> =
        (0..N).map(|index| File::open(data, format!("tables.{index}"))).collect();
    Ok(tables?.try_into().unwrap_or_else(|_| unreachable!("it has as many")))
}

/// A build: its attributes, its fields with theirs, and the values of these.
macro_rules! build {
    ($name:ident, $(migrates $migrates:literal,)? $(#[$attribute:meta])* {
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
                $(Writes::write(&self.$field)?;)*
                Ok(())
            }
        }

        impl Files for $name {
            const MIGRATES: bool = false $(|| $migrates)?;

            fn open(data: &Path) -> Result<Self> {
                Ok(Self { gate: Gate::new(), $($field: $value(data)?,)* })
            }
        }
    };
}

trait Writes {
    fn write(&self) -> Result<()>;
}

impl Writes for File {
    fn write(&self) -> Result<()> {
        Self::write(self)
    }
}

impl Writes for Log {
    fn write(&self) -> Result<()> {
        self.now()?.write()
    }
}

impl Writes for Vec<File> {
    fn write(&self) -> Result<()> {
        self.iter().try_for_each(File::write)
    }
}

impl<const N: usize> Writes for [File; N] {
    fn write(&self) -> Result<()> {
        self.iter().try_for_each(File::write)
    }
}

const LOG: fn(&Path) -> Result<File> = |data| File::open(data, "log");
const AUDIT: fn(&Path) -> Result<File> = |data| File::open(data, "audit");
const INDEX: fn(&Path) -> Result<File> = |data| File::open(data, "index");
const TWO: fn(&Path) -> Result<[File; 2]> = tables;
const FOUR: fn(&Path) -> Result<[File; 4]> = tables;
const MANY: fn(&Path) -> Result<Vec<File>> = |data| tables::<4>(data).map(Vec::from);

build!(Base, { log: File = LOG, audit: File = AUDIT, tables: [File; 2] = TWO, });
build!(Reordered, { tables: [File; 2] = TWO, audit: File = AUDIT, log: File = LOG, });

build!(Added, {
    #[handoff(added)]
    index: File = INDEX,
    log: File = LOG,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(Removed, #[handoff(retired("audit"))] { log: File = LOG, tables: [File; 2] = TWO, });
build!(Renamed, {
    #[handoff(was = "log")]
    journal: File = LOG,
    audit: File = AUDIT,
    #[handoff(name = "pages", was = "tables")]
    tables: [File; 2] = TWO,
});
build!(Grown, {
    log: File = LOG,
    audit: File = AUDIT,
    #[handoff(resizable)]
    tables: [File; 4] = FOUR,
});

build!(AddedOnly, {
    index: File = INDEX,
    log: File = LOG,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(RemovedOnly, { log: File = LOG, tables: [File; 2] = TWO, });
build!(RenamedOnly, {
    journal: File = LOG,
    audit: File = AUDIT,
    #[handoff(name = "pages")]
    tables: [File; 2] = TWO,
});
build!(GrownOnly, { log: File = LOG, audit: File = AUDIT, tables: [File; 4] = FOUR, });

build!(Vector, { log: File = LOG, audit: File = AUDIT, tables: Vec<File> = MANY, });

build!(Formatted, migrates true, #[handoff(format = 2, reads = 1..=2)] {
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(FormattedOnly, migrates true, #[handoff(format = 2)] {
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(Ready, #[handoff(format = 1, reads = 1..=2)] {
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(LogFormatted, migrates true, {
    #[handoff(format = 2, reads = 1..=2)]
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(LogFormattedOnly, migrates true, {
    #[handoff(format = 2)]
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(LogReady, {
    #[handoff(format = 1, reads = 1..=2)]
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
// A newer build has lost a shard that it declares nowhere as retired.
build!(NewerLoses, #[handoff(format = 3, reads = 1..=3)] {
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});
build!(NewerHas, #[handoff(format = 2, reads = 1..=2)] {
    #[handoff(added)]
    index: File = INDEX,
    log: Log = Log::open,
    audit: File = AUDIT,
    tables: [File; 2] = TWO,
});

fn run<F: Files>([control, data, build]: [&str; 3]) -> Result<()> {
    let open = |(), opening: &mut Opening<'_>| {
        let files = F::open(opening.data_dir())?;
        let (stop, mut signals) = (opening.stop_handle(), Signals::new([SIGTERM])?);
        std::thread::spawn(move || signals.forever().for_each(|_| stop.stop()));
        if F::MIGRATES {
            let data = opening.data_dir().to_owned();
            opening.on_commit(move || Log::migrate(&data));
        }
        Ok(files)
    };
    Daemon::new(control, data).build_id(build).run(|_warm| Ok(()), open).map(drop)
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
    let arguments = [&**control, data, build];
    match &**build {
        "base" => run::<Base>(arguments),
        "reordered" => run::<Reordered>(arguments),
        "added" => run::<Added>(arguments),
        "removed" => run::<Removed>(arguments),
        "renamed" => run::<Renamed>(arguments),
        "grown" => run::<Grown>(arguments),
        "added only" => run::<AddedOnly>(arguments),
        "removed only" => run::<RemovedOnly>(arguments),
        "renamed only" => run::<RenamedOnly>(arguments),
        "grown only" => run::<GrownOnly>(arguments),
        "vector" => run::<Vector>(arguments),
        "formatted" => run::<Formatted>(arguments),
        "formatted only" => run::<FormattedOnly>(arguments),
        "ready" => run::<Ready>(arguments),
        "log formatted" => run::<LogFormatted>(arguments),
        "log formatted only" => run::<LogFormattedOnly>(arguments),
        "log ready" => run::<LogReady>(arguments),
        "newer has" => run::<NewerHas>(arguments),
        "newer loses" => run::<NewerLoses>(arguments),
        other => panic!("no build is called {other}"),
    }
}
