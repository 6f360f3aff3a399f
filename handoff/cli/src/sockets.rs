//! Which process has a socket, as the kernel says.

use std::fs;

/// Whether any process of this network namespace has the socket with that inode open.
pub(crate) fn is_open(inode: u64) -> bool {
    let inode = inode.to_string();
    TABLES.iter().any(|(table, column)| {
        let lines = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        lines.lines().any(|line| line.split_whitespace().nth(*column) == Some(&*inode))
    })
}

/// The processes that have it open, for a person.
pub(crate) fn holders(inode: u64) -> String {
    let wanted = format!("socket:[{inode}]");
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut targets =
            descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        if targets.any(|target| target.as_os_str() == &*wanted) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("process {pid} ({})", name.trim_end()));
        }
    }
    if found.is_empty() {
        return "a process that this one may not look at: a service manager, perhaps".to_owned();
    }
    found.join(", ")
}

/// The kernel's tables of sockets, and the column of the inode in each.
const TABLES: [(&str, usize); 5] = [("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6)];

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn inode(socket: impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn a_socket_is_open_until_it_is_closed_and_its_holder_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(directory.path().join("stream")).unwrap();
        let datagram = UnixDatagram::bind(directory.path().join("datagram")).unwrap();
        let inodes = [inode(&tcp), inode(&udp), inode(&unix), inode(&datagram)];
        for inode in inodes {
            assert!(is_open(inode));
            let own = format!("process {} (", std::process::id());
            assert!(holders(inode).contains(&own), "{}", holders(inode));
        }
        assert!(!is_open(u64::MAX));
    }
}
