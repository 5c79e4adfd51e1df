//! A WebSocket without its connection: bytes in, messages out. tungstenite does the frames.

use crate::core::calls::{Answer, Outcome};
use crate::core::codes;
use crate::core::errors::Refused;
use crate::core::options::Address;
use crate::core::shell::{Chunk, Shell};
use http::HeaderMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// The two directions of a connection, in memory.
#[derive(Debug, Default)]
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What tungstenite takes for a connection.
#[derive(Debug, Clone, Default)]
struct Pipe(Arc<Mutex<Buffers>>);

impl Pipe {
    fn with<T>(&self, what: impl FnOnce(&mut Buffers) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.with(|buffers| {
            let length = into.len().min(buffers.input.len());
            if length == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            into[..length].copy_from_slice(&buffers.input[..length]);
            buffers.input.drain(..length);
            Ok(length)
        })
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|buffers| buffers.output.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of the largest message: an atomic batch of 48 MiB, whose text grows when it is escaped. tungstenite makes
/// room for as many as the head of a frame says.
const LARGEST: usize = 256 << 20;

/// A message, or the want of one.
pub(crate) enum Received {
    /// A message, as text or not.
    Message(Vec<u8>),
    /// Nothing came within the time to wait.
    Silence,
    /// The connection is over.
    End(String),
}

/// An open WebSocket.
pub(crate) struct Session {
    socket: WebSocket<Pipe>,
    pipe: Pipe,
    /// When bytes came last.
    heard: Instant,
}

/// Open a WebSocket at `target` of `server`.
pub(crate) async fn connect<S: Shell>(
    shell: &S,
    server: usize,
    target: &str,
    timeout: Duration,
) -> Result<(S::Stream, Session), Box<Outcome>> {
    let until = Instant::now() + timeout;
    let base = shell.servers().base(server);
    let never = |error: Error| Box::new(Outcome::NeverSent(error.to_string()));
    let lost = |why: String| Box::new(Outcome::Lost(why));
    let Address { tls, authority, path } = &base.address;
    let uri = format!("{}://{authority}{path}{target}", if *tls { "wss" } else { "ws" });
    let mut request = uri.into_client_request().map_err(never)?;
    request.headers_mut().extend(base.headers(&HeaderMap::new()));
    let mut stream = shell.dial(server, timeout).await.map_err(|why| Box::new(Outcome::NeverSent(why)))?;
    let pipe = Pipe::default();
    let config = WebSocketConfig::default().max_message_size(Some(LARGEST)).max_frame_size(Some(LARGEST));
    let mut state = ClientHandshake::start(pipe.clone(), request, Some(config)).map_err(never)?.handshake();
    loop {
        send_output(shell, &pipe, &mut stream).await.map_err(lost)?;
        let waiting = match state {
            Ok((socket, _)) => return Ok((stream, Session { socket, pipe, heard: Instant::now() })),
            Err(HandshakeError::Interrupted(waiting)) => waiting,
            Err(HandshakeError::Failure(Error::Http(response))) => {
                return Err(Box::new(Outcome::Answer(answer_of(*response))))
            }
            Err(HandshakeError::Failure(error)) => return Err(lost(error.to_string())),
        };
        match shell.read(&mut stream, until.saturating_duration_since(Instant::now())).await {
            Chunk::Bytes(bytes) => pipe.with(|buffers| buffers.input.extend_from_slice(&bytes)),
            Chunk::Silence => return Err(lost(format!("no answer within {timeout:?}"))),
            Chunk::End(why) => return Err(lost(why)),
        }
        state = waiting.handshake();
    }
}

/// Return the answer to a handshake that was refused. Its body may be cut: then the status alone counts.
fn answer_of(response: http::Response<Option<Vec<u8>>>) -> Answer {
    let (parts, body) = response.into_parts();
    let (status, headers, body) = (parts.status.as_u16(), parts.headers, body.unwrap_or_default());
    let mut answer = Answer { status, headers, body };
    if Refused::from_answer(&answer).is_none() {
        answer.body.clear();
    }
    answer
}

async fn send_output<S: Shell>(shell: &S, pipe: &Pipe, stream: &mut S::Stream) -> Result<(), String> {
    let output = pipe.with(|buffers| std::mem::take(&mut buffers.output));
    if output.is_empty() {
        return Ok(());
    }
    shell.write(stream, &output).await
}

impl Session {
    /// Return the next message, waiting `wait` at most.
    pub(crate) async fn next<S: Shell>(&mut self, shell: &S, stream: &mut S::Stream, wait: Duration) -> Received {
        let until = Instant::now() + wait;
        let mut has_read = false;
        loop {
            let read = self.socket.read();
            let _ = self.socket.flush(); // a pong; into memory, where it cannot fail
            if let Err(why) = send_output(shell, &self.pipe, stream).await {
                return Received::End(why);
            }
            match read {
                Ok(Message::Text(text)) => return Received::Message(text.as_bytes().to_vec()),
                Ok(Message::Binary(bytes)) => return Received::Message(bytes.to_vec()),
                Ok(Message::Close(frame)) => return Received::End(closing(frame)),
                Ok(_) => continue,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Received::End(error.to_string()),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && has_read {
                return Received::Silence; // pings may come without end
            }
            has_read = true;
            match shell.read(stream, left).await {
                Chunk::Bytes(bytes) => {
                    self.pipe.with(|buffers| buffers.input.extend_from_slice(&bytes));
                    self.heard = Instant::now();
                }
                Chunk::Silence => return Received::Silence,
                Chunk::End(why) => return Received::End(why),
            }
        }
    }

    /// Return the next message as a line.
    pub(crate) async fn receive<S: Shell>(&mut self, shell: &S, stream: &mut S::Stream, wait: Duration) -> Chunk {
        match self.next(shell, stream, wait).await {
            Received::Message(mut text) => {
                text.push(b'\n');
                Chunk::Bytes(text)
            }
            Received::Silence => Chunk::Silence,
            Received::End(why) => Chunk::End(why),
        }
    }

    /// Return how long nothing came, pings included.
    pub(crate) fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }
}

fn closing(frame: Option<tungstenite::protocol::CloseFrame>) -> String {
    match frame {
        Some(frame) => format!("closed with {}: {}", frame.code, frame.reason),
        None => "closed".to_owned(),
    }
}

/// MemoryKV's feed as text.
pub(crate) struct Tail<S: Shell> {
    shell: Arc<S>,
    server: usize,
    stream: S::Stream,
    session: Session,
    over: bool,
}

/// The server pings every 20 s.
const SILENCE: Duration = Duration::from_secs(45);

impl<S: Shell> Tail<S> {
    pub(crate) async fn open(shell: Arc<S>, timeout: Duration) -> Result<Self, crate::Error> {
        let server = shell.servers().current();
        let outcome = match connect(&*shell, server, "/wal", timeout).await {
            Ok((stream, session)) => return Ok(Self { shell, server, stream, session, over: false }),
            Err(outcome) => *outcome,
        };
        shell.servers().note(server, &outcome);
        Err(match outcome {
            Outcome::NeverSent(why) => crate::Error::bad(codes::CANNOT_CONNECT, why),
            Outcome::Lost(why) => crate::Error::not_answered(None, why),
            Outcome::Answer(answer) => match (answer.status, Refused::from_answer(&answer)) {
                (_, Some(error)) => crate::Error::Refused(Box::new(error)),
                (401, None) => crate::Error::bad(codes::UNAUTHORIZED, "the server wants another token"),
                (403, None) => crate::Error::bad(codes::FORBIDDEN, "the token may not see the feed"),
                (status, None) => crate::Error::not_answered(Some(status), "the WebSocket was refused"),
            },
        })
    }

    /// It is over, and another server is asked the next time.
    fn lose(&mut self) {
        self.over = true;
        self.shell.servers().leave(self.server);
    }

    /// Return the next line; `None` if none comes until `deadline`, or after an error.
    pub(crate) async fn next(&mut self, deadline: Option<Instant>) -> Result<Option<String>, crate::Error> {
        while !self.over {
            let left = deadline.map_or(SILENCE, |deadline| deadline.saturating_duration_since(Instant::now()));
            match self.session.next(&*self.shell, &mut self.stream, left.min(SILENCE)).await {
                Received::Message(line) => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
                Received::Silence if self.session.silent_for() >= SILENCE => {
                    self.lose();
                    return Err(crate::Error::not_answered(None, format!("nothing came for {SILENCE:?}")));
                }
                Received::Silence if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Ok(None),
                Received::Silence => {}
                Received::End(why) => {
                    self.lose();
                    return Err(crate::Error::not_answered(None, why));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_says_when_it_is_empty() {
        let mut pipe = Pipe::default();
        let mut buffer = [0; 2];
        assert_eq!(pipe.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        pipe.with(|buffers| buffers.input.extend_from_slice(b"abc"));
        assert_eq!((pipe.read(&mut buffer).unwrap(), buffer), (2, *b"ab"));
        assert_eq!((pipe.read(&mut buffer).unwrap(), buffer[0]), (1, b'c'));
    }

    #[test]
    fn a_cut_body_leaves_the_status() {
        let mut response = http::Response::new(Some(b"{\"code\":\"inv".to_vec()));
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/problem+json"));
        let refused = Refused::from_answer(&answer_of(response)).unwrap();
        assert_eq!(refused.code(), codes::UNAUTHORIZED);
    }
}
