//! Does a pipeline's commands in order, and gives their replies.

use std::fmt::Write as _;

use bytes::Bytes;
use handoff::Shard;
use tokio::sync::oneshot;

use crate::command::Command;
use crate::resp::{self, Reply};
use crate::store::Store;
use crate::writer::{Answer, WriteError};

/// Does a pipeline's commands one at a time and keeps their replies in order.
///
/// Writes are queued as they come and waited for together, so that all of a pipeline share
/// their transactions. A command that reads waits for the writes before it.
pub(crate) struct Pipeline<'a> {
    store: &'a Store,
    build: u32,
    replies: Vec<Slot>,
}

enum Slot {
    Ready(Reply),
    Set(oneshot::Receiver<Answer>),
    Incr(oneshot::Receiver<Answer>),
    Del(Vec<oneshot::Receiver<Answer>>),
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(store: &'a Store, build: u32) -> Self {
        Self { store, build, replies: Vec::new() }
    }

    /// Does a command, or queues it.
    pub(crate) async fn push(&mut self, command: Command) {
        let store = self.store;
        let slot = match command {
            Command::Set { key, value } => Slot::Set(store.set(key, value)),
            Command::Incr(key) => Slot::Incr(store.incr(key)),
            Command::Del(keys) => Slot::Del(keys.into_iter().map(|key| store.del(key)).collect()),
            Command::Get(key) => {
                self.answer_all().await;
                Slot::Ready(match store.get(&key) {
                    Ok(value) => value.map_or(Reply::Null, Reply::BulkString),
                    Err(error) => resp::error(error),
                })
            }
            Command::DbSize => {
                self.answer_all().await;
                Slot::Ready(match store.key_count() {
                    Ok(count) => Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX)),
                    Err(error) => resp::error(error),
                })
            }
            Command::Info => {
                self.answer_all().await;
                Slot::Ready(Reply::BulkString(self.info().into()))
            }
            Command::Ping(None) => Slot::Ready(resp::status("PONG")),
            Command::Ping(Some(text)) | Command::Echo(text) => Slot::Ready(Reply::BulkString(text)),
            Command::Config(name) => Slot::Ready(Reply::Array(vec![
                Reply::BulkString(name),
                Reply::BulkString(Bytes::new()),
            ])),
            Command::Describe => Slot::Ready(Reply::Array(Vec::new())),
            Command::Acknowledge | Command::Quit => Slot::Ready(resp::status("OK")),
        };
        self.replies.push(slot);
    }

    /// Puts a reply after those of the commands so far.
    pub(crate) fn reply(&mut self, reply: Reply) {
        self.replies.push(Slot::Ready(reply));
    }

    /// All replies, once every write is durable.
    pub(crate) async fn finish(mut self) -> Vec<Reply> {
        self.answer_all().await;
        let ready = |slot| match slot {
            Slot::Ready(reply) => Some(reply),
            _ => None,
        };
        self.replies.into_iter().filter_map(ready).collect()
    }

    async fn answer_all(&mut self) {
        for slot in &mut self.replies {
            let reply = match slot {
                Slot::Ready(_) => continue,
                Slot::Set(answered) => answer(answered).await.map(|_| resp::status("OK")),
                Slot::Incr(answered) => answer(answered).await.map(Reply::Integer),
                Slot::Del(answers) => sum(answers).await.map(Reply::Integer),
            };
            *slot = Slot::Ready(reply.unwrap_or_else(resp::error));
        }
    }

    fn info(&self) -> String {
        let shards = self.store.shards();
        let mut info = String::from("# Server\r\n");
        let _ = write!(info, "kvd_build:{}\r\nprocess_id:{}\r\n", self.build, std::process::id());
        let (hits, carried) = (self.store.cache_hits(), self.store.cache_carried());
        let _ = write!(info, "# Cache\r\ncache_hits:{hits}\r\ncache_carried:{carried}\r\n");
        info.push_str("# Shards\r\n");
        for (index, shard) in shards.iter().enumerate() {
            let _ = write!(info, "shard_{index:02}:revision={}\r\n", shard.revision());
        }
        info
    }
}

async fn answer(answered: &mut oneshot::Receiver<Answer>) -> Answer {
    // The writer answers every write that it takes, unless its thread panicked.
    answered.await.unwrap_or_else(|_| Err(WriteError::Storage("the writer is gone".into())))
}

async fn sum(answers: &mut [oneshot::Receiver<Answer>]) -> Answer {
    let mut sum = Ok(0);
    for answered in answers {
        let one = answer(answered).await;
        sum = sum.and_then(|sum| Ok(sum + one?));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs commands, one a line, and gives their replies as they go over the wire.
    async fn run(store: &Store, lines: &[&str]) -> Vec<String> {
        let mut pipeline = Pipeline::new(store, 7);
        for line in lines {
            let words: Vec<Bytes> = line.split(' ').map(|word| word.to_owned().into()).collect();
            match Command::parse(&words) {
                Ok(command) => pipeline.push(command).await,
                Err(refusal) => pipeline.reply(resp::error(refusal)),
            }
        }
        let mut replies = Vec::new();
        for reply in pipeline.finish().await {
            let mut wire = bytes::BytesMut::new();
            resp::put_reply(&mut wire, &reply).unwrap();
            replies.push(String::from_utf8(wire.to_vec()).unwrap());
        }
        replies
    }

    #[tokio::test]
    async fn a_pipeline_is_answered_in_order_and_reads_its_own_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lines =
            ["SET a 1", "INCR a", "GET a", "NONSENSE", "DEL a b", "GET a", "DBSIZE", "PING"];
        assert_eq!(
            run(&store, &lines).await,
            [
                "+OK\r\n",
                ":2\r\n",
                "$1\r\n2\r\n",
                "-ERR unknown command 'NONSENSE'\r\n",
                ":1\r\n",
                "$-1\r\n",
                ":0\r\n",
                "+PONG\r\n"
            ]
        );
    }

    #[tokio::test]
    async fn what_clients_ask_of_a_server_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(
            run(&store, &["CONFIG GET save", "COMMAND DOCS", "SELECT 0", "ECHO hi"]).await,
            ["*2\r\n$4\r\nsave\r\n$0\r\n\r\n", "*0\r\n", "+OK\r\n", "$2\r\nhi\r\n"]
        );
        run(&store, &["SET a 1", "GET a", "GET a"]).await;
        let info = run(&store, &["INFO"]).await;
        for line in ["kvd_build:7", "cache_hits:1", "cache_carried:0"] {
            assert!(info[0].contains(&format!("\r\n{line}\r\n")), "{info:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_an_error_reply() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(
            run(&store, &["SET a x", "INCR a"]).await,
            ["+OK\r\n", "-ERR value is not an integer or out of range\r\n"]
        );
        store.shards().iter().for_each(|shard| assert!(shard.seal().is_ok()));
        assert_eq!(run(&store, &["SET a y"]).await, ["-ERR the shard is sealed\r\n"]);
    }
}
