//! The commands, and their parsing from a request.

use bytes::Bytes;

/// A request that is understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Ping(Option<Bytes>),
    Echo(Bytes),
    Get(Bytes),
    Set {
        key: Bytes,
        value: Bytes,
    },
    Del(Vec<Bytes>),
    Incr(Bytes),
    DbSize,
    Info,
    /// `CONFIG GET name`: there is nothing to configure, but clients ask.
    Config(Bytes),
    /// `COMMAND` and its subcommands: clients ask, and an empty list is enough for them.
    Describe,
    /// A command that changes nothing here: `SELECT 0`, `CLIENT SETNAME` and its like.
    Acknowledge,
    Quit,
}

/// A request that is well formed and not understood. The connection goes on after it.
///
/// `HELLO` is among the unknown commands on purpose: it is the answer by which a client that
/// would rather speak RESP3 falls back to RESP2.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("unknown command '{0}'")]
    Unknown(String),
    #[error("wrong number of arguments for '{0}' command")]
    Arity(String),
    #[error("syntax error: SET takes a key and a value, options are not supported")]
    SetOptions,
    #[error("DB index is out of range: there is one database, 0")]
    Database,
}

impl Command {
    /// Understands a request, the command's name and its arguments.
    ///
    /// # Errors
    ///
    /// The refusal that goes to the client instead.
    pub(crate) fn parse(request: &[Bytes]) -> Result<Self, Refusal> {
        let (name, arguments) = request.split_first().unwrap_or((&EMPTY, &[]));
        let name = name.to_ascii_uppercase();
        Ok(match (name.as_slice(), arguments) {
            (b"PING", []) => Self::Ping(None),
            (b"PING", [text]) => Self::Ping(Some(text.clone())),
            (b"ECHO", [text]) => Self::Echo(text.clone()),
            (b"GET", [key]) => Self::Get(key.clone()),
            (b"SET", [key, value]) => Self::Set { key: key.clone(), value: value.clone() },
            (b"SET", [_, _, ..]) => return Err(Refusal::SetOptions),
            (b"DEL", [_, ..]) => Self::Del(arguments.to_vec()),
            (b"INCR", [key]) => Self::Incr(key.clone()),
            (b"DBSIZE", []) => Self::DbSize,
            (b"INFO", _) => Self::Info,
            (b"CONFIG", [verb, name]) if verb.eq_ignore_ascii_case(b"GET") => {
                Self::Config(name.clone())
            }
            (b"COMMAND", _) => Self::Describe,
            (b"SELECT", [index]) if index == "0" => Self::Acknowledge,
            (b"SELECT", [_]) => return Err(Refusal::Database),
            (b"CLIENT", [_, ..]) => Self::Acknowledge,
            (b"QUIT", _) => Self::Quit,
            (name, _) if KNOWN.contains(&name) => return Err(Refusal::Arity(printable(name))),
            (name, _) => return Err(Refusal::Unknown(printable(name))),
        })
    }
}

/// A client's bytes as they may stand in an error reply, which is one line.
fn printable(name: &[u8]) -> String {
    name[..name.len().min(64)].escape_ascii().to_string()
}

static EMPTY: Bytes = Bytes::new();

/// The commands of which the number of arguments matters.
const KNOWN: [&[u8]; 10] =
    [b"PING", b"ECHO", b"GET", b"SET", b"DEL", b"INCR", b"DBSIZE", b"CONFIG", b"SELECT", b"CLIENT"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Command, Refusal> {
        let request: Vec<Bytes> =
            words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Command::parse(&request)
    }

    #[test]
    fn commands_are_understood_in_any_case() {
        for (words, command) in [
            ("ping", Command::Ping(None)),
            ("PING hi", Command::Ping(Some("hi".into()))),
            ("Echo hi", Command::Echo("hi".into())),
            ("set k v", Command::Set { key: "k".into(), value: "v".into() }),
            ("GET k", Command::Get("k".into())),
            ("DEL a b", Command::Del(vec!["a".into(), "b".into()])),
            ("incr n", Command::Incr("n".into())),
            ("CONFIG get save", Command::Config("save".into())),
            ("COMMAND DOCS", Command::Describe),
            ("SELECT 0", Command::Acknowledge),
            ("CLIENT SETNAME me", Command::Acknowledge),
        ] {
            assert_eq!(parse(words), Ok(command), "{words}");
        }
    }

    #[test]
    fn what_is_not_understood_says_why() {
        for (words, refusal) in [
            ("GET", Refusal::Arity("GET".into())),
            ("GET a b", Refusal::Arity("GET".into())),
            ("DEL", Refusal::Arity("DEL".into())),
            ("CONFIG SET save", Refusal::Arity("CONFIG".into())),
            ("SET k v EX 10", Refusal::SetOptions),
            ("SELECT 1", Refusal::Database),
            ("HELLO 3", Refusal::Unknown("HELLO".into())),
            ("a\r\nb", Refusal::Unknown("A\\r\\nB".into())),
        ] {
            assert_eq!(parse(words), Err(refusal), "{words}");
        }
    }
}
