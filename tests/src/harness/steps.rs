//! Sessions that are brought to a phase, where nothing is expected to go wrong on the way.

use handoff::Session;
use handoff::supervisor::{Paired, Prepared, Ready, Sealed, Warmed};

use super::Cluster;

impl Cluster {
    /// A session with a successor that has said hello.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn paired(&mut self, faults: &[&str]) -> Session<Paired> {
        let spec = self.successor(faults).spec();
        self.supervisor.pair(spec).expect("both say hello")
    }

    /// One whose successor is warm.
    ///
    /// # Panics
    ///
    /// When it fails before.
    pub fn warmed(&mut self, faults: &[&str]) -> Session<Warmed> {
        self.paired(faults).warm().expect("it warms up")
    }

    /// One whose incumbent is drained.
    ///
    /// # Panics
    ///
    /// When it fails before.
    pub fn prepared(&mut self, faults: &[&str]) -> Session<Prepared> {
        self.warmed(faults).prepare().expect("it drains")
    }

    /// One whose incumbent is sealed.
    ///
    /// # Panics
    ///
    /// When it fails before.
    pub fn sealed(&mut self, faults: &[&str]) -> Session<Sealed> {
        self.prepared(faults).seal().expect("it is sealed")
    }

    /// One whose successor could serve.
    ///
    /// # Panics
    ///
    /// When it fails before.
    pub fn ready(&mut self, faults: &[&str]) -> Session<Ready> {
        self.sealed(faults).begin().expect("it opens")
    }
}
