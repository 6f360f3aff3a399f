//! A file of a form that the earlier build does not know: it refuses the file by its version, in a swap
//! and in a start.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;
use std::time::Instant;

use handoff::supervisor::{ChildProcess, HandoffOutcome, IncumbentFate};
use handoff::{SpawnSpec, Supervisor};
use handoff_tests::fixture::{MARKS, Options};
use handoff_tests::harness::{TIMEOUT, executable, kill};
use rustix::process::Signal;

use crate::{ALONE, earlier};

/// A struct with a declared change writes a manifest of a later version; one without writes the first,
/// of which the earlier build refuses the shards alone, since they are another daemon's.
#[test]
fn the_earlier_build_refuses_a_manifest_of_a_version_that_it_does_not_know() {
    let name = "the_earlier_build_refuses_a_manifest_of_a_version_that_it_does_not_know";
    let Some(directory) = earlier(name) else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().expect("a temporary directory");
    for name in ["pids", MARKS] {
        fs::create_dir(place.path().join(name)).expect("it can be created");
    }
    let (control, data) = (place.path().join("control"), place.path().join("data"));
    let structs = |build: &str| {
        let path = |path: &Path| path.display().to_string();
        let args = vec![path(&control), path(&data), build.to_owned()];
        SpawnSpec { args, ..SpawnSpec::new(executable("fixture-structs")) }
    };
    let options = Options {
        control: control.clone(),
        data: data.clone(),
        state: place.path().to_owned(),
        build: "earlier".to_owned(),
        shards: 3,
        listener: "main".to_owned(),
        ..Options::default()
    };
    let binary = directory.join("fixture-daemon");
    let spec = SpawnSpec { args: options.to_args(), ..SpawnSpec::new(&binary) };
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let supervisor = Supervisor::new(&control).expect("the path is short");
    let supervisor = supervisor.with_listener("main", listener);
    let swap = |spec| supervisor.perform_handoff(spec).expect("it can be begun");
    let refused = |spec| match swap(spec) {
        HandoffOutcome::Failed(failed) => {
            assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
            failed.to_string()
        }
        other => panic!("it refuses: {other:?}"),
    };

    let mut first = Killed(supervisor.start(&structs("added")).expect("nobody serves"));
    let words = refused(spec.clone());
    assert!(words.contains(MANIFEST) && words.contains(UNKNOWN), "{words}");
    first.stop();
    let manifest = fs::read(data.join(MANIFEST)).expect("a stop leaves it");
    let output = Command::new(&binary).args(options.to_args()).output().expect("it can be started");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains(MANIFEST) && words.contains(UNKNOWN), "{words}");
    assert_eq!(fs::read(data.join(MANIFEST)).expect("it is there"), manifest);

    let _second = Killed(supervisor.start(&structs("added")).expect("nobody serves"));
    let mut last = match swap(structs("base")) {
        HandoffOutcome::Committed(committed) => Killed(committed.successor),
        failed => panic!("it is this build: {failed:?}"),
    };
    let words = refused(spec);
    assert!(!words.contains(UNKNOWN), "{words}");
    last.stop();
}

/// A daemon that ends with the test.
pub(crate) struct Killed(pub(crate) ChildProcess);

impl Killed {
    fn stop(&mut self) {
        kill(self.0.pid(), Signal::TERM);
        let ended = self.0.wait_until(Instant::now() + TIMEOUT).expect("it can be waited for");
        assert!(ended.expect("it ends").success());
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const MANIFEST: &str = ".handoff.manifest";
/// As the earlier commit says it.
const UNKNOWN: &str = "its format is one that this build does not know";
