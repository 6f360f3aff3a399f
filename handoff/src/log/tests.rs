use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

/// Collects each line, and acts on it as the test wants.
struct Collector<F> {
    lines: Arc<Mutex<Vec<String>>>,
    act: F,
}

impl<F: Fn(&str) + Send + Sync + 'static> Subscriber for Collector<F> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Words(String);
        impl Visit for Words {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut words =
            Words(format!("{} {} ", event.metadata().level(), event.metadata().target()));
        event.record(&mut words);
        let line = words.0.trim_end().to_owned();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        (self.act)(&line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Says things with such a subscriber, and returns the lines so far as a function.
fn said(
    act: impl Fn(&str) + Send + Sync + 'static,
    say: impl FnOnce(),
) -> impl Fn() -> Vec<String> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let collector = Collector { lines: Arc::clone(&lines), act };
    tracing::subscriber::with_default(collector, say);
    move || lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

const TIMEOUT: Duration = Duration::from_secs(60);
/// The tests share the queue, and one of them fills it.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_line_has_the_fields_that_it_had_when_it_was_said() {
    let _alone = alone();
    let lines = said(
        |_| (),
        || {
            let (mut pid, swap) = (7_u32, Some(display("3f2a")));
            let (error, name) = (std::fmt::Error, String::from("resp"));
            warn!(pid, swap, asked = pid + 1, ?name, "the peer {name} is gone");
            pid += 1;
            error!(pid, swap = None::<u32>, %error, "it failed");
        },
    );
    flush(TIMEOUT);
    assert_eq!(
        lines(),
        [
            r#"WARN handoff::log::tests message=the peer resp is gone pid=7 swap=3f2a asked=8 name="resp""#,
            "ERROR handoff::log::tests message=it failed pid=8 error=an error occurred when formatting an argument",
        ]
    );
}

#[test]
fn a_subscriber_that_panics_costs_its_line_and_no_other() {
    let _alone = alone();
    let lines = said(
        |_| panic!("as the test wants"),
        || {
            info!(index = 1_u32, "a line");
            info!(index = 2_u32, "a line");
        },
    );
    flush(TIMEOUT);
    assert_eq!(lines().len(), 2);
}

#[test]
fn a_subscriber_that_blocks_makes_no_speaker_wait_and_what_it_misses_is_counted() {
    let _alone = alone();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let blocks = move |line: &str| {
        if line.contains("the first") {
            let _ = gone.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(TIMEOUT);
        }
    };
    let said_lines = 3 * MAX_LINES;
    let lines = said(blocks, || {
        info!("the first");
        for index in 1..said_lines {
            info!(index, "a line");
        }
        let begun = Instant::now();
        flush(Duration::from_millis(50));
        assert!(begun.elapsed() < TIMEOUT / 2, "a flush is bounded");
    });
    drop(go);
    flush(TIMEOUT);
    let told = lines();
    let last = told.last().expect("lines were told");
    let lost: usize = last
        .split_once("lines=")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("the loss is told: {last}"));
    assert_eq!(told.len() - 1 + lost, said_lines);
    assert_eq!(lost, said_lines - 1 - MAX_LINES);
}

#[test]
fn the_thread_ends_when_nothing_is_said_and_starts_again() {
    let _alone = alone();
    for _ in 0..2 {
        let lines = said(|_| (), || info!("a line"));
        flush(TIMEOUT);
        assert_eq!(lines().len(), 1);
        wait_for_its_end();
    }
}

fn wait_for_its_end() {
    let begun = Instant::now();
    while LINES.lock().runs_in.is_some() {
        assert!(begun.elapsed() < TIMEOUT, "it ends");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_child_that_was_forked_without_the_thread_starts_one() {
    let _alone = alone();
    wait_for_its_end();
    // As the memory of such a child: a thread is noted that this process does not have.
    LINES.lock().runs_in = Some(1);
    let lines = said(|_| (), || info!("a line"));
    flush(TIMEOUT);
    assert_eq!(lines().len(), 1);
}
