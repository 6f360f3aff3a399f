//! What a successor asks of whoever serves the control socket.

use super::*;
use crate::frame::{read_message, write_message};
use crate::protocol::Capabilities;

/// Whoever listens at a control socket, and does what it is told to with the first that connects.
fn asking<T>(answer: impl FnOnce(UnixStream) + Send, ask: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("it can be bound");
    thread::scope(|scope| {
        scope.spawn(move || answer(listener.accept().expect("somebody connects").0));
        ask(&path)
    })
}

fn ask(path: &Path) -> Result<Option<Receiver>> {
    let (link, _) = UnixStream::pair().expect("a pair");
    Receiver::ask(path, HandoffId::new(), Arc::new(Link::new(link)))
}

fn hello(capabilities: Capabilities) -> Message {
    crate::control::hello(Side::Incumbent, b"build", capabilities)
}

#[test]
fn one_that_carries_nothing_or_is_not_there_is_not_asked() {
    let nowhere = tempfile::tempdir().expect("a directory");
    assert!(ask(&nowhere.path().join("control")).expect("it goes on").is_none());
    let answers: [fn(UnixStream); 3] = [
        drop,
        |mut stream| stream.write_all(b"nonsense").expect("it is read"),
        |mut stream| {
            write_message(&mut stream, PROTO_MIN, &hello(Capabilities::default()))
                .expect("it is read");
            // Nothing is said to it.
            assert_eq!(stream.read(&mut [0]).expect("it is closed"), 0);
        },
    ];
    for answer in answers {
        assert!(asking(answer, ask).expect("it goes on").is_none());
    }
}

#[test]
fn one_that_carries_something_and_does_not_offer_it_is_an_error() {
    let refused = asking(
        |mut stream| {
            write_message(&mut stream, PROTO_MIN, &hello(Capabilities::CARRIES))
                .expect("it is read");
            let (_, ack) = read_message(&mut stream).expect("it is answered");
            let (_, fetch) = read_message(&mut stream).expect("it is asked");
            assert!(ack.handoff_id().is_some() && ack.handoff_id() == fetch.handoff_id());
            assert_eq!((ack.name(), fetch.name()), ("HelloAck", "Fetch"));
        },
        ask,
    );
    match refused {
        Err(Error::Carry(CarryError::Channel(words))) => {
            assert_eq!(words, "it did not begin with an offer");
        }
        other => panic!("{other:?}"),
    }
}
