//! A binary, opened once: the supervisor executes the very file that it checked, even if the path
//! names another file by then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use handoff::supervisor::{Launch, LaunchRequest};

use crate::config::{Config, ListenerConfig, Program};
use crate::files;
use crate::notify::OWN_VARIABLES;

/// An open file to execute, and its arguments.
#[derive(Debug)]
pub(crate) struct Binary {
    /// As it is listed, for people and for `argv[0]`.
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    /// 64 hexadecimal digits.
    pub(crate) blake3: String,
    /// The sockets that its process is passed.
    pub(crate) listeners: Vec<ListenerConfig>,
    file: File,
}

impl Binary {
    /// Opens and checks a listed program.
    pub(crate) fn open(program: &Program) -> anyhow::Result<Self> {
        let path = program.path.display();
        let unreadable = |error| anyhow!("the binary {path} cannot be opened: {error}");
        let opened = files::open(&program.path, OpenOptions::new().read(true));
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow!("the binary {path} does not exist"),
            _ => unreadable(error),
        })?;
        let metadata = file.metadata().map_err(unreadable)?;
        ensure!(!metadata.is_dir(), "the binary {path} is a directory; name the file in it");
        ensure!(metadata.is_file(), "the binary {path} is not a regular file");
        let mode = metadata.permissions().mode() & 0o7777;
        ensure!(
            mode & 0o111 != 0,
            "the binary {path} is not executable; set its mode: chmod +x {path}"
        );
        ensure!(
            mode & 0o002 == 0,
            "the binary {path} may be written by every user (mode {mode:04o}), so anybody could have changed it: chmod o-w {path}"
        );
        // A file that the kernel does not know would go to a shell, which would run its lines.
        let head = head(&file).map_err(unreadable)?;
        let shown = match &*head {
            [] => "nothing at all: it is empty".to_owned(),
            head => format!("{:?}", String::from_utf8_lossy(head)),
        };
        ensure!(
            head.starts_with(b"#!") || head.starts_with(b"\x7fELF"),
            "{path} is neither a program nor a script: it begins with {shown}; a script needs an interpreter in its first line, as in #!/bin/sh"
        );
        let found = hash(&file).map_err(unreadable)?;
        if let Some(wanted) = program.blake3.as_ref().filter(|wanted| **wanted != found) {
            bail!(
                "the binary {path} is not the one that was configured: its BLAKE3 is {found}, and {wanted} is wanted; if it was replaced on purpose, write the new hash into the configuration"
            );
        }
        let Program { path, args, listeners, .. } = program.clone();
        Ok(Self { path, args, blake3: found, listeners, file })
    }

    /// The binary that a running process executes, with the arguments that it was started with; the
    /// caller knows its listeners.
    pub(crate) fn of_process(pid: u32, listeners: Vec<ListenerConfig>) -> io::Result<Self> {
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let file = File::open(&exe)?;
        let path = without_deletion(&fs::read_link(&exe)?);
        let command_line = fs::read(format!("/proc/{pid}/cmdline"))?;
        let args = command_line.split(|byte| *byte == 0).skip(1);
        let mut args: Vec<String> =
            args.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        // Each argument ends with a zero, the last one too.
        args.pop();
        Ok(Self { path, args, blake3: hash(&file)?, listeners, file })
    }

    /// The same file, by another path that leads to it.
    pub(crate) fn listed_as(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Whether both have the same contents, the same arguments and the same listeners.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let Self { args, blake3, listeners, .. } = other;
        (&self.args, &self.blake3, &self.listeners) == (args, blake3, listeners)
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

/// The path of a program, without the kernel's mark of a deleted file.
pub(crate) fn without_deletion(path: &Path) -> PathBuf {
    let path = path.to_string_lossy();
    PathBuf::from(path.strip_suffix(" (deleted)").unwrap_or(&path))
}

fn hash(file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reopened(file)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reopened(file)?.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

/// Another description of the same file, so that the position of this one stays where it is.
fn reopened(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Starts binaries by descriptor, each in a process group of its own: a Ctrl-C at the supervisor's
/// terminal does not reach the daemon.
#[derive(Debug, Clone)]
pub(crate) struct ByDescriptor {
    /// The binary that is launched next. One process is started at a time.
    next: Arc<Mutex<Option<Arc<Binary>>>>,
    links: PathBuf,
    directory: PathBuf,
    /// Whether a thread waits for the disk to take a link.
    is_linking: Arc<AtomicBool>,
}

impl ByDescriptor {
    pub(crate) fn new(config: &Config) -> Self {
        let (links, directory) = (config.state_dir.join("exec"), config.directory.clone());
        Self { next: Arc::default(), links, directory, is_linking: Arc::default() }
    }

    /// Removes the links that the supervisor before this one left.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.links) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets the binary that the next process executes.
    pub(crate) fn load(&self, binary: Arc<Binary>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(binary);
    }

    /// Whether no thread waits for the disk to take a link.
    pub(crate) fn answers(&self) -> bool {
        !self.is_linking.load(Ordering::Acquire)
    }

    /// The link, if the disk takes it soon: one that does not answer keeps no daemon from being
    /// started.
    fn link_soon(&self, binary: &Arc<Binary>) -> io::Result<PathBuf> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
        if self.is_linking.swap(true, Ordering::AcqRel) {
            return Err(late());
        }
        let (launcher, binary) = (self.clone(), Arc::clone(binary));
        let (sender, linked) = mpsc::channel();
        let work = move || {
            let linked = launcher.link(&binary);
            launcher.is_linking.store(false, Ordering::Release);
            let _ = sender.send(linked);
        };
        if let Err(error) = thread::Builder::new().name("link".into()).spawn(work) {
            self.is_linking.store(false, Ordering::Release);
            return Err(error);
        }
        linked.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(late()))
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
        // The link has to lead to the very file that was checked.
        let (linked, opened) = (fs::metadata(&link)?, binary.file.metadata()?);
        if (linked.dev(), linked.ino()) == (opened.dev(), opened.ino()) {
            Ok(link)
        } else {
            Err(io::Error::other(format!(
                "{} does not lead to the file that was checked",
                link.display()
            )))
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
        // The daemon is started even if the disk takes no link.
        let link = self.link_soon(&binary).unwrap_or_else(|error| {
            tracing::warn!(
                path = %binary.path.display(), %error,
                "this supervisor cannot make the link by which it executes the binary: `ps` will show the number of a descriptor in place of its name"
            );
            binary.descriptor_path()
        });
        request.with_program(link).spawn(|command| {
            command.current_dir(&self.directory).process_group(0);
            // The service manager sets these for the supervisor, not for the daemon.
            for own in OWN_VARIABLES {
                command.env_remove(own);
            }
        })
    }
}

const HEAD: u64 = 16;
/// A healthy disk has taken a link by then.
const PATIENCE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: PathBuf) -> Program {
        Program { path, args: vec!["serve".into()], blake3: None, listeners: Vec::new() }
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
        let other = "0".repeat(64);
        let words = Binary::open(&wanted(&other)).unwrap_err().to_string();
        let told = format!("its BLAKE3 is {found}, and {other} is wanted; if it was replaced");
        assert!(words.contains(&told), "{words}");
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
            is_linking: Arc::default(),
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
        let own = Binary::of_process(std::process::id(), Vec::new()).unwrap();
        assert_eq!(own.path, std::env::current_exe().unwrap());
        assert_eq!(own.args, std::env::args().skip(1).collect::<Vec<_>>());
        let again = Binary::of_process(std::process::id(), Vec::new()).unwrap();
        assert!(own.is(&again));
    }
}
