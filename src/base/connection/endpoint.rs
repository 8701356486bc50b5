//! Where a Redis is: the URL forms that kombu and Celery know, opened with the client library.
//!
//! | form | meaning |
//! | --- | --- |
//! | `redis://[user:password@]host[:port][/db]` | TCP |
//! | `rediss://…?ssl_cert_reqs=required&ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…` | TLS; `none` checks no certificate |
//! | `redis+socket:///path?virtual_host=db`, `unix:///path?db=…` | unix socket |
//! | `sentinel://[:password@]host:port;sentinel://host:port/db` | the master that the sentinels name, asked for at every connect |

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates,
};
use url::Url;

use crate::secret::RedisUrl;

/// How long asking the sentinels and connecting to the master may take together.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_SENTINEL_PORT: u16 = 26_379;

/// A parsed URL.
pub(super) enum Endpoint {
    /// One server.
    Direct {
        info: Box<ConnectionInfo>,
        certificates: Option<CertificateFiles>,
    },
    /// Whatever the sentinels say is the master.
    Sentinel {
        sentinels: Vec<String>,
        master: String,
        node: RedisConnectionInfo,
    },
}

/// Files of a TLS set-up. They are read at every connect, so that they can be renewed.
#[derive(Debug, Default, Clone)]
pub(super) struct CertificateFiles {
    authorities: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Endpoint {
    /// Reads a URL. `resp3` asks for the protocol that can push.
    ///
    /// The error says what is wrong without quoting the URL, which may hold a password.
    pub(super) fn parse(url: &RedisUrl, resp3: bool) -> Result<Self, String> {
        let text = url.expose();
        let protocol = if resp3 {
            ProtocolVersion::RESP3
        } else {
            ProtocolVersion::RESP2
        };
        match text.split("://").next().unwrap_or_default() {
            "sentinel" => Self::sentinel(text, url.master_name(), protocol),
            _ if text.contains(';') => Err("lists of servers are understood with `sentinel://` only".into()),
            "redis" => direct(text, None, protocol),
            "rediss" => Self::tls(text, protocol),
            "redis+socket" | "socket" => direct(&socket_url(text)?, None, protocol),
            "unix" | "redis+unix" => direct(text, None, protocol),
            _ => Err(
                "it does not begin with `redis://`, `rediss://`, `redis+socket://` or `sentinel://`".into(),
            ),
        }
    }

    /// The database number.
    pub(super) fn database(&self) -> i64 {
        self.settings().db()
    }

    fn settings(&self) -> &RedisConnectionInfo {
        match self {
            Self::Direct { info, .. } => info.redis_settings(),
            Self::Sentinel { node, .. } => node,
        }
    }

    /// Whether both lead to the same database of the same server as the same user, as far as their URLs tell. Another user
    /// may have other rights.
    pub(super) fn same_database(&self, other: &Self) -> bool {
        let place = |endpoint: &Self| match endpoint {
            Self::Direct { info, .. } => info.addr().to_string(),
            Self::Sentinel {
                sentinels, master, ..
            } => format!("{master}@{}", sentinels.join(",")),
        };
        let user = |endpoint: &Self| endpoint.settings().username().unwrap_or("default").to_owned();
        place(self) == place(other) && self.database() == other.database() && user(self) == user(other)
    }

    /// Opens a connection.
    pub(super) async fn open(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        match self {
            Self::Direct {
                info,
                certificates: None,
            } => {
                Client::open(info.as_ref().clone())?
                    .get_multiplexed_async_connection_with_config(config)
                    .await
            }
            Self::Direct {
                info,
                certificates: Some(files),
            } => {
                // Fails only if a provider is installed already, and then that one serves.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let client = Client::build_with_tls(info.as_ref().clone(), files.read()?)?;
                client.get_multiplexed_async_connection_with_config(config).await
            }
            Self::Sentinel {
                sentinels,
                master,
                node,
            } => {
                let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(node.clone());
                let addresses: Vec<&str> = sentinels.iter().map(String::as_str).collect();
                let mut client =
                    SentinelClient::build(addresses, master.clone(), Some(node), SentinelServerType::Master)?;
                let opening = client.get_async_connection_with_config(config);
                tokio::time::timeout(SENTINEL_TIMEOUT, opening)
                    .await
                    .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
            }
        }
    }

    fn sentinel(text: &str, master: Option<&str>, protocol: ProtocolVersion) -> Result<Self, String> {
        let master = master.ok_or("`sentinel://` needs the master's name in CELERY_SENTINEL_MASTER_NAME")?;
        let mut node = RedisConnectionInfo::default()
            .set_protocol(protocol)
            .set_skip_set_lib_name();
        let mut sentinels = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let url = Url::parse(part).map_err(|_| "one of its sentinels is no URL")?;
            let host = url.host_str().ok_or("one of its sentinels has no host")?;
            sentinels.push(format!(
                "redis://{host}:{}",
                url.port().unwrap_or(DEFAULT_SENTINEL_PORT)
            ));
            // As in kombu, user, password and database are the master's.
            if !url.username().is_empty() {
                node = node.set_username(decoded(url.username()));
            }
            if let Some(password) = url.password() {
                node = node.set_password(decoded(password));
            }
            let database = url.path().trim_matches('/');
            if !database.is_empty() {
                node = node.set_db(database.parse().map_err(|_| "its database is no number")?);
            }
        }
        Ok(Self::Sentinel {
            sentinels,
            master: master.to_owned(),
            node,
        })
    }

    fn tls(text: &str, protocol: ProtocolVersion) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|_| FORM.to_owned())?;
        let mut files = CertificateFiles::default();
        let mut insecure = false;
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "ssl_cert_reqs" => {
                    insecure = match value.trim_start_matches("CERT_").to_ascii_lowercase().as_str() {
                        "required" | "optional" => false,
                        "none" => true,
                        _ => return Err("ssl_cert_reqs is neither `required`, `optional` nor `none`".into()),
                    }
                }
                "ssl_ca_certs" => files.authorities = Some(value.into_owned()),
                "ssl_certfile" => files.certificate = Some(value.into_owned()),
                "ssl_keyfile" => files.key = Some(value.into_owned()),
                _ => {}
            }
        }
        if files.certificate.is_some() != files.key.is_some() {
            return Err("ssl_certfile and ssl_keyfile go together".into());
        }
        url.set_query(None);
        url.set_fragment(insecure.then_some("insecure"));
        direct(url.as_str(), Some(files), protocol)
    }
}

impl CertificateFiles {
    fn read(&self) -> Result<TlsCertificates, RedisError> {
        let read = |path: &Option<String>| path.as_ref().map(|path| read_file(Path::new(path))).transpose();
        let client_tls = match (read(&self.certificate)?, read(&self.key)?) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
                client_cert,
                client_key,
            }),
            _ => None,
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert: read(&self.authorities)?,
        })
    }
}

const FORM: &str = "it is not of the form `redis://[user:password@]host[:port][/database]`";

fn direct(
    text: &str,
    certificates: Option<CertificateFiles>,
    protocol: ProtocolVersion,
) -> Result<Endpoint, String> {
    // The library's message may quote parts of the URL, and with them the password: it is not passed on.
    let info = text.into_connection_info().map_err(|_| FORM.to_owned())?;
    // `CLIENT SETINFO` needs another right, for nothing.
    let settings = info
        .redis_settings()
        .clone()
        .set_protocol(protocol)
        .set_skip_set_lib_name();
    Ok(Endpoint::Direct {
        info: Box::new(info.set_redis_settings(settings)),
        certificates,
    })
}

/// kombu's socket URL in the library's spelling.
fn socket_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|_| "it is not of the form `redis+socket:///path?virtual_host=db`")?;
    let database = url
        .query_pairs()
        .find(|(name, _)| name == "virtual_host")
        .map_or_else(|| "0".to_owned(), |(_, value)| value.trim_matches('/').to_owned());
    let password = url
        .password()
        .map_or_else(String::new, |password| format!("&pass={password}"));
    Ok(format!("redis+unix://{}?db={database}{password}", url.path()))
}

fn decoded(text: &str) -> String {
    // Decoding through a query keeps this to what the URL crate offers; a plus sign is no space here.
    let query = format!("v={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(query.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn read_file(path: &Path) -> Result<Vec<u8>, RedisError> {
    std::fs::read(path).map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        RedisError::from((ErrorKind::InvalidClientConfig, "TLS certificate file", what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Endpoint, String> {
        Endpoint::parse(&RedisUrl::new(url).with_master_name(Some("main".into())), true)
    }

    #[test]
    fn kombus_forms_are_understood() {
        for (url, database) in [
            ("redis://h", 0),
            ("redis://user:p%40ss@h:7000/3", 3),
            ("rediss://h/2?ssl_cert_reqs=CERT_NONE", 2),
            ("rediss://:p@h:1/2?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem", 2),
            ("redis+socket:///run/redis.sock?virtual_host=5", 5),
            ("unix:///run/redis.sock?db=4", 4),
            ("sentinel://:p@a:26379;sentinel://b/6", 6),
        ] {
            assert_eq!(
                parse(url)
                    .map_err(|why| format!("{url}: {why}"))
                    .unwrap()
                    .database(),
                database
            );
        }
    }

    #[test]
    fn a_sentinel_url_keeps_the_password_for_the_master() {
        let Endpoint::Sentinel { sentinels, node, .. } =
            parse("sentinel://:p%40s+s@a;sentinel://b:5/1").unwrap()
        else {
            panic!("not a sentinel endpoint")
        };
        assert_eq!(sentinels, ["redis://a:26379", "redis://b:5"]);
        assert_eq!((node.password(), node.db()), (Some("p@s+s"), 1));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        for (url, reason) in [
            ("redis://a;redis://b", "lists of servers"),
            ("http://h", "does not begin with"),
            ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
            ("rediss://h?ssl_certfile=/c", "go together"),
            ("sentinel://a/x", "no number"),
        ] {
            let error = parse(url).err().unwrap_or_default();
            assert!(error.contains(reason), "{url}: {error}");
        }
        let nameless = Endpoint::parse(&RedisUrl::new("sentinel://a"), true)
            .err()
            .unwrap_or_default();
        assert!(nameless.contains("CELERY_SENTINEL_MASTER_NAME"), "{nameless}");
    }
}
