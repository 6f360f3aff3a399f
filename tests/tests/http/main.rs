//! Clients of a service of axum, through its swaps: none notices one.

mod cuts;
mod daemon;
mod grpc;
mod http2;
mod leaving;
mod service;
mod tls;
#[cfg(feature = "http-tools")]
mod tools;
mod ws;
