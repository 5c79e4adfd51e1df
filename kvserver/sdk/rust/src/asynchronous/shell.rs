//! The asynchronous way to the server: hyper's connections, kept by a pool of our own, which repeats nothing.

use super::connection::{Io, Payload, Sent, Watched};
use crate::core::calls::{Answer, Call, Outcome};
use crate::core::errors::ConfigError;
use crate::core::options::Settings;
use crate::core::servers::Servers;
use crate::core::shell::{Chunk, Opened, Shell};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
#[cfg(feature = "ws")]
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an idle connection is kept; the server's own limit is 75 s.
const IDLE: Duration = Duration::from_secs(30);
/// Longer than a request may take, which ends it first.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// A connection that takes requests, and what went of the last one.
pub(crate) struct Connection {
    sender: SendRequest<Payload>,
    sent: Arc<Sent>,
}

/// The way to the servers.
pub(crate) struct HyperShell {
    servers: Servers,
    /// Of each server.
    idle: Vec<Mutex<Vec<(Connection, Instant)>>>,
    connections: usize,
    #[cfg(feature = "rustls")]
    tls: Arc<rustls::ClientConfig>,
}

/// A stream of bytes from the server.
pub(crate) enum Stream {
    Body(Incoming, #[allow(dead_code)] Connection),
    #[cfg(feature = "ws")]
    Socket(Box<dyn Io>),
}

/// How far an attempt got: nothing before there is a connection, then what went of the request.
type Progress = Option<Arc<Sent>>;

impl HyperShell {
    pub(crate) fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let servers = settings.resolve()?;
        Ok(Self {
            idle: (0..servers.count()).map(|_| Mutex::default()).collect(),
            servers,
            connections: settings.connections.unwrap_or(32),
            #[cfg(feature = "rustls")]
            tls: crate::tls::config(&settings.root_certificates)?,
        })
    }

    async fn connect(&self, server: usize) -> Result<Box<dyn Io>, String> {
        let address = &self.servers.base(server).address;
        let longest = self.servers.connect_time(FOREVER);
        let stream = match tokio::time::timeout(longest, TcpStream::connect(address.host_and_port())).await {
            Ok(connected) => connected.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no connection within {longest:?}")),
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        #[cfg(feature = "rustls")]
        if address.tls {
            let host = address.host_and_port().0;
            let name = rustls::pki_types::ServerName::try_from(host).map_err(|error| error.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
            let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            return Ok(Box::new(stream));
        }
        Ok(Box::new(stream))
    }

    /// Return a connection that is ready for a request: the one used last, or a new one.
    async fn check_out(&self, server: usize) -> Result<Connection, String> {
        loop {
            let found = self.idle[server].lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((mut connection, since)) = found else { break };
            if since.elapsed() < IDLE && connection.sender.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let sent = Arc::new(Sent::default());
        let io = TokioIo::new(Watched::new(self.connect(server).await?, sent.clone()));
        let (sender, driver) = handshake(io).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            let _ = driver.await; // whoever waits for an answer sees its end
        });
        Ok(Connection { sender, sent })
    }

    fn check_in(&self, server: usize, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle[server].lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < IDLE);
        if idle.len() < self.connections {
            idle.push((connection, Instant::now()));
        }
    }

    /// Send `call`, and return the head of its answer.
    async fn begin(
        &self,
        server: usize,
        call: &Call,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, Connection), Box<Outcome>> {
        let never = |why: String| Box::new(Outcome::NeverSent(why));
        let base = self.servers.base(server);
        let request = base.request(call).map_err(|error| never(error.to_string()))?;
        let (mut parts, ()) = request.into_parts();
        let host = base.address.authority.parse().map_err(|_| never("the host is no header".to_owned()))?;
        parts.headers.insert(http::header::HOST, host);
        let target = format!("{}{}", base.address.path, call.target);
        parts.uri = target.parse().map_err(|_| never("the target is no URI".to_owned()))?;
        let mut connection = self.check_out(server).await.map_err(never)?;
        let request = http::Request::from_parts(parts, Payload::new(&call.body, connection.sent.clone()));
        *progress = Some(connection.sent.clone());
        match connection.sender.send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(Box::new(unanswered(with_sources(&error), progress))),
        }
    }

    async fn exchange(&self, server: usize, call: &Call, progress: &mut Progress) -> Outcome {
        match self.begin(server, call, progress).await {
            Ok((response, connection)) => match whole(response).await {
                Ok(answer) => {
                    self.check_in(server, connection);
                    Outcome::Answer(answer)
                }
                Err(outcome) => *outcome,
            },
            Err(outcome) => *outcome,
        }
    }
}

async fn whole(response: Response<Incoming>) -> Result<Answer, Box<Outcome>> {
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes().to_vec();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        }
        Err(error) => Err(Box::new(Outcome::Lost(format!("the answer broke off: {}", with_sources(&error))))),
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_sources(source)),
        None => error.to_string(),
    }
}

/// Return the outcome of an attempt that got no answer.
fn unanswered(why: String, progress: &Progress) -> Outcome {
    match progress {
        Some(sent) if sent.is_whole() => Outcome::Lost(why),
        Some(_) => Outcome::NeverSent(format!("the connection was lost while the request was sent: {why}")),
        None => Outcome::NeverSent(why),
    }
}

fn late(timeout: Duration, progress: &Progress) -> Outcome {
    unanswered(format!("no answer within {timeout:?}"), progress)
}

impl Shell for HyperShell {
    type Stream = Stream;
    const SLICE: Duration = Duration::from_secs(3_600);

    async fn send(&self, server: usize, call: &Call, timeout: Duration) -> Outcome {
        let mut progress = None;
        match tokio::time::timeout(timeout, self.exchange(server, call, &mut progress)).await {
            Ok(outcome) => outcome,
            Err(_) => late(timeout, &progress),
        }
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn open(&self, server: usize, call: &Call, timeout: Duration) -> Opened<Stream> {
        let mut progress = None;
        let opening = async {
            match self.begin(server, call, &mut progress).await {
                Ok((response, connection)) if response.status() == http::StatusCode::OK => {
                    Opened::Stream(Stream::Body(response.into_body(), connection))
                }
                Ok((response, _)) => Opened::Not(whole(response).await.map_or_else(|lost| *lost, Outcome::Answer)),
                Err(outcome) => Opened::Not(*outcome),
            }
        };
        match tokio::time::timeout(timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Opened::Not(late(timeout, &progress)),
        }
    }

    async fn read(&self, stream: &mut Stream, wait: Duration) -> Chunk {
        match stream {
            Stream::Body(body, _) => loop {
                return match tokio::time::timeout(wait, body.frame()).await {
                    Err(_) => Chunk::Silence,
                    Ok(None) => Chunk::End("the server closed the stream".to_owned()),
                    Ok(Some(Err(error))) => Chunk::End(with_sources(&error)),
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(bytes) if !bytes.is_empty() => Chunk::Bytes(bytes.to_vec()),
                        _ => continue,
                    },
                };
            },
            #[cfg(feature = "ws")]
            Stream::Socket(socket) => {
                let mut buffer = vec![0; 65_536];
                match tokio::time::timeout(wait, socket.read(&mut buffer)).await {
                    Err(_) => Chunk::Silence,
                    Ok(Ok(0)) => Chunk::End("the server closed the connection".to_owned()),
                    Ok(Ok(length)) => {
                        buffer.truncate(length);
                        Chunk::Bytes(buffer)
                    }
                    Ok(Err(error)) => Chunk::End(error.to_string()),
                }
            }
        }
    }

    #[cfg(feature = "ws")]
    async fn dial(&self, server: usize, timeout: Duration) -> Result<Stream, String> {
        match tokio::time::timeout(timeout, self.connect(server)).await {
            Ok(connected) => connected.map(Stream::Socket),
            Err(_) => Err(format!("no connection within {timeout:?}")),
        }
    }

    #[cfg(feature = "ws")]
    async fn write(&self, stream: &mut Stream, bytes: &[u8]) -> Result<(), String> {
        match stream {
            Stream::Socket(socket) => {
                socket.write_all(bytes).await.map_err(|error| error.to_string())?;
                socket.flush().await.map_err(|error| error.to_string())
            }
            Stream::Body(..) => Err("a stream that is only read".to_owned()),
        }
    }

    fn servers(&self) -> &Servers {
        &self.servers
    }
}
