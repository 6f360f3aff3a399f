//! Opening a file by a name at which anything may lie.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::OFlags;

/// Opens a file, and waits for no writer of a pipe and for no device.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path).map_err(explain)
}

/// The same, and follows no symbolic link.
pub(crate) fn open_itself(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = options.custom_flags(flags).open(path).map_err(explain)?;
    check_regular(&file)?;
    Ok(file)
}

/// The kernel's errors at the open of a file that is not regular, in words.
fn explain(error: io::Error) -> io::Error {
    let what = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => "it is a symbolic link",
        Some(Errno::ENXIO) => "it is a pipe, a socket or a device",
        _ => return error,
    };
    let words = format!("{what}, and has to be a regular file; move it away");
    io::Error::new(io::ErrorKind::InvalidInput, words)
}

/// Opens a regular file to read it, also by a symbolic link.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = open(path, OpenOptions::new().read(true))?;
    check_regular(&file)?;
    Ok(file)
}

/// Whether a file is a regular one; the error names its kind.
pub(crate) fn check_regular(file: &File) -> io::Result<()> {
    let kind = file.metadata()?.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        _ if kind.is_fifo() => "it is a pipe",
        _ => "it is a device",
    };
    let words = format!("{what}, and has to be a regular file; move it away");
    Err(io::Error::new(io::ErrorKind::InvalidInput, words))
}
