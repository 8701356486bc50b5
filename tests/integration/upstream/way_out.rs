//! Through which proxy the exchange is asked, and which certificates are trusted.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, ScriptedExchange};

use crate::world::{PATIENCE, World, connected, good_list, path};

const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Runs a spot refresh by a worker with these variables, and returns how it ended.
async fn refresh(world: &World, variables: &[(&str, &str)]) -> String {
    let _worker = connected(world.worker(&[]).envs(variables.iter().copied()));
    let (_, result) = world.run_last_try(Market::Spot).await;
    result["status"].as_str().expect("a state").to_owned()
}

#[tokio::test]
async fn this_machine_is_never_asked_through_a_proxy() {
    let (world, proxy) = (World::new().await, ScriptedExchange::start().await);
    world.exchange_lists(Market::Spot);
    let port = world
        .exchange
        .base_url()
        .rsplit(':')
        .next()
        .expect("a port")
        .to_owned();
    for host in ["127.0.0.1", "localhost", "127.9.8.7"] {
        for no_proxy in ["", "example.com"] {
            let (url, proxy) = (format!("http://{host}:{port}"), proxy.base_url());
            let mut variables: Vec<_> = PROXIES.iter().map(|name| (*name, proxy.as_str())).collect();
            variables.extend([("NO_PROXY", no_proxy), ("BINANCE_SPOT_BASE_URL", url.as_str())]);
            if host == "127.9.8.7" {
                // Nothing listens there. The proxy must not be asked all the same.
                assert_eq!(refresh(&world, &variables).await, "FAILURE");
            } else {
                assert_eq!(refresh(&world, &variables).await, "SUCCESS", "{host}");
            }
        }
    }
    assert_eq!(proxy.requests(), []);
}

#[tokio::test]
async fn other_hosts_are_asked_through_the_proxy_unless_no_proxy_names_them() {
    let (world, proxy) = (World::new().await, ScriptedExchange::start().await);
    let spot = path(Market::Spot);
    proxy.always(spot, Reply::json(good_list()));
    let (url, host) = (
        proxy.base_url(),
        ("BINANCE_SPOT_BASE_URL", "http://exchange.invalid"),
    );
    let without_scheme = url.trim_start_matches("http://");
    for (number, proxied) in [
        ("HTTP_PROXY", url.as_str()),
        ("http_proxy", &url),
        ("ALL_PROXY", &url),
        ("all_proxy", without_scheme),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(refresh(&world, &[host, proxied]).await, "SUCCESS", "{proxied:?}");
        assert_eq!(proxy.count(spot), number + 1);
    }
    for exception in ["exchange.invalid", "a.example, .invalid", "*"] {
        for name in ["NO_PROXY", "no_proxy"] {
            let variables = [host, ("HTTP_PROXY", &url), (name, exception)];
            assert_eq!(refresh(&world, &variables).await, "FAILURE", "{name}={exception}");
        }
    }
    assert_eq!(refresh(&world, &[host, ("HTTPS_PROXY", &url)]).await, "FAILURE");
    assert_eq!(proxy.count(spot), 4);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_at_the_start_without_its_password() {
    let world = World::new().await;
    for (name, value) in [
        ("HTTPS_PROXY", "ftp://user:canary@proxy.example"),
        ("ALL_PROXY", "http://user:canary@"),
        ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem"),
        ("SSL_CERT_FILE", "/dev/null"),
    ] {
        let worker = world.worker(&[]).env(name, value).spawn();
        assert_eq!(
            worker.wait_exit(PATIENCE).code(),
            Some(64),
            "{name}: {}",
            worker.output()
        );
        let said = worker.output();
        assert!(said.contains(name) && !said.contains("canary"), "{said}");
    }
}

/// An exchange behind TLS, with a certificate of a private authority, which is written to the directory.
fn tls_exchange(directory: &TempDir) -> String {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    fs::write(directory.path().join("ca.pem"), authority.pem()).expect("a file");
    // OpenSSL finds files in a directory by the hash of their subject; here any will do.
    fs::write(directory.path().join("01234567.0"), authority.pem()).expect("a file");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let server = server.signed_by(&key, &authority).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key.into())
        .expect("a server");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    // Ends with the process: it waits for connections and holds nothing.
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut stream = StreamOwned::new(session, socket);
            // Fails when the client does not trust the certificate.
            if stream.read(&mut [0; 4096]).is_ok() {
                let list = good_list();
                let length = list.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{list}");
                let _ = stream.write_all(answer.as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn certificates_are_trusted_as_the_python_services_trust_them() {
    let (world, directory) = (World::new().await, TempDir::new().expect("a directory"));
    let url = tls_exchange(&directory);
    let host = ("BINANCE_SPOT_BASE_URL", url.as_str());
    let file = directory.path().join("ca.pem").display().to_string();
    let directory = directory.path().display().to_string();
    let system = "/etc/ssl/certs/ca-certificates.crt";
    assert_eq!(
        refresh(&world, &[host]).await,
        "FAILURE",
        "a stranger's certificate"
    );
    for trusted in [&file, &directory] {
        let variables = [host, ("REQUESTS_CA_BUNDLE", trusted.as_str())];
        assert_eq!(refresh(&world, &variables).await, "SUCCESS", "{trusted}");
    }
    let named = ("SSL_CERT_FILE", file.as_str());
    assert_eq!(refresh(&world, &[host, named]).await, "SUCCESS");
    let both = [host, named, ("REQUESTS_CA_BUNDLE", system)];
    assert_eq!(refresh(&world, &both).await, "FAILURE", "requests' variable wins");
}
