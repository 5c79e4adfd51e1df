//! The authorities that `https://` trusts.

use crate::core::errors::ConfigError;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// Return the configuration that trusts `roots` (DER), or Mozilla's authorities if it is empty.
pub(crate) fn config(roots: &[Vec<u8>]) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut store = RootCertStore::empty();
    if roots.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for root in roots {
        let added = store.add(CertificateDer::from(root.clone()));
        added.map_err(|error| ConfigError(format!("a root certificate is malformed: {error}")))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| ConfigError(error.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(store).with_no_client_auth()))
}

/// Return the same for ureq.
#[cfg(feature = "blocking")]
pub(crate) fn for_ureq(roots: &[Vec<u8>]) -> ureq::tls::TlsConfig {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};
    let roots = if roots.is_empty() {
        RootCerts::WebPki
    } else {
        roots.iter().map(|der| Certificate::from_der(der).to_owned()).into()
    };
    TlsConfig::builder().root_certs(roots).build()
}
