//! Health checks: whether the daemon is well, by its own interface.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use super::children;
use crate::config::{Check, ProbationConfig};

/// Asks once; the error says why the daemon is not well.
pub(super) fn ask(check: &Check, directory: &Path, timeout: Duration) -> Result<(), String> {
    match check {
        Check::Tcp(address) => connect(address, timeout),
        Check::Http(url) => get(url, timeout),
        Check::Command(command) => run(command, directory, timeout),
    }
}

fn connect(address: &str, timeout: Duration) -> Result<(), String> {
    let found =
        address.to_socket_addrs().map_err(|error| format!("{address} is no address: {error}"))?;
    let mut why = format!("{address} names no address");
    for one in found {
        match TcpStream::connect_timeout(&one, timeout) {
            Ok(_) => return Ok(()),
            Err(error) => why = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(why)
}

fn get(url: &str, timeout: Duration) -> Result<(), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .build()
        .into();
    let response = agent.get(url).call().map_err(|error| format!("GET {url}: {error}"))?;
    if response.status().is_success() {
        Ok(())
    } else {
        Err(format!("GET {url}: status {}", response.status()))
    }
}

fn run(command: &[String], directory: &Path, timeout: Duration) -> Result<(), String> {
    let (program, args) = command.split_first().ok_or("there is no command")?;
    let mut asked = Command::new(program);
    asked.args(args).current_dir(directory);
    let output = children::output(&mut asked, timeout)
        .map_err(|error| format!("the command {program:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("the command {program:?}: {} ({last})", children::words_of(output.status)))
}

/// Asks again and again on a thread of its own, which ends with the value.
#[derive(Debug)]
pub(super) struct Prober {
    /// The thread sees that it is dropped.
    _stop: Sender<()>,
}

impl Prober {
    /// The thread calls `tell` with each result, and ends once `tell` returns false.
    pub(super) fn start(
        config: &ProbationConfig,
        directory: &Path,
        tell: impl Fn(Result<(), String>) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (config, directory) = (config.clone(), directory.to_owned());
        thread::Builder::new().name("probation".into()).spawn(move || {
            loop {
                let result = ask(&config.check, &directory, config.timeout);
                let is_over =
                    || stopped.recv_timeout(config.every) != Err(RecvTimeoutError::Timeout);
                if !tell(result) || is_over() {
                    return;
                }
            }
        })?;
        Ok(Self { _stop: stop })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn asked(check: &Check) -> Result<(), String> {
        ask(check, Path::new("/"), TIMEOUT)
    }

    /// Answers one request with that status line, and says what was asked.
    fn server(status: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/healthz", listener.local_addr().unwrap());
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8(request).unwrap()
        });
        (url, served)
    }

    #[test]
    fn a_get_is_well_when_its_status_says_so() {
        let (url, served) = server("204 No Content");
        assert_eq!(asked(&Check::Http(url)), Ok(()));
        assert!(served.join().unwrap().starts_with("GET /healthz HTTP/1.1\r\n"));
        for status in ["503 Service Unavailable", "302 Found"] {
            let (url, served) = server(status);
            let words = asked(&Check::Http(url.clone())).unwrap_err();
            assert_eq!(words, format!("GET {url}: status {status}"));
            served.join().unwrap();
        }
    }

    #[test]
    fn a_connection_is_well_when_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(asked(&Check::Tcp(address.clone())), Ok(()));
        drop(listener);
        // What another test of this program starts holds every descriptor between its fork and
        // its exec. A connection that falls into the end of that is reset.
        let since = Instant::now();
        let is_refused = |result: &Result<(), String>| {
            let refused = "Connection refused (os error 111)";
            result.as_ref().is_err_and(|words| words.ends_with(refused))
        };
        loop {
            let result = asked(&Check::Tcp(address.clone()));
            if is_refused(&result) {
                break;
            }
            assert!(since.elapsed() < TIMEOUT, "still somebody listens: {result:?}");
        }
    }

    #[test]
    fn a_command_is_well_when_it_exits_with_zero() {
        let command = |script: &str| Check::Command(["sh", "-c", script].map(str::to_owned).into());
        assert_eq!(asked(&command("test $PWD = /")), Ok(()));
        let words = asked(&command("echo 'no shards' >&2; exit 4")).unwrap_err();
        assert_eq!(words, "the command \"sh\": exit status: 4 (no shards)");
        let words = asked(&Check::Command(vec!["/nowhere/check".into()])).unwrap_err();
        assert!(words.starts_with("the command \"/nowhere/check\": No such file"), "{words}");
    }

    #[test]
    fn a_prober_asks_until_it_is_dropped() {
        let config = ProbationConfig {
            length: TIMEOUT,
            every: Duration::from_millis(1),
            timeout: TIMEOUT,
            failures: 1,
            check: Check::Command(vec!["true".into()]),
        };
        let (tell, told) = mpsc::channel();
        let prober =
            Prober::start(&config, Path::new("/"), move |result| tell.send(result).is_ok())
                .unwrap();
        for _ in 0..3 {
            assert_eq!(told.recv_timeout(TIMEOUT).unwrap(), Ok(()));
        }
        drop(prober);
        while told.recv_timeout(TIMEOUT) != Err(RecvTimeoutError::Disconnected) {}
    }
}
