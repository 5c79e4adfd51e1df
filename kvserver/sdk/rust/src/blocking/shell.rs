//! The blocking way to the server, on ureq.

use crate::core::calls::{Answer, Call, Outcome};
use crate::core::errors::ConfigError;
use crate::core::options::Settings;
use crate::core::servers::Servers;
use crate::core::shell::{Chunk, Opened, Shell};
use std::cell::Cell;
use std::io::Read;
use std::time::Duration;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};
use ureq::Agent;

thread_local! {
    /// How far the request of this thread got.
    static SENT: Cell<Sent> = const { Cell::new(Sent::NoConnection) };
    /// How long this thread's next read of a stream waits.
    static WAIT: Cell<Option<Duration>> = const { Cell::new(None) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    NoConnection,
    Begun,
    /// Writing failed: the server cannot have all of the request.
    Cut,
}

/// Notes on each connection what is written and read.
#[derive(Debug)]
struct Watched<T> {
    inner: T,
    cut: bool,
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if SENT.get() == Sent::NoConnection {
            SENT.set(Sent::Begun);
        }
        if self.cut {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(ureq::Error::Io(_)) => {
                // The server may have answered before it closed: read that.
                self.cut = true;
                SENT.set(Sent::Cut);
                Ok(())
            }
            Err(error) => {
                SENT.set(Sent::Cut);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if let Some(wait) = WAIT.get() {
            timeout.after = wait.into();
        }
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        !self.cut && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[derive(Debug)]
struct Watching;

impl<In: Transport> Connector<In> for Watching {
    type Out = Watched<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Watched<In>>, ureq::Error> {
        Ok(chained.map(|inner| Watched { inner, cut: false }))
    }
}

/// The way to the servers: a pool of connections.
pub(crate) struct UreqShell {
    agent: Agent,
    servers: Servers,
    #[cfg(all(feature = "ws", feature = "rustls"))]
    tls: std::sync::Arc<rustls::ClientConfig>,
}

/// A stream of bytes from the server.
pub(crate) enum Stream {
    Body(Box<ureq::BodyReader<'static>>),
    #[cfg(feature = "ws")]
    Socket(super::socket::Socket),
}

impl UreqShell {
    pub(crate) fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let servers = settings.resolve()?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .max_idle_connections(settings.connections.unwrap_or(32))
            .max_idle_connections_per_host(settings.connections.unwrap_or(32))
            .max_idle_age(Duration::from_secs(30)); // the server's own limit is 75 s
        #[cfg(feature = "rustls")]
        let config = config.tls_config(crate::tls::for_ureq(&settings.root_certificates));
        #[cfg(feature = "rustls")]
        let _tls = crate::tls::config(&settings.root_certificates)?; // ureq says nothing of malformed ones
        let connector = DefaultConnector::new().chain(Watching);
        Ok(Self {
            agent: Agent::with_parts(config.build(), connector, DefaultResolver::default()),
            servers,
            #[cfg(all(feature = "ws", feature = "rustls"))]
            tls: _tls,
        })
    }

    fn begin(
        &self,
        server: usize,
        call: &Call,
        timeout: Duration,
        whole: bool,
    ) -> Result<http::Response<ureq::Body>, Box<Outcome>> {
        let request =
            self.servers.base(server).request(call).map_err(|error| Box::new(Outcome::NeverSent(error.to_string())))?;
        let (parts, ()) = request.into_parts();
        let has_body = matches!(call.method, http::Method::PUT | http::Method::POST | http::Method::PATCH);
        SENT.set(Sent::NoConnection);
        let result = if has_body {
            let request = http::Request::from_parts(parts, &call.body[..]);
            self.agent.run(self.with_timeouts(request, timeout, whole))
        } else {
            let request = http::Request::from_parts(parts, ());
            self.agent.run(self.with_timeouts(request, timeout, whole))
        };
        result.map_err(|error| Box::new(outcome_of(&error)))
    }

    fn with_timeouts<B: ureq::AsSendBody>(
        &self,
        request: http::Request<B>,
        timeout: Duration,
        whole: bool,
    ) -> http::Request<B> {
        let connect = self.servers.connect_time(timeout);
        let config = self.agent.configure_request(request).timeout_connect(Some(connect));
        if whole {
            return config.timeout_global(Some(timeout)).build();
        }
        config.timeout_resolve(Some(timeout)).timeout_recv_response(Some(timeout)).build()
    }
}

/// Return what an error of ureq's means for the request of this thread.
fn outcome_of(error: &ureq::Error) -> Outcome {
    match SENT.get() {
        Sent::NoConnection => Outcome::NeverSent(error.to_string()),
        Sent::Cut => Outcome::NeverSent(format!("the connection was lost while the request was sent: {error}")),
        Sent::Begun => Outcome::Lost(error.to_string()),
    }
}

impl Shell for UreqShell {
    type Stream = Stream;
    const SLICE: Duration = Duration::from_millis(250);

    async fn send(&self, server: usize, call: &Call, timeout: Duration) -> Outcome {
        let response = match self.begin(server, call, timeout, true) {
            Ok(response) => response,
            Err(outcome) => return *outcome,
        };
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        match body.into_reader().read_to_end(&mut bytes) {
            Ok(_) => Outcome::Answer(Answer { status: parts.status.as_u16(), headers: parts.headers, body: bytes }),
            Err(error) => Outcome::Lost(format!("the answer broke off: {error}")),
        }
    }

    async fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    async fn open(&self, server: usize, call: &Call, timeout: Duration) -> Opened<Stream> {
        let response = match self.begin(server, call, timeout, false) {
            Ok(response) => response,
            Err(outcome) => return Opened::Not(*outcome),
        };
        let (parts, body) = response.into_parts();
        if parts.status == http::StatusCode::OK {
            return Opened::Stream(Stream::Body(Box::new(body.into_reader())));
        }
        let (status, headers) = (parts.status.as_u16(), parts.headers);
        WAIT.set(Some(timeout));
        let mut bytes = Vec::new();
        let read = body.into_reader().read_to_end(&mut bytes);
        WAIT.set(None);
        Opened::Not(match read {
            Ok(_) => Outcome::Answer(Answer { status, headers, body: bytes }),
            Err(error) => Outcome::Lost(format!("the answer broke off: {error}")),
        })
    }

    async fn read(&self, stream: &mut Stream, wait: Duration) -> Chunk {
        match stream {
            Stream::Body(reader) => {
                WAIT.set(Some(wait));
                let mut buffer = vec![0; 65_536];
                let read = reader.read(&mut buffer);
                WAIT.set(None);
                chunk_of(read, buffer)
            }
            #[cfg(feature = "ws")]
            Stream::Socket(socket) => socket.read(wait),
        }
    }

    #[cfg(feature = "ws")]
    async fn dial(&self, server: usize, timeout: Duration) -> Result<Stream, String> {
        let address = &self.servers.base(server).address;
        let timeout = self.servers.connect_time(timeout);
        #[cfg(feature = "rustls")]
        let socket = super::socket::Socket::connect(address, timeout, &self.tls);
        #[cfg(not(feature = "rustls"))]
        let socket = super::socket::Socket::connect(address, timeout);
        socket.map(Stream::Socket).map_err(|error| error.to_string())
    }

    #[cfg(feature = "ws")]
    async fn write(&self, stream: &mut Stream, bytes: &[u8]) -> Result<(), String> {
        match stream {
            Stream::Socket(socket) => socket.write(bytes).map_err(|error| error.to_string()),
            Stream::Body(_) => Err("a stream that is only read".to_owned()),
        }
    }

    fn servers(&self) -> &Servers {
        &self.servers
    }
}

/// Return what one read of a stream brought.
pub(crate) fn chunk_of(read: std::io::Result<usize>, mut buffer: Vec<u8>) -> Chunk {
    match read {
        Ok(0) => Chunk::End("the server closed the stream".to_owned()),
        Ok(length) => {
            buffer.truncate(length);
            Chunk::Bytes(buffer)
        }
        Err(error) if is_timeout(&error) => Chunk::Silence,
        Err(error) => Chunk::End(error.to_string()),
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    let of_ureq = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(of_ureq, Some(ureq::Error::Timeout(_)))
        || matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
