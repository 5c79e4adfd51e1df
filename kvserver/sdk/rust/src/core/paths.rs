//! Keys as paths of URLs, and parameters as queries.

/// Bytes of a path that stay as they are, besides letters and digits.
const PATH_SAFE: &[u8] = b"-._~!$&'()*+,;=:@";

/// Return the path of `key`: `/v1/kv/…`. A slash next to an empty, `.` or `..` segment is sent as `%2F`, so that no
/// proxy takes the segment away.
pub(crate) fn key_path(key: &str) -> String {
    let dropped = |segment: &str| matches!(segment, "" | "." | "..");
    let mut path = String::with_capacity(key.len() + 8);
    path.push_str("/v1/kv/");
    if dropped(key) {
        path.push_str(&key.replace('.', "%2E"));
        return path;
    }
    let mut before: Option<&str> = None;
    for segment in key.split('/') {
        if let Some(before) = before {
            path.push_str(if dropped(before) || dropped(segment) { "%2F" } else { "/" });
        }
        encode(&mut path, segment, PATH_SAFE);
        before = Some(segment);
    }
    path
}

/// Return `path` with a query of `parameters`.
pub(crate) fn with_query(path: &str, parameters: &[(&str, String)]) -> String {
    let mut target = path.to_owned();
    for (index, (name, value)) in parameters.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(name);
        target.push('=');
        encode(&mut target, value, b"-._~");
    }
    target
}

fn encode(into: &mut String, text: &str, safe: &[u8]) {
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || safe.contains(&byte) {
            into.push(byte as char);
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_keys_stay_readable() {
        assert_eq!(key_path("flags/beta"), "/v1/kv/flags/beta");
        assert_eq!(key_path("bg:1:n"), "/v1/kv/bg:1:n");
    }

    #[test]
    fn other_bytes_are_encoded() {
        assert_eq!(key_path("a b?#%é"), "/v1/kv/a%20b%3F%23%25%C3%A9");
        assert_eq!(key_path("a\0"), "/v1/kv/a%00");
    }

    #[test]
    fn slashes_beside_segments_that_parsers_drop_are_encoded() {
        assert_eq!(key_path("a//b"), "/v1/kv/a%2F%2Fb");
        assert_eq!(key_path("/a"), "/v1/kv/%2Fa");
        assert_eq!(key_path("a/"), "/v1/kv/a%2F");
        assert_eq!(key_path("a/../b/c"), "/v1/kv/a%2F..%2Fb/c");
        assert_eq!(key_path("."), "/v1/kv/%2E");
        assert_eq!(key_path(".."), "/v1/kv/%2E%2E");
    }

    #[test]
    fn queries_encode_everything_but_the_unreserved() {
        assert_eq!(with_query("/p", &[]), "/p");
        let query = [("prefix", "a/&=".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(with_query("/p", &query), "/p?prefix=a%2F%26%3D&limit=5");
    }
}
