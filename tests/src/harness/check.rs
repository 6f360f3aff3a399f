//! The one check of what must hold after every scenario.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use handoff::frame::read_message;
use handoff::protocol::{Message, Side};
use handoff::{DataDirLock, Error};

use super::process::eventually;
use super::{Client, Cluster, TIMEOUT};

impl Cluster {
    /// One process serves and is the writer, and it is the one that was reported; nothing
    /// that was acknowledged is lost; nobody was refused; and the daemon can be swapped.
    ///
    /// # Panics
    ///
    /// When not.
    pub fn assert_sound(mut self) {
        if self.reported.is_none() {
            self.find_who_serves();
        }
        self.assert_one_serves();
        self.assert_nothing_lost();
        if let Err(failed) = self.swap(&[]) {
            panic!("the swap that follows fails: {failed}");
        }
        self.wait_for_progress();
        self.stop_clients();
        self.assert_sound_at_rest();
    }

    /// [`assert_sound`](Self::assert_sound) without another swap, once the clients were stopped.
    ///
    /// # Panics
    ///
    /// When not.
    pub fn assert_sound_at_rest(self) {
        self.assert_one_serves();
        self.assert_nothing_lost();
        assert_eq!(self.tally.refused, 0, "connections were refused");
        assert!(self.tally.failed.is_empty(), "requests failed: {:?}", self.tally.failed);
        assert_eq!(self.tally.unanswered, 0, "requests were not answered");
        if !self.resets_expected {
            assert_eq!(self.tally.reset, 0, "connections were reset");
        }
    }

    /// Ends the clients, whose tally is then complete.
    ///
    /// # Panics
    ///
    /// When one of them did.
    pub fn stop_clients(&mut self) {
        if let Some(clients) = self.clients.take() {
            let acknowledged = clients.acknowledged();
            let tally = clients.stop();
            assert!(tally.written.len() >= acknowledged);
            self.tally.add(tally);
        }
    }

    /// What became of the requests of the clients that were stopped.
    #[must_use]
    pub fn tally(&self) -> &super::Tally {
        &self.tally
    }

    /// Asserts that exactly one process serves, holds the lock and owns the control socket:
    /// the one that was reported.
    ///
    /// # Panics
    ///
    /// When not.
    pub fn assert_one_serves(&self) {
        let serving = self.serving();
        self.assert_locked_by(serving);
        assert_eq!(self.control_owner(), Some(serving), "who owns the control socket");
        for _ in 0..4 {
            assert_eq!(self.ask("pid"), serving.to_string(), "who answers clients");
        }
        // A process that was replaced, or killed, takes its time to end.
        eventually("the others end", TIMEOUT, || (self.alive() == [serving]).then_some(()));
    }

    /// Asserts that this process is the writer, by the kernel and by the owner record.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn assert_locked_by(&self, pid: u32) {
        let file = fs::metadata(self.data().join(".handoff.lock")).expect("it is there");
        // The kernel's list may leave one out while others come and go.
        let is_it = || (lock_holders(file.ino()) == BTreeSet::from([pid])).then_some(());
        eventually(&format!("{pid} alone holds the lock"), TIMEOUT, is_it);
        match DataDirLock::acquire(&self.data()) {
            Err(Error::LockHeld { holder_pid, .. }) => assert_eq!(holder_pid, pid),
            other => panic!("a second writer is not refused: {other:?}"),
        }
    }

    /// Who answers on the control socket, by the kernel's word and its own; none if nobody.
    ///
    /// # Panics
    ///
    /// When the two differ.
    #[must_use]
    pub fn control_owner(&self) -> Option<u32> {
        control_owner(&self.control(), TIMEOUT)
    }

    /// Finds who serves, where no report said.
    ///
    /// # Panics
    ///
    /// When nobody does.
    pub fn find_who_serves(&mut self) {
        self.reported = Some(eventually("somebody serves", TIMEOUT, || {
            let owner = self.control_owner()?;
            (Client::connect(self.address()).ok()?.ask("pid").ok()? == owner.to_string())
                .then_some(owner)
        }));
    }

    /// Asserts that every write that was acknowledged can be read.
    fn assert_nothing_lost(&self) {
        let mut client = Client::connect(self.address()).expect("it listens");
        let missing = client.missing(&self.tally.written).expect("it answers");
        assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    }
}

/// Who answers on a control socket, by the kernel's word and its own; none if nobody.
///
/// # Panics
///
/// When the two differ.
#[must_use]
pub fn control_owner(control: &Path, timeout: Duration) -> Option<u32> {
    let mut stream = UnixStream::connect(control).ok()?;
    stream.set_read_timeout(Some(timeout)).expect("it can be set");
    let peer = rustix::net::sockopt::socket_peercred(&stream).expect("the kernel tells").pid;
    let peer = peer.as_raw_nonzero().get().unsigned_abs();
    match read_message(&mut stream) {
        Ok((_, Message::Hello { role: Side::Incumbent, pid, .. })) => assert_eq!(pid, peer),
        Ok(other) => panic!("no hello of an incumbent: {other:?}"),
        Err(_) => return None,
    }
    Some(peer)
}

/// The processes that have a `flock` on the file with this inode, by the kernel's word.
///
/// # Panics
///
/// When it does not tell.
#[must_use]
pub fn lock_holders(inode: u64) -> BTreeSet<u32> {
    let inode = format!(":{inode}");
    let locks = fs::read_to_string("/proc/locks").expect("the kernel tells");
    // While others come and go, the kernel may list one twice, or not at all.
    locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.contains(&"FLOCK") && !words.contains(&"->"))
        .filter(|words| words.iter().any(|word| word.ends_with(&inode)))
        .filter_map(|words| words[4].parse().ok())
        .collect()
}
