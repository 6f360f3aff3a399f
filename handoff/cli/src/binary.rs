//! A binary, opened once: what was checked is what is executed, whatever the path names by then.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};

use handoff::supervisor::{Launch, LaunchRequest};

use crate::config::{Config, Program};

/// An open file that is to be executed, and how.
#[derive(Debug)]
pub(crate) struct Binary {
    /// As it is listed, for people and for `argv[0]`.
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    /// 64 hexadecimal digits.
    pub(crate) blake3: String,
    file: File,
}

/// Why a file is not executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BinaryError {
    #[error("the binary {} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("the binary {} cannot be opened: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the binary {} is a directory; name the file in it", .0.display())]
    Directory(PathBuf),
    #[error("the binary {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("the binary {} is not executable; set its mode: chmod +x {}", .0.display(), .0.display())]
    NotExecutable(PathBuf),
    #[error(
        "the binary {} may be written by every user (mode {mode:04o}), so anybody could have changed it: chmod o-w {}",
        path.display(), path.display()
    )]
    WritableByAll { path: PathBuf, mode: u32 },
    #[error(
        "{} is neither a program nor a script: it begins with {head}; a script needs an interpreter in its first line, as in #!/bin/sh",
        path.display()
    )]
    NoProgram { path: PathBuf, head: String },
    #[error(
        "the binary {} is not the one that was configured: its BLAKE3 is {found}, and {wanted} is wanted; if it was replaced on purpose, write the new hash into the configuration",
        path.display()
    )]
    WrongHash { path: PathBuf, wanted: String, found: String },
}

impl Binary {
    /// Opens and checks a listed program.
    pub(crate) fn open(program: &Program) -> Result<Self, BinaryError> {
        let path = &program.path;
        let unreadable = |source| BinaryError::Unreadable { path: path.clone(), source };
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BinaryError::Missing(path.clone()),
            _ => unreadable(source),
        })?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(BinaryError::Directory(path.clone()));
        }
        if !metadata.is_file() {
            return Err(BinaryError::NotAFile(path.clone()));
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o111 == 0 {
            return Err(BinaryError::NotExecutable(path.clone()));
        }
        if mode & 0o002 != 0 {
            return Err(BinaryError::WritableByAll { path: path.clone(), mode });
        }
        check_head(&file, path)?;
        let binary = Self {
            path: path.clone(),
            args: program.args.clone(),
            blake3: hash(&file).map_err(unreadable)?,
            file,
        };
        match &program.blake3 {
            Some(wanted) if *wanted != binary.blake3 => {
                let found = binary.blake3;
                Err(BinaryError::WrongHash { path: path.clone(), wanted: wanted.clone(), found })
            }
            _ => Ok(binary),
        }
    }

    /// What a process executes that is not this one's to start, as it was started.
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let file = File::open(&exe)?;
        let named = fs::read_link(&exe)?;
        // The kernel says so of a file that has no name any more.
        let named = named.to_string_lossy();
        let path = PathBuf::from(named.strip_suffix(" (deleted)").unwrap_or(&named));
        let command_line = fs::read(format!("/proc/{pid}/cmdline"))?;
        let args = command_line.split(|byte| *byte == 0).skip(1);
        let mut args: Vec<String> =
            args.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        // Each argument ends with a zero, the last one too.
        args.pop();
        Ok(Self { path, args, blake3: hash(&file)?, file })
    }

    /// The same file, by another path that leads to it.
    pub(crate) fn listed_as(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Whether it is the same file: by its contents, and by what it is told.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.blake3 == other.blake3 && self.args == other.args
    }

    /// A path that names this very file for as long as this process has it open.
    fn descriptor_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Its name without directories.
    fn name(&self) -> &Path {
        self.path.file_name().map_or(Path::new("daemon"), Path::new)
    }
}

fn hash(file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    // By another description, so that the position of this one stays where it is.
    hasher.update_reader(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// A file that the kernel does not know would go to a shell, which would run its lines.
fn check_head(file: &File, path: &Path) -> Result<(), BinaryError> {
    let mut head = Vec::with_capacity(HEAD);
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    again
        .and_then(|again| again.take(HEAD as u64).read_to_end(&mut head))
        .map_err(|source| BinaryError::Unreadable { path: path.to_owned(), source })?;
    if head.starts_with(b"#!") || head.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let head = match head.len() {
        0 => "nothing at all: it is empty".to_owned(),
        _ => format!("{:?}", String::from_utf8_lossy(&head)),
    };
    Err(BinaryError::NoProgram { path: path.to_owned(), head })
}

/// Starts binaries by descriptor, each in a process group of its own: what is typed at the
/// supervisor's terminal is not for the daemon.
#[derive(Debug, Clone)]
pub(crate) struct ByDescriptor {
    /// What is launched next. One process is started at a time.
    next: Arc<Mutex<Option<Arc<Binary>>>>,
    links: PathBuf,
    directory: PathBuf,
}

impl ByDescriptor {
    pub(crate) fn new(config: &Config) -> Self {
        let (links, directory) = (config.state_dir.join("exec"), config.directory.clone());
        Self { next: Arc::default(), links, directory }
    }

    /// Removes the links of a supervisor that is gone.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.links) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Says what the next process executes.
    pub(crate) fn load(&self, binary: Arc<Binary>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(binary);
    }

    /// A link with the binary's own name, by which `ps` and `pidof` know the process: executed by
    /// its bare descriptor it would be called "7".
    fn link(&self, binary: &Binary) -> io::Result<PathBuf> {
        let directory = self.links.join(&binary.blake3[..binary.blake3.len().min(16)]);
        fs::create_dir_all(&directory)?;
        let link = directory.join(binary.name());
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(binary.descriptor_path(), &link)?;
        // Nobody is to find another file behind it than the one that was checked.
        let (linked, opened) = (fs::metadata(&link)?, binary.file.metadata()?);
        if (linked.dev(), linked.ino()) == (opened.dev(), opened.ino()) {
            Ok(link)
        } else {
            Err(io::Error::other(format!("{} leads elsewhere", link.display())))
        }
    }
}

impl Launch for ByDescriptor {
    fn launch(&self, request: LaunchRequest<'_>) -> handoff::Result<Child> {
        use std::os::unix::process::CommandExt;

        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let binary = next.ok_or_else(|| io::Error::other("no binary was chosen"))?;
        let at =
            |source| handoff::Error::Path { action: "execute", path: binary.path.clone(), source };
        if hash(&binary.file).map_err(at)? != binary.blake3 {
            let words = "it was written to since it was checked; put a new file in its place instead, with mv, and swap";
            return Err(at(io::Error::other(words)));
        }
        // On a disk that takes nothing the daemon is to be started all the same.
        let link = self.link(&binary).unwrap_or_else(|error| {
            tracing::warn!(%error, "the process will be known by the number of a descriptor");
            binary.descriptor_path()
        });
        request.with_program(link).spawn(|command| {
            command.current_dir(&self.directory).process_group(0);
            // What the service manager says to the supervisor is not for the daemon.
            for own in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
                command.env_remove(own);
            }
        })
    }
}

const HEAD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: PathBuf) -> Program {
        Program { path, args: vec!["serve".into()], blake3: None }
    }

    fn script(directory: &Path, text: &str, mode: u32) -> PathBuf {
        let path = directory.join("daemon");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn fault(path: PathBuf) -> String {
        Binary::open(&program(path)).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_executed_is_told_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon");
        assert_eq!(fault(path.clone()), format!("the binary {} does not exist", path.display()));
        let words = fault(directory.path().to_owned());
        assert!(words.ends_with("is a directory; name the file in it"), "{words}");
        let words = fault("/dev/null".into());
        assert!(words.ends_with("is not a regular file"), "{words}");
        let words = fault(script(directory.path(), "#!/bin/sh\n", 0o644));
        assert!(words.contains("is not executable; set its mode: chmod +x "), "{words}");
        let words = fault(script(directory.path(), "#!/bin/sh\n", 0o777));
        assert!(words.contains("(mode 0777)") && words.contains("chmod o-w "), "{words}");
        let words = fault(script(directory.path(), "echo no\n", 0o755));
        assert!(words.contains("begins with \"echo no\\n\"; a script needs"), "{words}");
        let words = fault(script(directory.path(), "", 0o755));
        assert!(words.contains("begins with nothing at all: it is empty"), "{words}");
    }

    #[test]
    fn a_file_with_another_hash_is_not_executed() {
        let directory = tempfile::tempdir().unwrap();
        let text = "#!/bin/sh\nexit 3\n";
        let path = script(directory.path(), text, 0o755);
        let found = blake3::hash(text.as_bytes()).to_hex().to_string();
        let wanted = |hash: &str| Program { blake3: Some(hash.into()), ..program(path.clone()) };
        assert_eq!(Binary::open(&wanted(&found)).unwrap().blake3, found);
        match Binary::open(&wanted(&"0".repeat(64))) {
            Err(BinaryError::WrongHash { found: said, .. }) => assert_eq!(said, found),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_opened_is_what_the_link_names_although_the_path_is_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), "#!/bin/sh\nexit 3\n", 0o755);
        let binary = Binary::open(&program(path.clone())).unwrap();
        fs::remove_file(&path).unwrap();
        script(directory.path(), "#!/bin/sh\nexit 4\n", 0o755);
        let launcher = ByDescriptor {
            next: Arc::default(),
            links: directory.path().join("exec"),
            directory: directory.path().to_owned(),
        };
        let link = launcher.link(&binary).unwrap();
        assert_eq!(link.file_name(), path.file_name());
        assert_eq!(std::process::Command::new(&link).status().unwrap().code(), Some(3));
        assert_eq!(std::process::Command::new(&path).status().unwrap().code(), Some(4));
        // Again, as when it is started once more.
        assert_eq!(launcher.link(&binary).unwrap(), link);
    }

    #[test]
    fn a_running_process_names_what_it_executes() {
        let own = Binary::of_process(std::process::id()).unwrap();
        assert_eq!(own.path, std::env::current_exe().unwrap());
        assert_eq!(own.args, std::env::args().skip(1).collect::<Vec<_>>());
        let again = Binary::of_process(std::process::id()).unwrap();
        assert!(own.is(&again));
    }
}
