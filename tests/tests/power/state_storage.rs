//! Storage that hangs or fails under the program's history, its journal and its links, while it
//! swaps the daemon and starts it again.

use fuser::Errno;
use handoff_tests::harness::{TIMEOUT, eventually};

use super::fuse::{Fault, On, With};
use super::site::{self, Site};
use super::{is_skipped, side_by_side};

const HISTORY: &str = "history.jsonl";
const JOURNAL: &str = "daemon.sock.journal";

/// A site whose daemon serves, and one operation of which hangs from here on.
fn hanging(on: On, name: &'static str, after: usize) -> Site {
    let mut site = Site::new("");
    site.serve();
    site.disk.plan(Fault { on, name, with: With::Hang, after, times: 1 });
    site
}

/// Waits until `handoff status` warns of this.
fn wait_for_warning(site: &Site, words: &str) {
    eventually(words, TIMEOUT, || {
        let status = site::status(site.disk.path())?;
        status["warnings"].to_string().contains(words).then_some(())
    });
}

fn wait_for_unwritten(site: &Site, file: &str, is_it: impl Fn(&str) -> bool) {
    let metric = format!("handoff_unwritten_lines{{file=\"{file}\"}} ");
    eventually(&metric, TIMEOUT, || {
        let text = site.handoff(&["metrics"]).1;
        is_it(text.lines().find_map(|line| line.strip_prefix(&metric))?).then_some(())
    });
}

/// The kernel would wait for the thread that the disk keeps.
fn assert_not_upgraded(site: &Site) {
    let (code, words) = site.handoff(&["upgrade"]);
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("the disk of the state directory does not answer"), "{words}");
    site.wait_until_served();
}

/// Both are over before the disk goes on.
fn swap_and_restart(site: &Site, outcome: i32) {
    site.swap_only("v2", outcome);
    site.kill_daemon();
}

/// The disk is well again: nothing is missing, and a swap commits.
fn assert_well(site: &mut Site, swaps: usize) {
    for file in ["history", "journal"] {
        wait_for_unwritten(site, file, |lines| lines == "0");
    }
    assert_eq!(site::status(site.disk.path()).expect("it runs")["warnings"], serde_json::json!([]));
    site.swap("v1", 0);
    site.stop();
    let entries = site::history(site.disk.path());
    let count = |words: &str| entries.iter().filter(|entry| entry.contains(words)).count();
    let counts = ["committed", "\"died\"", "\"started\"", "\"stopped\""].map(count);
    assert_eq!(counts, [swaps + 1, 1, 2, 1], "{entries:#?}");
}

#[test]
fn a_disk_that_hangs_under_the_history_holds_neither_a_swap_nor_a_restart() {
    if is_skipped("a_disk_that_hangs_under_the_history_holds_neither_a_swap_nor_a_restart") {
        return;
    }
    side_by_side(2, |index| {
        let mut site = hanging([On::Sync, On::Change][index], HISTORY, 0);
        swap_and_restart(&site, 0);
        assert_eq!(site.disk.struck(), 1);
        wait_for_warning(&site, "the disk does not answer");
        assert_not_upgraded(&site);
        site.disk.release();
        assert_well(&mut site, 1);
    });
}

#[test]
fn a_disk_that_hangs_under_the_journal_holds_neither_the_end_of_a_swap_nor_a_restart() {
    if is_skipped(
        "a_disk_that_hangs_under_the_journal_holds_neither_the_end_of_a_swap_nor_a_restart",
    ) {
        return;
    }
    // The line of the swap is written, and that of its end hangs.
    let mut site = hanging(On::Change, JOURNAL, 1);
    swap_and_restart(&site, 0);
    assert_eq!(site.disk.struck(), 1);
    wait_for_warning(&site, "no swap begins");
    wait_for_unwritten(&site, "journal", |lines| lines != "0");
    assert_not_upgraded(&site);
    site.disk.release();
    assert_well(&mut site, 1);
    // The line of the swap hangs: nothing is begun.
    let mut site = hanging(On::Change, JOURNAL, 0);
    swap_and_restart(&site, 5);
    site.disk.release();
    assert_well(&mut site, 0);
}

#[test]
fn a_disk_that_hangs_under_the_links_holds_neither_a_swap_nor_a_restart() {
    if is_skipped("a_disk_that_hangs_under_the_links_holds_neither_a_swap_nor_a_restart") {
        return;
    }
    let mut site = hanging(On::Change, "v2", 0);
    swap_and_restart(&site, 0);
    assert_eq!(site.disk.struck(), 1);
    assert_not_upgraded(&site);
    site.disk.release();
    assert_well(&mut site, 1);
}

/// The next supervisor resolves the swap in flight, and would once more.
#[test]
fn a_swap_in_flight_is_resolved_although_the_journal_takes_no_line() {
    if is_skipped("a_swap_in_flight_is_resolved_although_the_journal_takes_no_line") {
        return;
    }
    let mut site = Site::new("");
    site.serve();
    let daemon = site.daemon();
    site.swap_until_opening();
    site.kill_supervisor();
    let with = With::Errno(Errno::ENOSPC);
    site.disk.plan(Fault { on: On::Change, name: JOURNAL, with, after: 0, times: usize::MAX });
    for _ in 0..2 {
        site.serve();
        assert_eq!(site.daemon(), daemon);
        wait_for_unwritten(&site, "journal", |lines| lines != "0");
        site.kill_supervisor();
    }
    site.disk.let_go();
    site.serve();
    wait_for_unwritten(&site, "journal", |lines| lines == "0");
    assert_eq!(site.daemon(), daemon);
    site.swap("v2", 0);
    site.stop();
}

#[test]
fn a_dead_daemon_is_started_again_although_the_disk_takes_no_line() {
    if is_skipped("a_dead_daemon_is_started_again_although_the_disk_takes_no_line") {
        return;
    }
    let kinds = [(HISTORY, "history", 0), (JOURNAL, "journal", 5)];
    let errors = [Errno::ENOSPC, Errno::EROFS, Errno::EIO];
    side_by_side(kinds.len() * errors.len(), |index| {
        let ((name, file, outcome), errno) = (kinds[index % 2], errors[index / 2]);
        let mut site = Site::new("");
        site.serve();
        let with = With::Errno(errno);
        site.disk.plan(Fault { on: On::Change, name, with, after: 0, times: usize::MAX });
        swap_and_restart(&site, outcome);
        let words = std::io::Error::from_raw_os_error(errno.code()).to_string();
        wait_for_warning(&site, &words);
        wait_for_unwritten(&site, file, |lines| lines != "0");
        if name == JOURNAL {
            // The next supervisor finds the daemon that no line of the journal names.
            let daemon = site.daemon();
            site.kill_supervisor();
            site.run();
            site.wait_until_served();
            assert_eq!(site.daemon(), daemon);
        }
        site.disk.let_go();
        assert_well(&mut site, usize::from(outcome == 0));
    });
}
