//! Client of kvserver, a key-value server with a live feed of every change.
//!
//! [`blocking::Client`] is the client for threads, [`asynchronous::Client`] (feature `tokio`) the one for tasks. They
//! have the same verbs.
//!
//! ```no_run
//! use kvserver_client::blocking::Client;
//!
//! let client = Client::connect("localhost:8080")?;
//! client.put("flags/beta", "on").send()?;
//! if let Some(entry) = client.get("flags/beta")? {
//!     println!("{} at revision {}", entry.text()?, entry.revision);
//! }
//! for change in client.watch("flags/").snapshot().start()? {
//!     println!("{:?}", change?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is repeated
//!
//! A call that failed is repeated for up to five seconds (`patience`) where that is safe. Each write carries an
//! `Idempotency-Key`, by which the server knows a repeat and does nothing twice. A write that failed in the end is
//! either [`Error::Refused`], and nothing was done, or [`Error::OutcomeUnknown`]. Redirects are not followed, and
//! proxies of the environment are not used: the token goes to the server alone.
//!
//! # Features
//!
//! | feature | brings |
//! | --- | --- |
//! | `blocking` (default) | [`blocking::Client`], on ureq |
//! | `tokio` | [`asynchronous::Client`], on hyper |
//! | `ws` | the feed over WebSocket, and MemoryKV's feed `/wal` as text |
//! | `rustls` | `https://` |

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(any(feature = "blocking", feature = "tokio")), allow(dead_code, unused_imports, unused_macros))]

mod core;

#[cfg(feature = "tokio")]
pub mod asynchronous;
#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(feature = "rustls")]
mod tls;

pub use crate::core::batch::{Op, OpResult};
pub use crate::core::changes::{Change, Envelope};
pub use crate::core::codes;
pub use crate::core::errors::{ConfigError, Error, Gap, NotAnswered, OutcomeUnknown, Refused};
pub use crate::core::feed::{OnGap, Transport};
pub use crate::core::lists::{DeletePrefix, List};
pub use crate::core::model::{
    Deleted, Entry, Exchanged, Grant, IfChanged, Item, Meta, Page, Patched, Revision, Status, Ticket, Written,
};
pub use crate::core::replica::{Entries, MirrorState};
pub use crate::core::requests::{Atomic, Exchange, MirrorRequest, Put, WatchRequest};
pub use crate::core::scripts::Next;
pub use crate::core::time::{BadTime, Timestamp};
pub use crate::core::value::{Expiry, Value};
pub use crate::core::watch::WatchState;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(all(doctest, feature = "blocking", feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
