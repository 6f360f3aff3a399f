//! A service of gRPC by tonic, whose messages are plain text: no compiler of protobuf is needed.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut};
use futures_util::stream::{Stream, unfold};
use handoff::http::Body;
use hyper::{Request, Response};
use tokio::time::sleep;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Status, body};

/// Answers with its pid.
pub const PID: &str = "/test.Texts/Pid";
/// Answers with so many texts, each with its pid and 5 ms after the one before.
pub const COUNT: &str = "/test.Texts/Count";

/// Counts the calls that it has begun.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// How many.
    pub begun: Arc<AtomicU64>,
}

impl tower_service::Service<Request<Body>> for Texts {
    type Response = Response<body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let mut grpc = Grpc::new(Text);
            Ok(match request.uri().path() {
                PID => grpc.unary(Pid, request).await,
                COUNT => grpc.server_streaming(Count, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

struct Pid;

impl UnaryService<String> for Pid {
    type Response = String;
    type Future = Ready<Result<tonic::Response<String>, Status>>;

    fn call(&mut self, _: tonic::Request<String>) -> Self::Future {
        ready(Ok(tonic::Response::new(process::id().to_string())))
    }
}

struct Count;

type Texted = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

impl ServerStreamingService<String> for Count {
    type Response = String;
    type ResponseStream = Texted;
    type Future = Ready<Result<tonic::Response<Texted>, Status>>;

    fn call(&mut self, request: tonic::Request<String>) -> Self::Future {
        let count: u32 = request.get_ref().parse().unwrap_or_default();
        let texts: Texted = Box::pin(unfold(0, move |sent| async move {
            if sent == count {
                return None;
            }
            sleep(Duration::from_millis(5)).await;
            Some((Ok(format!("{sent} {}", process::id())), sent + 1))
        }));
        ready(Ok(tonic::Response::new(texts)))
    }
}

/// Messages of text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        String::from_utf8(bytes.into())
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
