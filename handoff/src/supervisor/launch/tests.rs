//! Files that are executed in place of the binary that was asked for.

use std::fs::{self, Permissions};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use super::*;

/// What a program says on its standard output; the binary that is asked for does not exist.
fn said(program: &Path, args: &[&str]) -> Result<String> {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let spec = SpawnSpec { args, ..SpawnSpec::new(BINARY) };
    let request = LaunchRequest::new(&spec, &[], None).with_program(program);
    let child = request.spawn(|command| {
        command.stdout(Stdio::piped());
    })?;
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A symbolic link to this descriptor of this process.
fn linked(place: &Path, file: &File) -> PathBuf {
    let link = place.join("program");
    let target = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    symlink(target, &link).expect("nothing is there");
    link
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("it can be written");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
}

#[test]
fn a_program_is_executed_in_place_of_the_binary_which_stays_the_first_argument() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let shell = File::open("/bin/sh").expect("there is one");
    let link = linked(place.path(), &shell);
    let own = "tr '\\0' '\\n' < /proc/$$/cmdline | head -n 1";
    assert_eq!(said(&link, &["-c", own]).expect("it is a program"), format!("{BINARY}\n"));
}

#[test]
fn a_script_that_was_replaced_at_its_path_is_executed_as_it_was_opened() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("script");
    executable(&path, "#!/bin/sh\necho opened $1\n");
    let opened = File::open(&path).expect("it is there");
    let link = linked(place.path(), &opened);
    fs::remove_file(&path).expect("it is there");
    executable(&path, "#!/bin/sh\necho replaced\n");
    assert_eq!(said(&link, &["before"]).expect("it is a script"), "opened before\n");
}

#[test]
fn a_program_is_checked_as_a_binary_is_and_called_by_the_binary_s_name() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("text");
    let blamed = |program: &Path| match said(program, &[]) {
        Err(crate::Error::Launch(error)) => error,
        other => panic!("{other:?}"),
    };
    match blamed(&path) {
        LaunchError::Missing(named) => assert_eq!(named, Path::new(BINARY)),
        other => panic!("{other:?}"),
    }
    executable(&path, "no interpreter\n");
    let opened = File::open(&path).expect("it is there");
    match blamed(&linked(place.path(), &opened)) {
        LaunchError::Exec { path, source } => {
            assert_eq!(path, Path::new(BINARY));
            assert_eq!(source.raw_os_error(), Some(libc::ENOEXEC));
        }
        other => panic!("{other:?}"),
    }
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
    match blamed(&path) {
        LaunchError::NotExecutable(named) => assert_eq!(named, Path::new(BINARY)),
        other => panic!("{other:?}"),
    }
    match blamed(place.path()) {
        LaunchError::NotAFile(named) => assert_eq!(named, Path::new(BINARY)),
        other => panic!("{other:?}"),
    }
}

/// `sh` is in `PATH` wherever this runs.
#[test]
fn a_program_is_not_searched_for() {
    match said(Path::new("sh"), &[]) {
        Err(crate::Error::Launch(LaunchError::Missing(named))) => {
            assert_eq!(named, Path::new(BINARY));
        }
        other => panic!("{other:?}"),
    }
}

const BINARY: &str = "/nowhere/demo";
