//! What a connection is read from and written to: a socket, or TLS over one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
    /// The next process does not have its keys: it cannot be carried.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Transport {
    /// Reads some more; none at the end of the stream.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => loop {
                ready!(tcp.poll_read_ready(context))?;
                bytes.reserve(READ_AT_ONCE);
                match tcp.try_read_buf(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            },
            #[cfg(feature = "tls")]
            Self::Tls(tls) => {
                let before = bytes.len();
                bytes.resize(before + READ_AT_ONCE, 0);
                let mut buffer = tokio::io::ReadBuf::new(&mut bytes[before..]);
                let read = tokio::io::AsyncRead::poll_read(Pin::new(tls), context, &mut buffer);
                let count = buffer.filled().len();
                bytes.truncate(before + count);
                match ready!(read) {
                    // A client that ends without a word has ended: the requests say where they end.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        Poll::Ready(Ok(0))
                    }
                    read => Poll::Ready(read.map(|()| count)),
                }
            }
        }
    }

    /// The socket, if it can go to another process.
    pub(super) fn into_carried(self) -> Result<TcpStream, Self> {
        match self {
            Self::Tcp(tcp) => Ok(tcp),
            #[cfg(feature = "tls")]
            Self::Tls(_) => Err(self),
        }
    }

    /// Says that it ends, as far as the client takes it without a wait.
    pub(super) fn end(&mut self) {
        let _ = Pin::new(self).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }

    pub(super) const fn is_carried(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    fn writer(self: Pin<&mut Self>) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Pin::new(tls),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writer().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writer().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_shutdown(context)
    }
}

const READ_AT_ONCE: usize = 8 << 10;
