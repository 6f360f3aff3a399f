//! A temporary folder, and copies of data directories in it.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::protocol::HandoffId;

/// A temporary folder, which a drop removes.
pub(super) struct Scratch {
    path: PathBuf,
    used: Cell<u32>,
}

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("handoff-rehearsal-{}", HandoffId::new()));
        fs::create_dir(&path).map_err(Error::at("create", &path))?;
        Ok(Self { path, used: Cell::new(0) })
    }

    /// A path in the folder that nothing has yet.
    pub(super) fn unused(&self) -> PathBuf {
        self.used.set(self.used.get() + 1);
        self.path.join(self.used.get().to_string())
    }

    pub(super) fn copy(&self, directory: &Path) -> Result<PathBuf> {
        let copy = self.unused();
        copy_directory(directory, &copy).map_err(Error::at("copy", directory))?;
        Ok(copy)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Copies folders, files and links. A socket, a FIFO and a device are no data.
fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let (from, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        // A link that may lead out of the copy becomes the file or the folder to which it leads.
        match fs::read_link(&from) {
            Ok(target) if target.components().all(|part| matches!(part, Component::Normal(_))) => {
                symlink(target, to)?;
                continue;
            }
            _ => {}
        }
        let kind = fs::metadata(&from)?.file_type();
        if kind.is_dir() {
            copy_directory(&from, &to)?;
        } else if kind.is_file() {
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_all_of_a_directory_and_nothing_in_common_with_it() {
        let scratch = Scratch::new().expect("it is created");
        let [data, outside] = [scratch.unused(), scratch.unused()];
        fs::create_dir_all(data.join("inner")).expect("it is new");
        fs::write(data.join("inner/file"), "one").expect("it is written");
        fs::write(&outside, "two").expect("it is written");
        symlink("inner", data.join("current")).expect("it is new");
        symlink(&outside, data.join("shared")).expect("it is new");
        let copy = scratch.copy(&data).expect("it is copied");
        for (name, contents) in [("inner/file", "one"), ("current/file", "one"), ("shared", "two")]
        {
            assert_eq!(fs::read_to_string(copy.join(name)).expect("it is there"), contents);
        }
        for name in ["current/file", "shared"] {
            fs::write(copy.join(name), "changed").expect("it is written");
        }
        assert_eq!(fs::read_link(copy.join("current")).expect("it is a link"), Path::new("inner"));
        assert_eq!(fs::read_to_string(data.join("inner/file")).expect("it is there"), "one");
        assert_eq!(fs::read_to_string(&outside).expect("it is there"), "two");
        let path = scratch.path.clone();
        drop(scratch);
        assert!(!path.exists());
    }
}
