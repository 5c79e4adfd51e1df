//! The clients against servers and networks that break, each of which is a socket of the test.

#![cfg(all(feature = "blocking", feature = "tokio", feature = "ws"))]

use kvserver_client::{asynchronous, blocking, DeletePrefix, Error, Transport};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server on a port of its own. It notes the head of each request.
struct Server {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Start a server that hands each connection, once the head of a request has come, to `answer`.
    fn start(answer: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, answer) = (heads.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (noted, answer, mut stream) = (noted.clone(), answer.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    let head = read_head(&mut stream);
                    noted.lock().unwrap().push(head.clone());
                    answer(&mut stream, &head);
                });
            }
        });
        Self { url, heads }
    }

    fn requests(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
    }

    fn client(&self) -> blocking::Client {
        blocking::Client::builder().url(&self.url).build().unwrap()
    }

    fn async_client(&self) -> asynchronous::Client {
        asynchronous::Client::builder().url(&self.url).build().unwrap()
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn run<F: std::future::Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn a_delete_by_prefix_whose_answer_was_lost_is_not_repeated() {
    let server = Server::start(|_, _| {});
    let error = server.client().delete_prefix(&DeletePrefix::of("a/")).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
    assert_eq!(server.requests(), ["DELETE /v1/kv?prefix=a%2F HTTP/1.1"]);
    let error = run(server.async_client().delete_prefix(&DeletePrefix::of("a/"))).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_url_that_no_server_takes_is_refused_unsent() {
    let server = Server::start(|_, _| {});
    let key = "k".repeat(200_000);
    let error = server.client().put(&key, "v").send().unwrap_err();
    assert_eq!((error.is_refused(), error.code()), (true, "uri_too_long"));
    let error = run(async { server.async_client().get(&key).await }).unwrap_err();
    assert_eq!((error.is_refused(), error.code()), (true, "uri_too_long"));
    for transport in [Transport::Lines, Transport::WebSocket] {
        let error = server.client().watch(&key).transport(transport).start().err().unwrap();
        assert_eq!((error.is_refused(), error.code()), (true, "uri_too_long"));
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_server_may_be_below_a_path() {
    let server = Server::start(|stream, head| {
        if head.to_lowercase().contains("sec-websocket-key") {
            upgrade(stream, head);
            let _ = stream.write_all(&[&[0x81, BOOKMARK.len() as u8], BOOKMARK.as_bytes()].concat());
            drain(stream);
        } else if head.contains("/v1/feed") {
            let _ = stream.write_all(format!("{HEAD}{BOOKMARK}").as_bytes());
            drain(stream);
        } else {
            answer(stream, "KV-Revision: 7\r\nConnection: close\r\n", "v");
        }
    });
    let url = format!("{}/below/it/", server.url);
    let client = blocking::Client::builder().url(&url).build().unwrap();
    assert_eq!(client.get("k").unwrap().unwrap().revision, 7);
    client.watch("").start().unwrap();
    client.watch("").transport(Transport::WebSocket).start().unwrap();
    run(async {
        let client = asynchronous::Client::builder().url(&url).build().unwrap();
        assert_eq!(client.get("k").await.unwrap().unwrap().revision, 7);
        client.watch("").start().await.unwrap();
        client.watch("").transport(Transport::WebSocket).start().await.unwrap();
    });
    let feed = "GET /below/it/v1/feed HTTP/1.1";
    let each = ["GET /below/it/v1/kv/k HTTP/1.1", feed, feed];
    assert_eq!(server.requests(), [each, each].concat());
}

#[test]
fn a_delete_by_prefix_goes_on_with_the_cut_after_a_lost_answer() {
    let lost = Mutex::new(false);
    let server = Server::start(move |stream, head| {
        let is_begun = head.contains("cut=7");
        if is_begun && !std::mem::replace(&mut *lost.lock().unwrap(), true) {
            return;
        }
        let body = format!(r#"{{"deleted":2,"complete":{is_begun},"cut":7}}"#);
        answer(stream, "Content-Type: application/json\r\nConnection: close\r\n", &body);
    });
    let deleted = server.client().delete_prefix(&DeletePrefix::of("a/")).unwrap();
    assert_eq!((deleted.count, deleted.complete), (4, true));
    assert_eq!(server.requests().len(), 3);
}

fn answer(stream: &mut TcpStream, headers: &str, body: &str) {
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
}

/// Accept the WebSocket that `head` asks for.
fn upgrade(stream: &mut TcpStream, head: &str) {
    let key = head.lines().find_map(|line| line.to_lowercase().starts_with("sec-websocket-key:").then(|| &line[18..]));
    let accept = tungstenite::handshake::derive_accept_key(key.unwrap().trim().as_bytes());
    let headers = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let _ = write!(stream, "HTTP/1.1 101 Switching Protocols\r\n{headers}Sec-WebSocket-Accept: {accept}\r\n\r\n");
}

#[test]
fn a_frame_of_an_absurd_length_breaks_the_connection_alone() {
    for length in [(1_u64 << 28) + 1, 1 << 40, (1 << 63) - 1, u64::MAX] {
        let first = Mutex::new(true);
        let server = Server::start(move |stream, head| {
            upgrade(stream, head);
            let is_absurd = head.contains("/wal") || std::mem::replace(&mut *first.lock().unwrap(), false);
            let _ = match is_absurd {
                true => stream.write_all(&[&[0x81, 127][..], &length.to_be_bytes(), b"{"].concat()),
                false => stream.write_all(&[&[0x81, BOOKMARK.len() as u8], BOOKMARK.as_bytes()].concat()),
            };
            drain(stream);
        });
        let watch = server.client().watch("").transport(Transport::WebSocket).start().unwrap();
        assert_eq!((watch.cursor(), server.requests().len()), (Some("e.1"), 2));
        let error = server.client().wal().unwrap().next().unwrap().unwrap_err();
        assert!(matches!(error, Error::NotAnswered(_)), "{error:?}");
    }
}

/// Wait until the client is gone.
fn drain(stream: &mut TcpStream) {
    while stream.read(&mut [0; 1_024]).unwrap_or(0) > 0 {}
}

const BOOKMARK: &str = "{\"type\":\"bookmark\",\"cursor\":\"e.1\",\"time\":\"2026-11-22T11:40:00.123Z\"}\n";
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n";

/// Return a server of the feed that sends `first` and then, for ever, `noise` every 5 ms; nothing if that is empty.
fn noisy(first: &'static [u8], noise: &'static [u8]) -> Server {
    Server::start(move |stream, head| {
        if head.to_lowercase().contains("sec-websocket-key") {
            upgrade(stream, head);
        } else {
            let _ = stream.write_all(HEAD.as_bytes());
        }
        let _ = stream.write_all(first);
        if noise.is_empty() {
            return drain(stream);
        }
        while stream.write_all(noise).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

const NOISES: [(Transport, &[u8]); 6] = [
    (Transport::Lines, b""),
    (Transport::Lines, b"garbage"),
    (Transport::Lines, b"garbage\ngarbage\n"),
    (Transport::WebSocket, b""),
    (Transport::WebSocket, b"\x89\x01p"),
    (Transport::WebSocket, b"\x82\x02\x00\xff\x82\x02\x00\xff"),
];

/// The server's own silence is 25 s: what fails before that failed by patience.
const PATIENCE: Duration = Duration::from_millis(400);
const SILENCE: Duration = Duration::from_secs(20);

/// Assert that `error` is that of patience which is used up. On a busy machine it may be before there is a connection.
fn assert_patience_is_over(error: &Error, context: &str) {
    let is_over = matches!(error, Error::NotAnswered(_)) || (error.is_refused() && error.code() == "cannot_connect");
    assert!(is_over, "{context} {error:?}");
}

#[test]
fn patience_ends_a_watch_to_which_no_message_comes() {
    for (transport, noise) in NOISES {
        let server = noisy(b"", noise);
        let started = Instant::now();
        let error = server.client().watch("").transport(transport).patience(PATIENCE).start().err().unwrap();
        assert_patience_is_over(&error, &format!("{transport:?} {noise:?}"));
        let starting = async { server.async_client().watch("").transport(transport).patience(PATIENCE).start().await };
        let error = run(starting).err().unwrap();
        assert_patience_is_over(&error, &format!("{transport:?} {noise:?}"));
        assert!(started.elapsed() < SILENCE, "{transport:?} {noise:?}");
    }
}

#[test]
fn patience_ends_a_watch_that_falls_silent() {
    for noise in [&b""[..], b"garbage"] {
        let server = noisy(BOOKMARK.as_bytes(), noise);
        let started = Instant::now();
        let mut watch = server.client().watch("").patience(PATIENCE).start().unwrap();
        let error = watch.next().unwrap().unwrap_err();
        assert!(matches!(error, Error::NotAnswered(_)), "{error:?}");
        assert!(watch.next().is_none() && started.elapsed() < SILENCE);
    }
}

#[test]
fn patience_ends_a_watch_that_is_not_answered_at_all() {
    let server = Server::start(|stream, _| drain(stream));
    let started = Instant::now();
    for transport in [Transport::Lines, Transport::WebSocket] {
        let client = blocking::Client::builder().url(&server.url).timeout(SILENCE).build().unwrap();
        let error = client.watch("").transport(transport).patience(PATIENCE).start().err().unwrap();
        assert_patience_is_over(&error, &format!("{transport:?}"));
    }
    assert!(started.elapsed() < SILENCE);
}

#[test]
fn who_reads_slowly_is_not_impatient() {
    let server = noisy(BOOKMARK.as_bytes(), BOOKMARK.as_bytes());
    let mut watch = server.client().watch("").patience(PATIENCE).start().unwrap();
    std::thread::sleep(2 * PATIENCE);
    assert!(watch.next_timeout(2 * PATIENCE).unwrap().is_none());
}
