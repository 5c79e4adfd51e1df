//! The options of a client: where the server is, the token, how long to wait.

use crate::core::calls::Base;
use crate::core::errors::ConfigError;
use crate::core::servers::Servers;
use std::time::Duration;

/// The options that each call reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) timeout: Duration,
    pub(crate) patience: Duration,
    pub(crate) idempotency: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), patience: Duration::from_secs(5), idempotency: true }
    }
}

const LONGEST_PATH: usize = 1_000;

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether to use TLS.
    pub(crate) tls: bool,
    /// Host, or address in brackets, with the port if it is not the scheme's.
    pub(crate) authority: String,
    /// What stands before every path of the server's, behind a proxy; without a slash at its end.
    pub(crate) path: String,
}

impl Address {
    /// Read a URL: `https://kv.example/below`, `http://[::1]:8080/`, `localhost:9120` (then `http`).
    pub(crate) fn parse(url: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| {
            Err(ConfigError(format!(
                "{why}: {:?} (a URL is http://host:port or http://host:port/path)",
                without_secret(url)
            )))
        };
        let (tls, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) => return wrong("the scheme is neither http nor https"),
            None => (false, url),
        };
        if rest.contains('@') {
            return wrong("a URL holds no user and no password; give the token apart");
        }
        if rest.contains(['?', '#']) {
            return wrong("a server's URL has no query and no fragment");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.trim_end_matches('/');
        let is_path = |path: &str| path.is_ascii() && path.parse::<http::uri::PathAndQuery>().is_ok();
        if !path.is_empty() && (path.len() > LONGEST_PATH || !is_path(path)) {
            return wrong("the path is not one of at most 1,000 bytes, with other characters as %XX");
        }
        match authority.parse::<http::uri::Authority>() {
            Ok(parsed) if !parsed.host().is_empty() && parsed.port_u16().is_some() == has_port(authority) => {
                Ok(Self { tls, authority: authority.to_owned(), path: path.to_owned() })
            }
            _ => wrong("no host and port"),
        }
    }

    /// Return the URL, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.path)
    }

    /// Return host (without brackets) and port.
    #[cfg(any(feature = "ws", feature = "tokio"))]
    pub(crate) fn host_and_port(&self) -> (String, u16) {
        let parsed: http::uri::Authority = self.authority.parse().expect("it was read before");
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        (host, parsed.port_u16().unwrap_or(if self.tls { 443 } else { 80 }))
    }
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(']').map_or(authority, |(_, rest)| rest).contains(':')
}

fn without_secret(url: &str) -> String {
    url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, rest)| format!("…@{rest}"))
}

/// Everything that `build` needs, with what the environment says where nothing was given.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) url: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) options: Options,
    pub(crate) connections: Option<usize>,
    #[cfg(feature = "rustls")]
    pub(crate) root_certificates: Vec<Vec<u8>>,
}

impl Settings {
    /// Return the addresses of the servers, and the token.
    pub(crate) fn resolve(&self) -> Result<Servers, ConfigError> {
        let authorization = self.authorization()?;
        let url = self.url.clone().or_else(|| variable("KVSERVER_URL"));
        let mut bases: Vec<Base> = Vec::new();
        for each in url.as_deref().unwrap_or("http://localhost:8080").split(',') {
            let address = Address::parse(each.trim())?;
            if address.tls && !cfg!(feature = "rustls") {
                return Err(ConfigError("https needs the feature `rustls` of kvserver-client".to_owned()));
            }
            if bases.iter().any(|base| base.address == address) {
                let url = address.url();
                return Err(ConfigError(format!(
                    "each URL names another server of the store, but {url} is there twice"
                )));
            }
            bases.push(Base { address, authorization: authorization.clone() });
        }
        Ok(Servers::new(bases))
    }

    /// Return the header that carries the token.
    fn authorization(&self) -> Result<Option<http::HeaderValue>, ConfigError> {
        let Some(token) = self.token.clone().or_else(|| variable("KVSERVER_TOKEN")) else {
            return Ok(None);
        };
        let Ok(mut header) = http::HeaderValue::from_str(&format!("Bearer {token}")) else {
            return Err(ConfigError("a token is printable ASCII".to_owned()));
        };
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Defines the setters that the builders of both clients have.
macro_rules! client_setters {
    () => {
        /// Set the server's URL, with the path below which a proxy shows the server, if there is one. Default: the
        /// variable `KVSERVER_URL`, else `http://localhost:8080`. Several URLs with commas between them are the servers of
        /// one cluster: the client uses the first until it fails, then the next.
        #[must_use]
        pub fn url(mut self, url: impl Into<String>) -> Self {
            self.settings.url = Some(url.into());
            self
        }

        /// Set the token. Default: the variable `KVSERVER_TOKEN`, else none.
        #[must_use]
        pub fn token(mut self, token: impl Into<String>) -> Self {
            self.settings.token = Some(token.into());
            self
        }

        /// Set how long one answer may take in all. Default: 10 s.
        #[must_use]
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.options.timeout = timeout;
            self
        }

        /// Set how long a call that failed is repeated; zero: never. Default: 5 s. Keep it below the ten minutes for
        /// which the server remembers a write's `Idempotency-Key`.
        #[must_use]
        pub fn patience(mut self, patience: std::time::Duration) -> Self {
            self.settings.options.patience = patience;
            self
        }

        /// Set whether each write carries an `Idempotency-Key`, by which it may be repeated after its outcome was
        /// lost. Default: true. Without it such a write fails with [`Error::OutcomeUnknown`](crate::Error) at once.
        #[must_use]
        pub fn idempotency(mut self, idempotency: bool) -> Self {
            self.settings.options.idempotency = idempotency;
            self
        }

        /// Set how many idle connections are kept. Default: 32.
        #[must_use]
        pub fn connections(mut self, connections: usize) -> Self {
            self.settings.connections = Some(connections);
            self
        }

        /// Trust this certificate authority (DER), and others so given, instead of the well-known ones.
        #[cfg(feature = "rustls")]
        #[must_use]
        pub fn root_certificate(mut self, der: impl Into<Vec<u8>>) -> Self {
            self.settings.root_certificates.push(der.into());
            self
        }
    };
}
pub(crate) use client_setters;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let read = |url: &str| Address::parse(url).map(|address| address.url()).map_err(|error| error.to_string());
        assert_eq!(read("localhost:9120").unwrap(), "http://localhost:9120");
        assert_eq!(read("http://kv.example/").unwrap(), "http://kv.example");
        assert_eq!(read("HTTPS://[::1]:8443").unwrap(), "https://[::1]:8443");
        assert_eq!(read("kv.example:80/a/b%20c/").unwrap(), "http://kv.example:80/a/b%20c");
        let longest = format!("http://x/{}", "a".repeat(LONGEST_PATH - 1));
        assert_eq!(read(&longest).unwrap(), longest);
        let too_long = format!("{longest}a");
        let wrong = ["http://x?y", "http://x/?y", "http://x/y#z", "http://x/a b", "http://x/\u{e9}", &too_long];
        let wrong = wrong.into_iter().chain(["", "ftp://x", "http://", "http:///y", "http://x:", "http://x:port"]);
        for bad in wrong.chain(["http://a b", "http://x:99999"]) {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn several_urls() {
        let resolve = |url: &str| Settings { url: Some(url.to_owned()), ..Settings::default() }.resolve();
        assert_eq!(resolve("a:1, http://b:2/x/").unwrap().urls(), "http://a:1,http://b:2/x");
        for bad in ["a:1,", ",a:1", "a:1,http://a:1/"] {
            assert!(resolve(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        let error = Address::parse("http://ann:secret@x").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(Address::parse("http://ann:12/secret@x").is_err());
    }
}
