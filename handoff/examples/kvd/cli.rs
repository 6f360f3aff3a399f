//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::demo::DemoOptions;
use crate::serve::ServeOptions;
use crate::supervise::SuperviseOptions;

pub(crate) const HELP: &str = "\
kvd: a key-value server that speaks RESP2 and is replaced while its clients stay connected

usage:
  kvd                 the demonstration: a supervisor, the server, clients, and swaps
        --clients N         how many clients [8]
        --swaps N           how many swaps; the one in the middle is made to fail [12]
  kvd serve           the server
        --data DIR          where the data lies
        --control PATH      where its control socket lies
        --listen ADDR       where it listens unless it inherits a listener [127.0.0.1:6379]
        --build N           which build it says it is [1]
        --fail-open         fail when the data is opened
        --open-delay MS     take that much longer to open the data
  kvd supervise       the demonstration's supervisor; swaps as the lines on its input say
        --data DIR
        --control PATH
  kvd --help";

/// What the command line asks for.
pub(crate) enum Task {
    Demo(DemoOptions),
    Serve(ServeOptions),
    Supervise(SuperviseOptions),
    Help,
}

/// Understands the command line, without the program's name.
pub(crate) fn parse<I>(arguments: I) -> Result<Task, lexopt::Error>
where
    I: IntoIterator<Item: Into<OsString>>,
{
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut demo = DemoOptions::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(task) if task == "serve" => return serve(parser),
            Value(task) if task == "supervise" => return supervise(parser),
            Long("clients") => demo.clients = parser.value()?.parse()?,
            Long("swaps") => demo.swaps = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
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
    }

    #[test]
    fn no_arguments_are_the_demonstration() {
        assert!(matches!(parse([""; 0]), Ok(Task::Demo(_))));
        assert!(matches!(parse(["--help"]), Ok(Task::Help)));
    }
}
