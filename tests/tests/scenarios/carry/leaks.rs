//! Two hundred swaps leave in each of the three processes what two leave.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use handoff_tests::fixture::{MARKS, Options};
use handoff_tests::harness::{Client, TIMEOUT, eventually, executable, is_alive, kill};
use rustix::process::Signal;

/// What a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Belongings {
    descriptors: usize,
    threads: usize,
    /// Mappings of memory that has a descriptor.
    mapped: usize,
    /// Memory of its own, in KiB.
    own: usize,
}

impl Belongings {
    fn of(pid: u32) -> Self {
        let path = |name: &str| format!("/proc/{pid}/{name}");
        let count = |name: &str| fs::read_dir(path(name)).expect("it lives").count();
        let text = |name: &str| fs::read_to_string(path(name)).expect("it lives");
        let status = text("status");
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let own = own.and_then(|own| own.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            mapped: text("maps").lines().filter(|line| line.contains("/memfd:")).count(),
            own: own.expect("the kernel tells"),
        }
    }

    /// Whether there is no more than there was before that many swaps. An allocator comes to rest
    /// over hundreds of them, by tens of KiB, so half a page for each of them is granted.
    const fn is_at_most(&self, before: &Self, swaps: usize) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.mapped <= before.mapped
            && self.own <= before.own + 2 * swaps
    }
}

/// A supervisor that is a process of its own, with a daemon that carries connections and memory.
struct World {
    directory: tempfile::TempDir,
    supervisor: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    serving: u32,
    clients: Vec<Client>,
}

impl World {
    fn start() -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(7000);
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["pids", MARKS] {
            fs::create_dir(directory.path().join(name)).expect("it can be created");
        }
        // One that no other place has, and no connection's own end.
        let [.., high, low] = std::process::id().to_be_bytes();
        let port = COUNT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::new(127, 200, high, low | 1), port));
        let state = directory.path();
        let log = fs::File::create(state.join("supervisor.stderr")).expect("it can be created");
        let mut supervisor = Command::new(executable("fixture-live-supervisor"))
            .args([state.join("control"), state.join("journal")])
            .arg(address.to_string())
            .arg(state.join("stderr"))
            // Fifty threads of handlers that end and are started again would spread over many.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("it can be started");
        let orders = supervisor.stdin.take().expect("it was piped");
        let answers = BufReader::new(supervisor.stdout.take().expect("it was piped"));
        let (serving, clients) = (0, Vec::new());
        let mut place = Self { directory, supervisor, orders, answers, serving, clients };
        assert_eq!(place.answer(), "nothing none");
        let started = place.order(&["start", ""], &[]);
        place.serving = pid_of(&started, "started");
        place.clients = (0..50).map(|_| Client::connect(address).expect("it listens")).collect();
        for (index, client) in place.clients.iter_mut().enumerate() {
            let reply = client.ask(&format!("put key.{index} value")).expect("it answers");
            assert!(reply.starts_with("ok "), "{reply}");
        }
        place
    }

    fn order(&mut self, words: &[&str], faults: &[&str]) -> String {
        let state = self.directory.path().to_owned();
        let faults = [&["carry=memory"], faults].concat();
        let options = Options {
            control: state.join("control"),
            data: state.join("data"),
            shards: 3,
            listener: "main".to_owned(),
            carry: true,
            faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
            state,
            ..Options::default()
        };
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words.extend(options.to_args());
        self.say(&words.join("\t"))
    }

    fn say(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").expect("it listens");
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it is text");
        answer.trim_end().to_owned()
    }

    fn commit(&mut self) {
        let old = self.serving;
        let answer = self.order(&["swap", "60000", ""], &[]);
        self.serving = pid_of(&answer, "committed");
        self.wait_for_the_end_of(old);
        let cache = self.clients[0].ask("cache").expect("it answers");
        assert_eq!(cache, "equal 50");
    }

    /// When everything has arrived, and was opened.
    fn abort(&mut self) {
        let answer = self.order(&["swap", "60000", ""], &["health=bad"]);
        assert!(answer.starts_with("failed Serving none "), "{answer}");
    }

    fn wait_for_the_end_of(&self, pid: u32) {
        let word = self.directory.path().display().to_string();
        eventually("it ends", TIMEOUT, || (!is_alive(pid, &word)).then_some(()));
    }

    /// What the daemon and the supervisor have: every connection has its handler.
    fn belongings(&mut self) -> [Belongings; 2] {
        let serving = self.serving.to_string();
        for client in &mut self.clients {
            assert_eq!(client.ask("pid").expect("it is open"), serving);
        }
        // One that has ended is the supervisor's until that collects it.
        eventually("it has collected its children", TIMEOUT, || {
            (self.say("collect") == "children 1").then_some(())
        });
        [self.serving, self.supervisor.id()].map(Belongings::of)
    }

    /// Swaps twice, and then many times more.
    fn assert_leaves_nothing(mut self, swap: fn(&mut Self)) {
        (0..2).for_each(|_| swap(&mut self));
        let before = self.belongings();
        (0..MANY).for_each(|_| swap(&mut self));
        // A thread may be about to end.
        let deadline = Instant::now() + REST;
        let is_left = |now: &[Belongings; 2]| {
            now.iter().zip(&before).any(|(now, before)| !now.is_at_most(before, MANY))
        };
        let now = eventually("they come to rest", TIMEOUT, || {
            let now = self.belongings();
            (!is_left(&now) || Instant::now() > deadline).then_some(now)
        });
        println!("after two: {before:?}\nafter {MANY} more: {now:?}");
        assert!(!is_left(&now), "of the daemon or of the supervisor: {now:?}, before: {before:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        let word = self.directory.path().display().to_string();
        let pids = fs::read_dir(self.directory.path().join("pids")).into_iter().flatten();
        for pid in pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()) {
            if is_alive(pid, &word) {
                kill(pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the last lines of the log, backwards\n{}", last.join("\n"));
        }
    }
}

fn pid_of(answer: &str, word: &str) -> u32 {
    let pid =
        answer.strip_prefix(word).and_then(|rest| rest.trim().split(' ').next()?.parse().ok());
    pid.unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn two_hundred_rollbacks_leave_no_more_than_two() {
    World::start().assert_leaves_nothing(World::abort);
}

#[test]
fn two_hundred_commits_leave_no_more_than_two() {
    World::start().assert_leaves_nothing(World::commit);
}

const MANY: usize = 198;
const REST: Duration = Duration::from_secs(5);
