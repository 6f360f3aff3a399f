//! Which role this process has, by its environment.
//!
//! `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID` are as a service manager sets them.
//! `HANDOFF_CONTROL=FD:INODE` names the control connection of a successor. The inode tells it
//! from another descriptor of that number in a process that merely inherited the variable.
//! `HANDOFF_ONE_WAY=1` says that the swap may be one-way.

use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use crate::control::{CONTROL_VARIABLE, Listeners, ONE_WAY_VARIABLE};
use crate::error::{Error, Result};
use crate::log;
use crate::protocol::MAX_LISTENERS;
use crate::successor::{Arrived, Successor};
use crate::sys::inherited::{self, Kind};

/// The purpose of this process.
#[derive(Debug)]
pub enum Role {
    /// To serve where no process serves.
    ColdStart(ColdStart),
    /// To replace the process that serves.
    Successor(Successor<Arrived>),
}

/// A start without a swap.
#[derive(Debug)]
pub struct ColdStart {
    listeners: Listeners,
}

impl ColdStart {
    /// The listeners that a service manager or a supervisor passed; empty where the daemon binds
    /// its own.
    #[must_use]
    pub fn into_listeners(self) -> Listeners {
        self.listeners
    }
}

/// Reads the environment and adopts the descriptors that it names: each becomes close-on-exec.
///
/// Call it once, at the start of `main`, before other threads run. A second call finds no
/// listeners. It ignores the control connection of a parent that is left in the environment.
///
/// # Errors
///
/// [`Error::Environment`] for malformed variables: a count that is no number, names that do
/// not match it, descriptors that are not open or no sockets.
pub fn detect() -> Result<Role> {
    let variable = |name: &str| std::env::var(name).ok();
    let control = control_connection(variable(CONTROL_VARIABLE))?;
    let listeners = inherited_listeners(variable)?;
    Ok(match control {
        Some(stream) => {
            let allows_one_way = variable(ONE_WAY_VARIABLE).is_some_and(|value| value == "1");
            Role::Successor(Successor::arrived(stream, listeners, allows_one_way))
        }
        None => Role::ColdStart(ColdStart { listeners }),
    })
}

fn control_connection(value: Option<String>) -> Result<Option<UnixStream>> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let parsed = value.split_once(':').and_then(|(number, inode)| {
        Some((number.parse::<RawFd>().ok()?, inode.parse::<u64>().ok()?))
    });
    let Some((number, inode)) = parsed else {
        let why = "is not FD:INODE; unset it, only a supervisor sets it";
        return Err(Error::Environment { name: CONTROL_VARIABLE, value, why });
    };
    match inherited::take(number, |fd| inherited::inode(fd).is_ok_and(|own| own == inode)) {
        Ok(socket) => Ok(Some(socket.into())),
        Err(_) => {
            log::debug!(
                value,
                "{CONTROL_VARIABLE} names a connection of another process: this one is no successor"
            );
            Ok(None)
        }
    }
}

fn inherited_listeners(variable: impl Fn(&str) -> Option<String>) -> Result<Listeners> {
    let Some(value) = variable(FDS).filter(|value| !value.is_empty()) else {
        return Ok(Listeners::default());
    };
    // The variables of another process do not count.
    let is_ours = |pid: String| pid.is_empty() || pid.parse() == Ok(std::process::id());
    if !variable(PID).is_none_or(is_ours) {
        return Ok(Listeners::default());
    }
    let wrong = |name, value: &str, why| Error::Environment { name, value: value.to_owned(), why };
    let count = value.parse().ok().filter(|count| *count <= MAX_LISTENERS);
    let count: usize = count.ok_or_else(|| wrong(FDS, &value, "is no number from 0 to 1024"))?;
    let names = match variable(NAMES) {
        Some(names) if count > 0 => {
            let split: Vec<String> = names.split(':').map(str::to_owned).collect();
            if split.len() != count {
                return Err(wrong(NAMES, &names, "has not as many names as LISTEN_FDS says"));
            }
            split
        }
        _ => vec![UNNAMED.to_owned(); count],
    };
    // `from_env` also clears the environment.
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() == 0 {
        return Ok(Listeners::default());
    }
    let mut sockets = Vec::with_capacity(count);
    for (index, name) in names.into_iter().enumerate() {
        let number = passed.take_raw_fd(index).ok().flatten();
        let socket = number
            .and_then(|number| inherited::take(number, |fd| Kind::of(fd) != Kind::NoSocket).ok());
        let why = "names a descriptor that is no socket this process was started with; unset it";
        sockets.push((name, socket.ok_or_else(|| wrong(FDS, &value, why))?));
    }
    Ok(Listeners::new(sockets)?)
}

const FDS: &str = "LISTEN_FDS";
const PID: &str = "LISTEN_PID";
const NAMES: &str = "LISTEN_FDNAMES";
const UNNAMED: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(result: Result<impl std::fmt::Debug>) -> &'static str {
        match result {
            Err(Error::Environment { name, .. }) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn malformed_variables_are_told_by_name() {
        for value in ["3", ":", "3:", ":4", "x:4", "3:x", "-:-", "3:4:5"] {
            assert_eq!(fault(control_connection(Some(value.into()))), CONTROL_VARIABLE);
        }
        for value in ["x", "-1", "1025", "99999999999999999999", "1 "] {
            let variable = |name: &str| (name == FDS).then(|| value.to_owned());
            assert_eq!(fault(inherited_listeners(variable)), FDS);
        }
        for names in ["a", "a:b:c", ""] {
            let variable = |name: &str| match name {
                FDS => Some("2".to_owned()),
                NAMES => Some(names.to_owned()),
                _ => None,
            };
            assert_eq!(fault(inherited_listeners(variable)), NAMES);
        }
    }

    #[test]
    fn the_variables_of_another_process_are_none() {
        let variable = |name: &str| match name {
            FDS => Some("nonsense".to_owned()),
            PID => Some("1".to_owned()),
            _ => None,
        };
        assert!(inherited_listeners(variable).expect("they are not ours").is_empty());
    }

    #[test]
    fn a_stale_control_connection_is_none() {
        for value in ["1:1", "999999:1", "-7:1", "2:18446744073709551615"] {
            assert!(control_connection(Some(value.into())).expect("stale is no error").is_none());
        }
    }
}
