//! What needs no network: requests, answers, the policy of repeats, the feed. No module here does I/O; `scripts` and
//! `watch` say what is done in which order, and a [`shell::Shell`] does it.

pub(crate) mod answers;
pub(crate) mod batch;
pub(crate) mod calls;
pub(crate) mod changes;
pub mod codes;
pub(crate) mod errors;
pub(crate) mod feed;
pub(crate) mod lists;
pub(crate) mod messages;
pub(crate) mod model;
pub(crate) mod options;
pub(crate) mod paths;
pub(crate) mod policy;
pub(crate) mod replica;
pub(crate) mod requests;
pub(crate) mod scan;
pub(crate) mod scripts;
pub(crate) mod servers;
pub(crate) mod shell;
pub(crate) mod tenure;
pub(crate) mod time;
pub(crate) mod value;
pub(crate) mod watch;
#[cfg(feature = "ws")]
pub(crate) mod websocket;
