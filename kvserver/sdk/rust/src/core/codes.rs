//! The codes of errors, as the server names them. A server may know more: match on those that matter.

macro_rules! codes {
    ($($name:ident = $text:literal, $status:literal, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $name: &str = $text;)*
        /// Every code that comes from a server, with its HTTP status.
        pub const ALL: &[(&str, u16)] = &[$(($text, $status),)*];
    };
}
codes! {
    BAD_REQUEST = "bad_request", 400, "The request is malformed.";
    BAD_KEY = "bad_key", 400, "The key is empty or not UTF-8.";
    BAD_CURSOR = "bad_cursor", 400, "That is no cursor of a feed.";
    CROSS_SLOT = "cross_slot", 400, "The keys of an atomic batch belong to several slots.";
    UNAUTHORIZED = "unauthorized", 401, "A token is needed.";
    INVALID_TOKEN = "invalid_token", 401, "The token is not known.";
    BAD_TICKET = "bad_ticket", 401, "The ticket is not known, used or too old.";
    FORBIDDEN = "forbidden", 403, "The token does not allow it.";
    FORBIDDEN_ORIGIN = "forbidden_origin", 403, "The page's origin is not allowed.";
    NOT_FOUND = "not_found", 404, "There is no such key.";
    NO_SUCH_RESOURCE = "no_such_resource", 404, "The server has no such path.";
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "The path has no such method.";
    REQUEST_TIMEOUT = "request_timeout", 408, "The request came too slowly.";
    CONFLICT = "conflict", 409, "The value does not allow it.";
    NOT_AN_INTEGER = "not_an_integer", 409, "The value to increment is no integer.";
    OVERFLOW = "overflow", 409, "The sum does not fit into 64 bits.";
    NOT_JSON = "not_json", 409, "The value to patch is not JSON.";
    BATCH_FAILED = "batch_failed", 409, "An operation of an atomic batch failed: nothing was done.";
    PRECONDITION_FAILED = "precondition_failed", 412, "The key has another revision.";
    VALUE_TOO_LARGE = "value_too_large", 413, "The value is over the limit.";
    ANSWER_TOO_LARGE = "answer_too_large", 413, "The answer of a batch is full.";
    BATCH_TOO_LARGE = "batch_too_large", 413, "The batch is over the limit.";
    PATCHES_TOO_LARGE = "patches_too_large", 413, "The patches of a batch are over the limit.";
    KEY_TOO_LONG = "key_too_long", 414, "The key has more than 511 bytes.";
    URI_TOO_LONG = "uri_too_long", 414, "The request line is over 8 KiB.";
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type", 415, "The body's type is not one that the path takes.";
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable", 416, "The range starts after the end of the value.";
    MISDIRECTED = "misdirected", 421, "The server does not answer under this host name.";
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch", 422, "The Idempotency-Key was sent before, with another request.";
    FAILED_DEPENDENCY = "failed_dependency", 424, "Another operation of the atomic batch failed.";
    HEADERS_TOO_LARGE = "headers_too_large", 431, "The request's headers are over 64 KiB.";
    OVERLOADED = "overloaded", 503, "Too many requests at once.";
    UNAVAILABLE = "unavailable", 503, "The key's shard is not up.";
    FEED_UNAVAILABLE = "feed_unavailable", 503, "No gateway is up.";
    NOT_CURRENT = "not_current", 503, "This machine cannot show that its data are current.";
    STALE_INCARNATION = "stale_incarnation", 503, "The shard was restarted in the meantime.";
    DEADLINE_PASSED = "deadline_passed", 503, "The shard got to it too late, and left it.";
    OUTCOME_UNKNOWN = "outcome_unknown", 504, "The write was or was not done.";
    INSUFFICIENT_STORAGE = "insufficient_storage", 507, "There is no room.";
    MEMORY_LIMIT = "memory_limit", 507, "The store's memory limit is reached.";
}
/// The client's own: no connection could be made.
pub const CANNOT_CONNECT: &str = "cannot_connect";
/// The client's own: a read was not answered.
pub const NOT_ANSWERED: &str = "not_answered";
/// The client's own: a write was done, its result is withheld.
pub const ANSWER_WITHHELD: &str = "answer_withheld";
/// The client's own: a feed cannot be continued without a gap.
pub const GAP: &str = "gap";
/// The client's own: a lock was lost.
pub const LOCK_LOST: &str = "lock_lost";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|(code, _)| code).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
