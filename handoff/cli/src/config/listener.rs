//! The listeners of the configuration.

use std::net::{IpAddr, SocketAddr};
use std::ops::Not;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Address, Fault};

/// A socket that is bound, held, and passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerConfig {
    pub(crate) name: String,
    pub(crate) address: Address,
    /// Whether `accept` on it waits; all processes that have the socket share the flag.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) blocking: bool,
    /// How many connections may wait to be accepted, if the configuration says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backlog: Option<i32>,
    /// Of the file of a socket with a path.
    #[serde(flatten)]
    pub(crate) access: Access,
    /// Whether a socket of IPv6 takes no connections of IPv4: another listener has that port there.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) only_v6: bool,
}

/// Who may connect to a socket with a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    name: Spanned<String>,
    address: Spanned<String>,
    #[serde(default)]
    blocking: bool,
    backlog: Option<Spanned<i32>>,
    mode: Option<Spanned<String>>,
    owner: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
}

impl RawListener {
    fn check(self, base: &Path) -> Result<ListenerConfig, Fault> {
        let Self { name, address, blocking, backlog, mode, owner, group } = self;
        let is_bad = |character: char| character == ':' || character.is_control();
        if name.get_ref().is_empty() || name.get_ref().contains(is_bad) {
            let words = "a listener's name may not be empty, nor contain ':' or control characters";
            return Err(Fault::at(&name, words));
        }
        if name.get_ref() == crate::listen::OWN {
            return Err(Fault::at(&name, format!("the name {:?} is taken", crate::listen::OWN)));
        }
        let parsed =
            Address::parse(address.get_ref(), base).map_err(|words| Fault::at(&address, words))?;
        let named = [mode.as_ref(), owner.as_ref(), group.as_ref()].into_iter().flatten().next();
        if let Some(named) = named.filter(|_| parsed.file().is_none()) {
            let words =
                "`mode`, `owner` and `group` are of sockets with a path: unix:/run/demo.sock";
            return Err(Fault::at(named, words));
        }
        if let Some(backlog) = backlog.as_ref().filter(|backlog| *backlog.get_ref() < 1) {
            return Err(Fault::at(backlog, "`backlog` is a number from 1 on"));
        }
        let access = Access {
            mode: mode.map(checked_mode).transpose()?,
            owner: owner.map(|owner| checked_id(owner, "user", user_id)).transpose()?,
            group: group.map(|group| checked_id(group, "group", group_id)).transpose()?,
        };
        let (name, backlog) = (name.into_inner(), backlog.map(Spanned::into_inner));
        let only_v6 = false;
        Ok(ListenerConfig { name, address: parsed, blocking, backlog, access, only_v6 })
    }
}

/// Checks each, and all of them together.
pub(super) fn listeners_of(
    raw: Vec<RawListener>,
    base: &Path,
) -> Result<Vec<ListenerConfig>, Fault> {
    let mut listeners: Vec<ListenerConfig> = Vec::with_capacity(raw.len());
    for raw in raw {
        let at = raw.address.span().start;
        let listener = raw.check(base)?;
        let clash = listeners.iter().find_map(|other| clash(&other.address, &listener.address));
        if let Some(words) = clash {
            return Err(Fault { at: Some(at), words });
        }
        listeners.push(listener);
    }
    let ports_of_v4: Vec<_> = listeners.iter().filter_map(|it| port_of_v4(&it.address)).collect();
    for listener in &mut listeners {
        let inet = listener.address.inet();
        listener.only_v6 = inet.is_some_and(|(kind, at)| {
            at.is_ipv6() && at.port() != 0 && ports_of_v4.contains(&(kind, at.port()))
        });
    }
    Ok(listeners)
}

/// Why the kernel does not bind both.
fn clash(one: &Address, other: &Address) -> Option<String> {
    if one == other && !one.is_any_port() {
        return Some(format!("{other} is listed twice"));
    }
    let ((kind, at), (other_kind, other_at)) = (one.inet()?, other.inet()?);
    let all = |at: SocketAddr| at.ip().is_unspecified();
    let is_same_port = (kind, at.port()) == (other_kind, other_at.port()) && at.port() != 0;
    let is_in = at.is_ipv4() == other_at.is_ipv4() && (all(at) || all(other_at));
    (is_same_port && is_in).then(|| {
        let (whole, part) = if all(at) { (one, other) } else { (other, one) };
        format!("{whole} takes the connections to {part} as well: list one of the two")
    })
}

fn port_of_v4(address: &Address) -> Option<(&'static str, u16)> {
    let (kind, at) = address.inet()?;
    let is_v4 = match at.ip() {
        IpAddr::V4(_) => true,
        IpAddr::V6(at) => at.to_ipv4_mapped().is_some(),
    };
    is_v4.then_some((kind, at.port()))
}

fn checked_mode(mode: Spanned<String>) -> Result<u32, Fault> {
    let parsed = u32::from_str_radix(mode.get_ref().trim_start_matches("0o"), 8);
    parsed.ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
        Fault::at(&mode, "`mode` is a text of octal digits, as chmod takes it: \"0660\"")
    })
}

/// A name, or a number.
fn checked_id(
    name: Spanned<String>,
    kind: &str,
    look_up: fn(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, Fault> {
    if let Ok(id) = name.get_ref().parse() {
        return Ok(id);
    }
    match look_up(name.get_ref()) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(Fault::at(&name, format!("there is no {kind} {:?}", name.get_ref()))),
        Err(error) => Err(Fault::at(&name, format!("cannot look the {kind} up: {error}"))),
    }
}

fn user_id(name: &str) -> nix::Result<Option<u32>> {
    Ok(nix::unistd::User::from_name(name)?.map(|user| user.uid.as_raw()))
}

fn group_id(name: &str) -> nix::Result<Option<u32>> {
    Ok(nix::unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()))
}
