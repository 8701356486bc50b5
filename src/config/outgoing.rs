//! How requests to the exchange leave this machine: through which proxy, and which certificates they trust.

use std::fmt;
use std::path::Path;

use reqwest::{Certificate, ClientBuilder, NoProxy, Proxy, redirect};
use tradebot_base::config::Reader;

/// Never asked through a proxy, whatever `NO_PROXY` says: a proxy has a loopback of its own, and a user's key must not
/// leave this machine unencrypted.
const LOOPBACK: &str = "localhost,localhost.,127.0.0.0/8,::1,::ffff:127.0.0.0/104";
/// The schemes of the proxies that reqwest can use.
const PROXY_SCHEMES: &[&str] = &["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// Proxies and trusted certificates.
#[derive(Clone)]
pub struct OutgoingConfig {
    proxies: Vec<Proxy>,
    /// The only trusted ones; `None`: those of the system.
    certificates: Option<Vec<Certificate>>,
}

impl OutgoingConfig {
    /// Reads the section.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let no_proxy = reader.in_either_case("NO_PROXY").unwrap_or_default();
        let no_proxy = NoProxy::from_string(&format!("{LOOPBACK},{no_proxy}"));
        let mut proxies = Vec::new();
        type ProxyFor = fn(String) -> reqwest::Result<Proxy>;
        let kinds: [(_, ProxyFor); 3] = [
            ("HTTP_PROXY", Proxy::http),
            ("HTTPS_PROXY", Proxy::https),
            ("ALL_PROXY", Proxy::all),
        ];
        for (name, proxy_for) in kinds {
            let Some(url) = reader.in_either_case(name) else {
                continue;
            };
            let has_known_scheme = url
                .split_once("://")
                .is_none_or(|(scheme, _)| PROXY_SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()));
            match proxy_for(url) {
                Ok(proxy) if has_known_scheme => proxies.push(proxy.no_proxy(no_proxy.clone())),
                // The value may have a password.
                _ => reader.complain_of(name, "write `http://host:port`, `https://…` or `socks5://…`"),
            }
        }
        Self {
            proxies,
            certificates: certificates(reader),
        }
    }

    /// A client that obeys these settings and follows no redirects.
    pub(crate) fn client(&self) -> ClientBuilder {
        let mut client = plain_client();
        for proxy in &self.proxies {
            client = client.proxy(proxy.clone());
        }
        match &self.certificates {
            Some(certificates) => client.tls_certs_only(certificates.iter().cloned()),
            None => client,
        }
    }
}

/// A client that uses no proxy and follows no redirects.
pub(crate) fn plain_client() -> ClientBuilder {
    // Fails only if a provider is already installed; that one will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("tradebot-symbols/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
}

/// The certificates of `REQUESTS_CA_BUNDLE`, a file or a directory as in Python's requests, else of `SSL_CERT_FILE`.
fn certificates(reader: &mut Reader<'_>) -> Option<Vec<Certificate>> {
    let bundle = reader.optional("REQUESTS_CA_BUNDLE");
    let file = reader.optional("SSL_CERT_FILE");
    let (name, path) = match (bundle, file) {
        (Some(bundle), _) => ("REQUESTS_CA_BUNDLE", bundle),
        (None, Some(file)) => ("SSL_CERT_FILE", file),
        (None, None) => return None,
    };
    let path = Path::new(&path);
    let (file, directory) = if path.is_dir() {
        (None, Some(path))
    } else {
        (Some(path), None)
    };
    let loaded = rustls_native_certs::load_certs_from_paths(file, directory);
    let certificates: Vec<_> = loaded
        .certs
        .iter()
        .filter_map(|certificate| Certificate::from_der(certificate).ok())
        .collect();
    if certificates.is_empty() {
        let reason = loaded
            .errors
            .first()
            .map_or("no certificate in it".into(), ToString::to_string);
        reader.complain(
            name,
            &path.display().to_string(),
            &format!("a file or directory of certificates in PEM ({reason})"),
        );
    }
    Some(certificates)
}

impl fmt::Debug for OutgoingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Proxies may have passwords.
        f.debug_struct("OutgoingConfig")
            .field("proxies", &self.proxies.len())
            .finish_non_exhaustive()
    }
}
