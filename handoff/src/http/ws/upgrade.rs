//! A request that is to become a WebSocket.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use hyper::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Open, Running, hold};
use crate::carry::Carried;
use crate::http::flight::Client;
use crate::http::io::Io;
use crate::log;

/// A request to become a WebSocket with a state `S`: an extractor of axum, for routes with `get`.
#[must_use = "the client waits for a reply: return what `accept` gives"]
pub struct Upgrade<S: Carried> {
    running: Arc<Running<S>>,
    client: Client,
    on_upgrade: OnUpgrade,
    accept_key: String,
    /// What the client speaks on top of it, by its own preference.
    protocols: Vec<String>,
    protocol: Option<String>,
}

impl<S: Carried> Upgrade<S> {
    /// Makes the connection a WebSocket, with that state for its handler. The reply says so: the handler
    /// of the route returns it.
    #[must_use = "the client waits for this reply"]
    pub fn accept(self, state: S) -> Response {
        let Self { running, client, on_upgrade, accept_key, protocol, .. } = self;
        // The request's pass is held: no drain overlooks the connection.
        let ticket = running.connections.enter(client.name.clone());
        tokio::spawn(async move {
            let upgraded = match on_upgrade.await {
                Ok(upgraded) => upgraded,
                Err(error) => {
                    log::debug!(
                        connection = client.name, %error,
                        "a connection has ended before it was a WebSocket"
                    );
                    return;
                }
            };
            let Ok(parts) = upgraded.downcast::<Io>() else { return };
            // Another reply may have taken the place of this one.
            if !parts.io.is_switched() {
                return;
            }
            let (transport, unread) = parts.io.into_parts(false, &parts.read_buf);
            let state = Open::V1 { state, unread, unsent: Vec::new() };
            hold(client.permit.take(), running.serve(transport, state, ticket)).await;
        });
        let mut reply = Response::new(Body::empty());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = reply.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let of_text = |text: Option<String>| HeaderValue::try_from(text?).ok();
        let replies = [
            (SEC_WEBSOCKET_ACCEPT, of_text(Some(accept_key))),
            (SEC_WEBSOCKET_PROTOCOL, of_text(protocol)),
        ];
        headers.extend(replies.into_iter().filter_map(|(name, value)| Some((name, value?))));
        reply
    }

    /// The subprotocols that the client speaks, by its own preference.
    pub fn protocols(&self) -> impl Iterator<Item = &str> {
        self.protocols.iter().map(String::as_str)
    }

    /// Tells the client which subprotocol is spoken: one of [`protocols`](Self::protocols).
    pub fn with_protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }
}

impl<S: Carried> fmt::Debug for Upgrade<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("protocols", &self.protocols).finish_non_exhaustive()
    }
}

impl<S: Carried, A: Send + Sync> FromRequestParts<A> for Upgrade<S> {
    type Rejection = NoWebSocket;

    async fn from_request_parts(parts: &mut Parts, _: &A) -> Result<Self, NoWebSocket> {
        let has = |name: HeaderName, token: &str| {
            let values = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values
                .flat_map(|value| value.split(','))
                .any(|is| is.trim().eq_ignore_ascii_case(token))
        };
        let is_asked = has(CONNECTION, "upgrade") && has(UPGRADE, "websocket");
        if parts.method != Method::GET || parts.version != Version::HTTP_11 || !is_asked {
            return Err(NoWebSocket::NotAsked);
        }
        if !has(SEC_WEBSOCKET_VERSION, "13") {
            return Err(NoWebSocket::Version);
        }
        let key = parts.headers.get(SEC_WEBSOCKET_KEY).ok_or(NoWebSocket::NotAsked)?;
        let accept_key = derive_accept_key(key.as_bytes());
        let protocols = parts.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let protocols = protocols.filter_map(|value| value.to_str().ok());
        let protocols = protocols.flat_map(|value| value.split(','));
        let protocols = protocols.map(|protocol| protocol.trim().to_owned()).collect();
        let Some(running) = parts.extensions.get::<Arc<Running<S>>>().map(Arc::clone) else {
            log::error!(
                state = type_name::<S>(),
                "this service has no WebSockets with that state: give them to `Server::websockets`"
            );
            return Err(NoWebSocket::NotServed);
        };
        let on_upgrade = parts.extensions.remove::<OnUpgrade>().ok_or(NoWebSocket::NotAsked)?;
        let client = parts.extensions.remove::<Client>().ok_or(NoWebSocket::NotServed)?;
        Ok(Self { running, client, on_upgrade, accept_key, protocols, protocol: None })
    }
}

/// Why a request cannot become a WebSocket; also the reply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoWebSocket {
    /// It does not ask for it: 426.
    #[error("this address speaks WebSocket alone: ask with GET, HTTP/1.1 and `Upgrade: websocket`")]
    NotAsked,
    /// It asks for another version: 426.
    #[error("this address speaks version 13 of WebSocket")]
    Version,
    /// The service was not given [`WebSockets`](super::WebSockets) with that state: 500.
    #[error("this address is not served")]
    NotServed,
}

impl IntoResponse for NoWebSocket {
    fn into_response(self) -> Response {
        let mut reply = Response::new(Body::from(self.to_string()));
        let (status, header) = match self {
            Self::NotAsked => (StatusCode::UPGRADE_REQUIRED, Some((UPGRADE, "websocket"))),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, Some((SEC_WEBSOCKET_VERSION, "13"))),
            Self::NotServed => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        *reply.status_mut() = status;
        let header = header.map(|(name, value)| (name, HeaderValue::from_static(value)));
        reply.headers_mut().extend(header);
        reply
    }
}
