//! A connection without HTTP, for WebSockets.

use super::shell::chunk_of;
use crate::core::options::Address;
use crate::core::shell::Chunk;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// A connection, with TLS or without.
pub(crate) enum Socket {
    Plain(TcpStream),
    #[cfg(feature = "rustls")]
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Socket {
    /// Connect to `address` within `timeout`.
    pub(crate) fn connect(
        address: &Address,
        timeout: Duration,
        #[cfg(feature = "rustls")] config: &std::sync::Arc<rustls::ClientConfig>,
    ) -> io::Result<Self> {
        let stream = connect_tcp(address, timeout)?;
        #[cfg(feature = "rustls")]
        if address.tls {
            let name = rustls::pki_types::ServerName::try_from(address.host_and_port().0).map_err(io::Error::other)?;
            let session = rustls::ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            return Ok(Self::Tls(Box::new(rustls::StreamOwned::new(session, stream))));
        }
        Ok(Self::Plain(stream))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "rustls")]
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// Read, waiting `wait` at most.
    pub(crate) fn read(&mut self, wait: Duration) -> Chunk {
        if let Err(error) = self.tcp().set_read_timeout(Some(wait.max(Duration::from_millis(1)))) {
            return Chunk::End(error.to_string());
        }
        let mut buffer = vec![0; 65_536];
        let read = match self {
            Self::Plain(stream) => stream.read(&mut buffer),
            #[cfg(feature = "rustls")]
            Self::Tls(stream) => stream.read(&mut buffer),
        };
        chunk_of(read, buffer)
    }

    /// Write all of `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            #[cfg(feature = "rustls")]
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

fn connect_tcp(address: &Address, timeout: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + timeout;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in address.host_and_port().to_socket_addrs()? {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
