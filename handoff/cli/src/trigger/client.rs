//! The client's side.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Reply, Request};

/// A connection that carries one request.
#[derive(Debug)]
pub(crate) struct Client {
    path: PathBuf,
    lines: BufReader<UnixStream>,
}

/// The cause of a missing answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(
        "no supervisor answers at {} ({source}); start one: handoff run --config FILE",
        path.display()
    )]
    Nobody { path: PathBuf, source: io::Error },
    #[error(
        "the supervisor at {} may not be asked by this user ({source}); be the user that it runs as",
        path.display()
    )]
    Forbidden { path: PathBuf, source: io::Error },
    #[error(
        "the supervisor at {} ended in the middle of its answer ({source}); a daemon that serves goes on without it, and `handoff history` tells the outcome of a swap once a supervisor runs again",
        path.display()
    )]
    Cut { path: PathBuf, source: io::Error },
    #[error("the supervisor at {} gave an answer that this version of handoff ({}) does not know: {words}; use the supervisor's version, or run `handoff upgrade`", path.display(), crate::VERSION)]
    Foreign { path: PathBuf, words: String },
}

impl Client {
    /// Connects, and sends the request.
    pub(crate) fn ask(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::PermissionDenied => ClientError::Forbidden { path, source },
                _ => ClientError::Nobody { path, source },
            }
        })?;
        let cut = |source| ClientError::Cut { path: path.to_owned(), source };
        let line = crate::record::line(request).map_err(cut)?;
        // The supervisor may refuse, and say so, before it reads the request.
        let _ = (&stream).write_all(&line);
        Ok(Self { path: path.to_owned(), lines: BufReader::new(stream) })
    }

    /// The next reply; none after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Reply>, ClientError> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&line).map(Some).map_err(|error| ClientError::Foreign {
                path: self.path.clone(),
                words: error.to_string(),
            }),
            Err(source) => Err(ClientError::Cut { path: self.path.clone(), source }),
        }
    }

    /// The first reply, which is the only one.
    pub(crate) fn answer(mut self) -> Result<Reply, ClientError> {
        self.next()?.ok_or_else(|| self.cut())
    }

    /// The error of a connection that ended before the last reply.
    pub(crate) fn cut(&self) -> ClientError {
        let source = io::ErrorKind::UnexpectedEof.into();
        ClientError::Cut { path: self.path.clone(), source }
    }
}
