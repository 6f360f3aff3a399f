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

/// Says so many lines in a queue of its own: the other tests say things too.
fn said_in(
    queue: &'static Lines,
    count: usize,
    act: impl Fn(&str) + Send + Sync + 'static,
) -> impl Fn() -> Vec<String> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let subscriber = Dispatch::new(Collector { lines: Arc::clone(&lines), act });
    for index in 0..count {
        let tell = Box::new(move || tracing::info!(index, "a line"));
        queue.push(Line { subscriber: subscriber.clone(), tell });
    }
    move || lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn flush_in(queue: &'static Lines, timeout: Duration) {
    queue.flush(Instant::now() + timeout);
}

#[test]
fn a_line_has_the_fields_that_it_had_when_it_was_said() {
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
    static QUEUE: Lines = Lines::new();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let (begun, begins) = std::sync::mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let blocks = move |_: &str| {
        let _ = begun.send(());
        let _ = gone.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(TIMEOUT);
    };
    let first = said_in(&QUEUE, 1, blocks);
    begins.recv_timeout(TIMEOUT).expect("the first line is told");
    let others = said_in(&QUEUE, 3 * MAX_LINES, |_| ());
    let since = Instant::now();
    flush_in(&QUEUE, Duration::from_millis(50));
    assert!(since.elapsed() < TIMEOUT / 2, "a flush is bounded");
    assert_eq!((first().len(), others().len()), (1, 0));
    drop(go);
    flush_in(&QUEUE, TIMEOUT);
    eventually("the loss is told", || others().len() > MAX_LINES);
    let told = others();
    assert_eq!(told.len(), MAX_LINES + 1);
    let lost = format!("lines={}", 2 * MAX_LINES);
    assert!(told[MAX_LINES].contains(&lost), "{}", told[MAX_LINES]);
}

#[test]
fn the_thread_ends_when_nothing_is_said_and_starts_again() {
    static QUEUE: Lines = Lines::new();
    for _ in 0..2 {
        let lines = said_in(&QUEUE, 1, |_| ());
        flush_in(&QUEUE, TIMEOUT);
        assert_eq!(lines().len(), 1);
        eventually("it ends", || QUEUE.lock().runs_in.is_none());
    }
}

#[test]
fn a_child_that_was_forked_without_the_thread_starts_one() {
    static QUEUE: Lines = Lines::new();
    // As the memory of such a child: a thread is noted that this process does not have.
    QUEUE.lock().runs_in = Some(1);
    let lines = said_in(&QUEUE, 1, |_| ());
    flush_in(&QUEUE, TIMEOUT);
    assert_eq!(lines().len(), 1);
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < TIMEOUT, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}
