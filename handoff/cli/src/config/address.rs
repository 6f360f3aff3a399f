//! The address of a listener.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// An address of a kind of socket that can be passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Address {
    /// `127.0.0.1:6380`, `[::]:6380`
    Tcp(SocketAddr),
    /// `udp:127.0.0.1:53`
    Udp(SocketAddr),
    /// `unix:/run/demo.sock`
    Unix(PathBuf),
    /// `unix:@demo`, which has no file
    Abstract(String),
    /// `unix-datagram:/run/demo.sock`
    UnixDatagram(PathBuf),
}

impl Address {
    /// A relative path begins at `base`.
    pub(super) fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let unix = |path: &str| {
            let path = base.join(path);
            super::check_length(&path).map(|()| path)
        };
        let inet = |text: &str| {
            text.parse::<SocketAddr>().map_err(|_| {
                format!(
                    "{text:?} is no address; write \"127.0.0.1:6380\", \"[::]:6380\", \"udp:127.0.0.1:53\", \"unix:/run/demo.sock\", \"unix:@demo\" or \"unix-datagram:/run/demo.sock\". The name of a host is not looked up: for localhost list \"127.0.0.1:PORT\", and \"[::1]:PORT\" beside it under the same name"
                )
            })
        };
        match text.split_once(':') {
            Some(("unix", name)) if name.starts_with('@') => match &name[1..] {
                name if name.is_empty() || name.len() > super::MAX_SOCKET_PATH => {
                    Err(format!("an abstract name has 1 to {} bytes", super::MAX_SOCKET_PATH))
                }
                name => Ok(Self::Abstract(name.to_owned())),
            },
            Some(("unix-datagram", name)) if name.starts_with('@') => {
                Err("an abstract name is for unix:, not for unix-datagram:".to_owned())
            }
            Some(("unix", path)) => Ok(Self::Unix(unix(path)?)),
            Some(("unix-datagram", path)) => Ok(Self::UnixDatagram(unix(path)?)),
            Some(("udp", address)) => Ok(Self::Udp(inet(address)?)),
            Some(("tcp", address)) => Ok(Self::Tcp(inet(address)?)),
            _ => Ok(Self::Tcp(inet(text)?)),
        }
    }

    /// The address of a socket of TCP or UDP, and which of the two it is.
    pub(crate) const fn inet(&self) -> Option<(&'static str, SocketAddr)> {
        match self {
            Self::Tcp(address) => Some(("tcp", *address)),
            Self::Udp(address) => Some(("udp", *address)),
            Self::Unix(_) | Self::Abstract(_) | Self::UnixDatagram(_) => None,
        }
    }

    /// The path of its file.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) | Self::UnixDatagram(path) => Some(path),
            Self::Tcp(_) | Self::Udp(_) | Self::Abstract(_) => None,
        }
    }

    /// Whether the kernel chooses the port, so that two listeners may have this address.
    pub(crate) fn is_any_port(&self) -> bool {
        matches!(self, Self::Tcp(address) | Self::Udp(address) if address.port() == 0)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text, Path::new("/"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::UnixDatagram(path) => write!(f, "unix-datagram:{}", path.display()),
        }
    }
}
