//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
kvd: a key-value server that speaks RESP2 and is replaced while its clients stay connected

usage:
  kvd [demo]          the demonstration: a supervisor, the server, clients, and swaps
        --clients N         how many clients [8]
        --swaps N           how many swaps; the one in the middle is made to fail [12]
        --kill-supervisor   kill the supervisor twice, between two swaps and inside one
  kvd serve           the server
        --data DIR          where the data lies
        --control PATH      where its control socket lies
        --listen ADDR       where it listens unless it inherits a listener [127.0.0.1:6379]
        --build N           which build it says it is [1]
        --fail-open         fail when the data is opened
        --open-delay MS     take that much longer to open the data
  kvd supervise       adopts the server that serves, or starts one; swaps as its input says, a
                      line each: swap build=N [fail_open=true] [open_delay_ms=MS]; ends the
                      server at the end of its input, and leaves it serving when it is killed
        --data DIR          as the server's
        --control PATH      as the server's; the journal lies beside it, PATH.journal
  kvd --help";

/// The task that the command line names.
pub(crate) enum Task {
    Demo(DemoOptions),
    Serve(ServeOptions),
    Supervise(SuperviseOptions),
    Help,
}

/// `kvd demo`: the extent of the demonstration.
pub(crate) struct DemoOptions {
    pub(crate) clients: usize,
    pub(crate) swaps: u32,
    /// Whether the demonstration kills its supervisor twice on the way.
    pub(crate) kill_supervisor: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { clients: 8, swaps: 12, kill_supervisor: false }
    }
}

impl DemoOptions {
    /// Whether there is a swap before the first kill and one after the second.
    pub(crate) const fn is_long_enough(&self) -> bool {
        !self.kill_supervisor || self.swaps >= 4
    }
}

/// `kvd serve`.
pub(crate) struct ServeOptions {
    pub(crate) data: PathBuf,
    pub(crate) control: PathBuf,
    /// The address for a cold start that inherits no listener.
    pub(crate) listen: SocketAddr,
    pub(crate) build: u32,
    pub(crate) fail_open: bool,
    pub(crate) open_delay: Duration,
}

/// `kvd supervise`.
pub(crate) struct SuperviseOptions {
    pub(crate) data: PathBuf,
    pub(crate) control: PathBuf,
}

/// Understands the command line, without the program's name.
pub(crate) fn parse<I>(arguments: I) -> Result<Task, lexopt::Error>
where
    I: IntoIterator<Item: Into<OsString>>,
{
    let mut words = arguments.into_iter().map(Into::into).peekable();
    let task = words.next_if(|word| !word.as_encoded_bytes().starts_with(b"-"));
    let parser = lexopt::Parser::from_args(words);
    match task {
        None => demo(parser),
        Some(task) if task == "demo" => demo(parser),
        Some(task) if task == "serve" => serve(parser),
        Some(task) if task == "supervise" => supervise(parser),
        Some(other) => Err(Value(other).unexpected()),
    }
}

fn demo(mut parser: lexopt::Parser) -> Result<Task, lexopt::Error> {
    let mut demo = DemoOptions::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("clients") => demo.clients = parser.value()?.parse()?,
            Long("swaps") => demo.swaps = parser.value()?.parse()?,
            Long("kill-supervisor") => demo.kill_supervisor = true,
            Short('h') | Long("help") => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    if !demo.is_long_enough() {
        return Err("--kill-supervisor needs 4 swaps or more".into());
    }
    Ok(Task::Demo(demo))
}

fn serve(mut parser: lexopt::Parser) -> Result<Task, lexopt::Error> {
    let (mut data, mut control) = (None, None);
    let mut listen = "127.0.0.1:6379".to_owned();
    let mut build = 1;
    let mut fail_open = false;
    let mut open_delay = Duration::ZERO;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("data") => data = Some(PathBuf::from(parser.value()?)),
            Long("control") => control = Some(PathBuf::from(parser.value()?)),
            Long("listen") => listen = parser.value()?.string()?,
            Long("build") => build = parser.value()?.parse()?,
            Long("fail-open") => fail_open = true,
            Long("open-delay") => open_delay = Duration::from_millis(parser.value()?.parse()?),
            Short('h') | Long("help") => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::Serve(ServeOptions {
        data: data.ok_or("--data is missing")?,
        control: control.ok_or("--control is missing")?,
        listen: listen.parse().map_err(|_| format!("--listen {listen:?} is not IP:PORT"))?,
        build,
        fail_open,
        open_delay,
    }))
}

fn supervise(mut parser: lexopt::Parser) -> Result<Task, lexopt::Error> {
    let (mut data, mut control) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("data") => data = Some(PathBuf::from(parser.value()?)),
            Long("control") => control = Some(PathBuf::from(parser.value()?)),
            Short('h') | Long("help") => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::Supervise(SuperviseOptions {
        data: data.ok_or("--data is missing")?,
        control: control.ok_or("--control is missing")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        match parse(line.split_whitespace()) {
            Ok(_) => panic!("{line} was understood"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn serve_has_its_options() {
        let line =
            "serve --data d --control c --listen [::1]:7 --build 3 --fail-open --open-delay 20";
        let Ok(Task::Serve(options)) = parse(line.split_whitespace()) else {
            panic!("not understood");
        };
        assert_eq!((options.data, options.control), ("d".into(), "c".into()));
        assert_eq!(options.listen.to_string(), "[::1]:7");
        assert_eq!((options.build, options.fail_open), (3, true));
        assert_eq!(options.open_delay, Duration::from_millis(20));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(error("serve --data d"), "--control is missing");
        assert_eq!(error("serve --data d --control c --listen x"), "--listen \"x\" is not IP:PORT");
        assert_eq!(error("serve --port 3"), "invalid option '--port'");
        assert_eq!(error("swap"), "unexpected argument \"swap\"");
        assert_eq!(error("demo serve"), "unexpected argument \"serve\"");
        assert_eq!(error("--swaps 3 --kill-supervisor"), "--kill-supervisor needs 4 swaps or more");
    }

    #[test]
    fn no_arguments_are_the_demonstration() {
        assert!(matches!(parse([""; 0]), Ok(Task::Demo(_))));
        assert!(matches!(parse(["--help"]), Ok(Task::Help)));
    }

    #[test]
    fn the_demonstration_may_be_named() {
        for line in ["--kill-supervisor --swaps 4", "demo --swaps 4 --kill-supervisor"] {
            let Ok(Task::Demo(options)) = parse(line.split_whitespace()) else {
                panic!("not understood");
            };
            assert_eq!((options.swaps, options.kill_supervisor), (4, true));
        }
        assert!(matches!(parse(["demo"]), Ok(Task::Demo(options)) if !options.kill_supervisor));
    }
}
