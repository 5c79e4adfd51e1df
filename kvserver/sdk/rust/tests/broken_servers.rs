//! The clients against servers and networks that break, each of which is a socket of the test.

#![cfg(all(feature = "blocking", feature = "tokio", feature = "ws"))]

use kvserver_client::{asynchronous, blocking, DeletePrefix, Error};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

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
