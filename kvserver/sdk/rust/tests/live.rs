//! Mirrors, locks and watches against a running server, which `KVSERVER_URL` names:
//! `KVSERVER_URL=… cargo test --all-features --test live -- --ignored`.

#![cfg(all(feature = "blocking", feature = "tokio"))]

use kvserver_client::{asynchronous, blocking, Change, MirrorState, OnGap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

fn blocking_client() -> blocking::Client {
    blocking::Client::builder().url(url()).build().unwrap()
}

fn async_client() -> asynchronous::Client {
    asynchronous::Client::builder().url(url()).build().unwrap()
}

fn url() -> String {
    std::env::var("KVSERVER_URL").expect("KVSERVER_URL names a running server")
}

fn run<F: std::future::Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn clients_may_be_shared_and_sent() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>(_: T) {}
    shared::<blocking::Client>();
    shared::<asynchronous::Client>();
    shared::<kvserver_client::Error>();
    shared::<blocking::Mirror>();
    shared::<asynchronous::Mirror>();
    sent(async {
        let client = asynchronous::Client::connect("localhost:1").unwrap();
        let _ = client.put("a", "b").await;
        let _ = client.update("a", |_| kvserver_client::Next::Keep).await;
        let mut watch = client.watch("").start().await.unwrap();
        let _ = watch.next().await;
        let _ = client.lock("a", LONG).await;
    });
}

#[test]
#[ignore = "needs a server"]
fn a_mirror_shows_what_was_written() {
    let client = blocking_client();
    client.put("live/mirror/a", "1").send().unwrap();
    let changes = Arc::new(AtomicUsize::new(0));
    let counter = changes.clone();
    let mirror = client
        .mirror("live/mirror/")
        .on_change(move |_, _, _| {
            counter.fetch_add(1, Ordering::SeqCst);
        })
        .start();
    mirror.wait_synced(LONG).unwrap();
    assert_eq!(mirror.state(), MirrorState::Live);
    assert_eq!(mirror.get("live/mirror/a").unwrap().unwrap().text().unwrap(), "1");
    let written = client.put("live/mirror/b", "2").send().unwrap();
    mirror.wait_revision(written.revision, LONG).unwrap();
    assert_eq!(mirror.entries().unwrap().len(), 2);
    assert!(client.delete("live/mirror/a").unwrap());
    let last = client.put("live/mirror/b", "3").send().unwrap();
    mirror.wait_revision(last.revision, LONG).unwrap();
    assert_eq!(mirror.get("live/mirror/a").unwrap(), None);
    assert_eq!(mirror.get("live/mirror/b").unwrap().unwrap().revision, last.revision);
    assert!(changes.load(Ordering::SeqCst) >= 3);
}

#[test]
#[ignore = "needs a server"]
fn an_asynchronous_mirror_shows_what_was_written() {
    run(async {
        let client = async_client();
        client.put("live/async-mirror/a", "1").await.unwrap();
        let mirror = client.mirror("live/async-mirror/").start();
        mirror.wait_synced(LONG).await.unwrap();
        let written = client.put("live/async-mirror/a", "2").await.unwrap();
        mirror.wait_revision(written.revision, LONG).await.unwrap();
        assert_eq!(mirror.get("live/async-mirror/a").unwrap().unwrap().text().unwrap(), "2");
        assert_eq!(mirror.state(), MirrorState::Live);
    });
}

#[test]
#[ignore = "needs a server"]
fn a_lock_has_one_holder_and_growing_fences() {
    let client = blocking_client();
    let ttl = Duration::from_secs(5);
    let first = client.lock("live/lock", ttl).unwrap();
    assert!(first.is_held());
    assert!(client.try_lock("live/lock", ttl).unwrap().is_none());
    let waiting = client.clone();
    let (told, tell) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let second = waiting.lock("live/lock", ttl).unwrap();
        told.send(second.fence()).unwrap();
        second.release().unwrap();
    });
    let fence = first.fence();
    assert!(tell.try_recv().is_err());
    first.release().unwrap();
    assert!(tell.recv_timeout(LONG).unwrap() > fence);
    thread.join().unwrap();
    assert_eq!(client.get("live/lock").unwrap(), None);
}

#[test]
#[ignore = "needs a server"]
fn a_lock_is_renewed_and_its_loss_is_noticed() {
    let client = blocking_client();
    let lock = client.lock("live/lost", Duration::from_secs(3)).unwrap();
    let first = client.head("live/lost").unwrap().unwrap().revision;
    until(|| client.head("live/lost").unwrap().unwrap().revision > first);
    until(|| lock.is_held());
    client.delete("live/lost").unwrap();
    until(|| !lock.is_held());
    assert_eq!(lock.release().unwrap_err().code(), "lock_lost");
}

#[test]
#[ignore = "needs a server"]
fn an_asynchronous_lock_has_one_holder_and_is_given_back_when_dropped() {
    run(async {
        let client = async_client();
        let ttl = Duration::from_secs(5);
        let first = client.lock("live/async-lock", ttl).await.unwrap();
        assert!(client.try_lock("live/async-lock", ttl).await.unwrap().is_none());
        let fence = first.fence();
        drop(first);
        let second = client.lock("live/async-lock", ttl).await.unwrap();
        assert!(second.fence() > fence && second.is_held());
        second.release().await.unwrap();
        assert_eq!(client.get("live/async-lock").await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs a server"]
fn a_watch_is_stopped_from_another_thread() {
    let client = blocking_client();
    let watch = client.watch("live/stop/").start().unwrap();
    let stopper = watch.stopper();
    let thread = std::thread::spawn(move || watch.count());
    stopper.stop();
    assert_eq!(thread.join().unwrap(), 0);
}

#[test]
#[ignore = "needs a server"]
fn envelopes_hold_whole_batches_and_resume() {
    let client = blocking_client();
    let mut watch = client.watch("live/{e}/").on_gap(OnGap::Continue).start().unwrap();
    client.atomic().put("live/{e}/a", "1").put("live/{e}/b", "2").incr("live/{e}/n", 1).commit().unwrap();
    let envelope = loop {
        let envelope = watch.next_envelope().unwrap().unwrap();
        if !envelope.changes.is_empty() {
            break envelope;
        }
    };
    assert_eq!(envelope.changes.len(), 3);
    client.put("live/{e}/c", "3").send().unwrap();
    let mut resumed = client.watch("live/{e}/").since(envelope.cursor).start().unwrap();
    assert_eq!(resumed.next().unwrap().unwrap().key(), Some("live/{e}/c"));
}

#[test]
#[ignore = "needs a server"]
fn a_dropped_future_of_a_watch_loses_nothing() {
    run(async {
        let client = async_client();
        let mut watch = client.watch("live/drop/").start().await.unwrap();
        let mut keys = Vec::new();
        for number in 0..50 {
            let poll_once = std::future::poll_fn(|cx| {
                let mut next = std::pin::pin!(watch.next());
                std::task::Poll::Ready(next.as_mut().poll(cx))
            });
            if let std::task::Poll::Ready(change) = poll_once.await {
                keys.push(change.unwrap().unwrap().key().unwrap().to_owned());
            }
            client.put(&format!("live/drop/{number}"), "x").await.unwrap();
        }
        while keys.len() < 50 {
            if let Change::Put { key, .. } = watch.next().await.unwrap().unwrap() {
                keys.push(key);
            }
        }
        let wanted: Vec<String> = (0..50).map(|number| format!("live/drop/{number}")).collect();
        assert_eq!(keys, wanted);
    });
}

/// Wait until `what` holds.
fn until(what: impl Fn() -> bool) {
    let give_up_at = std::time::Instant::now() + LONG;
    while !what() {
        assert!(std::time::Instant::now() < give_up_at, "it never came to hold");
        std::thread::sleep(Duration::from_millis(10));
    }
}

use std::future::Future as _;
