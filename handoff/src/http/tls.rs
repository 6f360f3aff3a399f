//! TLS in the daemon's own process, by rustls.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rustls::ServerConfig;
use rustls::crypto::SecureRandom;
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::carry::{Carried, Memory, Reads};
use crate::log;

/// The certificates of a service, and the keys of its tickets.
pub(super) struct Tls {
    config: RwLock<Arc<ServerConfig>>,
    tickets: Arc<Tickets>,
}

impl Tls {
    pub(super) fn new(config: ServerConfig) -> Self {
        let random = config.crypto_provider().secure_random;
        let memory = Arc::new(Memory::new().may_be_lost());
        let tickets = Arc::new(Tickets { memory, random, rotates: Mutex::new(()) });
        let config = RwLock::new(Arc::new(tickets.serve(config)));
        Self { config, tickets }
    }

    /// New connections get that one.
    pub(super) fn set(&self, config: ServerConfig) {
        let config = Arc::new(self.tickets.serve(config));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(super) fn keys(&self) -> &Arc<Memory> {
        &self.tickets.memory
    }

    pub(super) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(tcp)).await?
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Makes tickets, by which a client comes back without a full handshake, also to the next process: the
/// keys go along as carried memory.
struct Tickets {
    memory: Arc<Memory>,
    random: &'static dyn SecureRandom,
    /// One thread at a time makes a new key.
    rotates: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    /// The first one makes tickets. The others were replaced by it.
    keys: Vec<Key>,
}

#[derive(Serialize, Deserialize)]
struct Key {
    name: [u8; NAME_LEN],
    secret: [u8; 32],
    /// In seconds since 1970.
    made: u64,
}

impl Carried for Keys {
    const NAME: &'static str = "handoff.tls-keys";
    const VERSION: u32 = 1;
}

impl Tickets {
    /// Lets that configuration make tickets with these keys, unless it makes some of its own, or wants no
    /// client to come back.
    fn serve(self: &Arc<Self>, mut config: ServerConfig) -> ServerConfig {
        let resumes = config.session_storage.can_cache() && config.send_tls13_tickets > 0;
        if resumes && !config.ticketer.enabled() && asks_no_client(&config) {
            config.ticketer = Arc::<Self>::clone(self);
        }
        if config.alpn_protocols.is_empty() {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        config
    }

    /// None where there is none yet, or of a layout of another build.
    fn keys(&self) -> Option<Keys> {
        self.memory.value(KEYS, &Reads::new()).ok().flatten()
    }

    /// Those with a first one that is young enough for a new ticket.
    fn young_keys(&self) -> Option<Keys> {
        let _alone = self.rotates.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        let mut keys = self.keys().unwrap_or(Keys { keys: Vec::new() });
        if !keys.keys.first().is_some_and(|key| key.is_younger_than(KEY_AGE)) {
            let mut key = Key { name: [0; NAME_LEN], secret: [0; 32], made: now };
            self.random.fill(&mut key.name).ok()?;
            self.random.fill(&mut key.secret).ok()?;
            keys.keys.insert(0, key);
            keys.keys.truncate(MAX_KEYS);
            if let Err(error) = self.memory.put_value(KEYS, &keys) {
                log::warn!(
                    %error,
                    "this daemon cannot keep a key for tickets of TLS: clients make full handshakes"
                );
                return None;
            }
        }
        Some(keys)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(KEY_AGE.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.young_keys()?;
        let key = keys.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let sealed = key.cipher().encrypt(&XNonce::from(nonce), plain).ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys()?;
        let mut valid = keys.keys.iter().filter(|key| key.is_younger_than(KEY_AGE * 2));
        let key = valid.find(|key| &key.name == name)?;
        key.cipher().decrypt(&XNonce::from(*nonce), sealed).ok()
    }
}

impl Key {
    /// No key of the future is: the clock was set back.
    fn is_younger_than(&self, age: Duration) -> bool {
        now().checked_sub(self.made).is_some_and(|since| since < age.as_secs())
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.secret.into())
    }
}

/// Whether it wants no certificates of its clients. By a ticket a client comes back with whatever it has
/// shown before, or has not: also to a configuration that would not take it. rustls says what a
/// configuration wants in its debug output alone; where that says something else, there are no tickets.
fn asks_no_client(config: &ServerConfig) -> bool {
    format!("{config:?}").contains("verifier: NoClientAuth,")
}

/// In seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

const KEYS: &str = "keys";
const NAME_LEN: usize = 16;
const NONCE_LEN: usize = 24;
/// A ticket is taken for as long again as one key makes tickets.
const KEY_AGE: Duration = Duration::from_secs(6 * 3600);
const MAX_KEYS: usize = 2;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// Not random, which is enough here.
    #[derive(Debug)]
    struct Counted(std::sync::atomic::AtomicU8);

    impl SecureRandom for Counted {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), rustls::crypto::GetRandomFailed> {
            bytes.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            Ok(())
        }
    }

    fn tickets(memory: &Arc<Memory>) -> Tickets {
        static RANDOM: Counted = Counted(std::sync::atomic::AtomicU8::new(0));
        Tickets { memory: Arc::clone(memory), random: &RANDOM, rotates: Mutex::new(()) }
    }

    #[test]
    fn a_ticket_is_read_by_whoever_has_the_keys_and_by_nobody_else() {
        let memory = Arc::new(Memory::new());
        let ticket = tickets(&memory).encrypt(b"a session").expect("there is a key");
        assert!(!ticket.windows(9).any(|bytes| bytes == b"a session"));
        assert_eq!(tickets(&memory).decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(tickets(&Arc::default()).decrypt(&ticket), None);
        for damaged in 0..ticket.len() {
            let mut other = ticket.clone();
            other[damaged] ^= 1;
            assert_eq!(tickets(&memory).decrypt(&other), None, "at {damaged}");
            assert_eq!(tickets(&memory).decrypt(&ticket[..damaged]), None);
        }
    }

    #[test]
    fn a_key_that_is_old_reads_tickets_and_makes_none() {
        let memory = Arc::new(Memory::new());
        let first = tickets(&memory).encrypt(b"first").expect("there is a key");
        let age = |by: Duration| {
            let mut keys = tickets(&memory).keys().expect("there are some");
            keys.keys.iter_mut().for_each(|key| key.made -= by.as_secs());
            memory.put_value(KEYS, &keys).expect("there is memory");
        };
        age(KEY_AGE);
        let second = tickets(&memory).encrypt(b"second").expect("there is a key");
        assert_ne!(first[..NAME_LEN], second[..NAME_LEN]);
        let reads = |ticket: &[u8]| tickets(&memory).decrypt(ticket).is_some();
        assert!(reads(&first) && reads(&second));
        age(KEY_AGE);
        assert!(!reads(&first) && reads(&second), "also where nobody has asked for a ticket since");
        let third = tickets(&memory).encrypt(b"third").expect("there is a key");
        assert!(!reads(&first) && reads(&second) && reads(&third));
    }
}
