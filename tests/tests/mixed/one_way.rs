//! A supervisor that allows a one-way swap says one word more, also to a successor of a build that does not
//! know it.

use std::fs;
use std::net::TcpListener;
use std::sync::PoisonError;

use handoff::supervisor::HandoffOutcome;
use handoff::{SpawnSpec, Supervisor};
use handoff_tests::fixture::{MARKS, Options};
use handoff_tests::harness::{Client, TIMEOUT, eventually, executable};

use crate::files::Killed;
use crate::{ALONE, earlier};

#[test]
fn a_swap_that_may_be_one_way_leads_to_the_earlier_build_and_back() {
    let name = "a_swap_that_may_be_one_way_leads_to_the_earlier_build_and_back";
    let Some(directory) = earlier(name) else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().expect("a temporary directory");
    for name in ["pids", MARKS] {
        fs::create_dir(place.path().join(name)).expect("it can be created");
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("it can be set");
    let options = Options {
        control: place.path().join("control"),
        data: place.path().join("data"),
        state: place.path().to_owned(),
        shards: 3,
        listener: "main".to_owned(),
        carry: true,
        ..Options::default()
    };
    let [this, earlier] =
        [executable("fixture-daemon"), directory.join("fixture-daemon")].map(|binary| SpawnSpec {
            args: options.to_args(),
            one_way: true,
            ..SpawnSpec::new(binary)
        });
    let supervisor = Supervisor::new(&options.control).expect("the path is short");
    let supervisor = supervisor.with_listener("main", listener);
    let mut daemons = vec![Killed(supervisor.start(&this).expect("nobody serves"))];
    for spec in [earlier.clone(), earlier, this] {
        match supervisor.perform_handoff(spec).expect("it can be begun") {
            HandoffOutcome::Committed(committed) => daemons.push(Killed(committed.successor)),
            failed => panic!("nothing keeps it from a commit: {failed:?}"),
        }
        let pid = daemons.last().expect("it was pushed").0.pid();
        let ask = || Client::connect(address).ok()?.ask("pid").ok();
        let answers = || (ask()? == pid.to_string()).then_some(());
        eventually("the successor serves", TIMEOUT, answers);
    }
}
