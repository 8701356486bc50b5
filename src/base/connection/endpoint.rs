//! Where a Redis is: the URL forms that kombu and Celery know, opened with the client library.
//!
//! | form | meaning |
//! | --- | --- |
//! | `redis://[user:password@]host[:port][/db]` | TCP |
//! | `rediss://…?ssl_cert_reqs=required&ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…` | TLS; `none` checks no certificate, `ssl_check_hostname=false` no host name |
//! | `redis+socket://[user:password@]/path?virtual_host=db`, `unix:///path?db=…` | unix socket |
//! | `sentinel://[:password@]host:port;sentinel://host:port/db` | the master that the sentinels name, asked for at every connect |

use std::path::Path;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates,
};
use url::Url;

use crate::secret::RedisUrl;

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
        sentinels: Vec<ConnectionInfo>,
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
    any_hostname: bool,
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
            "sentinel" => Self::sentinel(url, protocol),
            _ if text.contains(';') => Err("lists of servers are understood with `sentinel://` only".into()),
            "redis" => direct(text, protocol),
            "rediss" => Self::tls(text, protocol),
            "redis+socket" | "socket" => socket(text, protocol),
            "unix" | "redis+unix" => direct(text, protocol),
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
            } => {
                let addresses = sentinels.iter().map(|sentinel| sentinel.addr().to_string());
                format!("{master}@{}", addresses.collect::<Vec<_>>().join(","))
            }
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
                let info = client.get_connection_info().clone();
                let mut address = info.addr().clone();
                address.set_danger_accept_invalid_hostnames(files.any_hostname);
                let client = Client::open(info.set_addr(address))?;
                client.get_multiplexed_async_connection_with_config(config).await
            }
            Self::Sentinel {
                sentinels,
                master,
                node,
            } => {
                let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(node.clone());
                let mut client = SentinelClient::build(
                    sentinels.clone(),
                    master.clone(),
                    Some(node),
                    SentinelServerType::Master,
                )?;
                // The library limits each step: a second to connect, half a second to a reply, and what `config` says.
                client.get_async_connection_with_config(config).await
            }
        }
    }

    fn sentinel(url: &RedisUrl, protocol: ProtocolVersion) -> Result<Self, String> {
        let text = url.expose();
        let master = url
            .master_name()
            .ok_or("`sentinel://` needs the master's name in CELERY_SENTINEL_MASTER_NAME")?;
        let login = login(speaking(ProtocolVersion::RESP2), url.sentinel_login());
        let mut node = speaking(protocol);
        let mut sentinels = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let url = Url::parse(part).map_err(|_| "one of its sentinels is no URL")?;
            let host = url.host_str().ok_or("one of its sentinels has no host")?;
            let address = ConnectionAddr::Tcp(host.to_owned(), url.port().unwrap_or(DEFAULT_SENTINEL_PORT));
            sentinels.push(info(address, login.clone())?);
            // As in kombu, user, password and database are the master's.
            let user = Some(decoded(url.username())).filter(|user| !user.is_empty());
            let password = url.password().map(decoded);
            node = self::login(node, (user.as_deref(), password.as_deref()));
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
                // As in kombu, anything but `false` is true.
                "ssl_check_hostname" => files.any_hostname = value.eq_ignore_ascii_case("false"),
                _ => {}
            }
        }
        if files.certificate.is_some() != files.key.is_some() {
            return Err("ssl_certfile and ssl_keyfile go together".into());
        }
        url.set_query(None);
        url.set_fragment(insecure.then_some("insecure"));
        Ok(match direct(url.as_str(), protocol)? {
            Self::Direct { info, .. } => Self::Direct {
                info,
                certificates: Some(files),
            },
            other => other,
        })
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

/// Settings of a connection that does not send `CLIENT SETINFO`, which needs another right, for nothing.
fn speaking(protocol: ProtocolVersion) -> RedisConnectionInfo {
    RedisConnectionInfo::default()
        .set_protocol(protocol)
        .set_skip_set_lib_name()
}

fn direct(text: &str, protocol: ProtocolVersion) -> Result<Endpoint, String> {
    // The library's message may quote parts of the URL, and with them the password: it is not passed on.
    let info = text.into_connection_info().map_err(|_| FORM.to_owned())?;
    let settings = info
        .redis_settings()
        .clone()
        .set_protocol(protocol)
        .set_skip_set_lib_name();
    Ok(Endpoint::Direct {
        info: Box::new(info.set_redis_settings(settings)),
        certificates: None,
    })
}

/// kombu's socket URL. It reads what follows the scheme as that of a `http://` URL.
fn socket(text: &str, protocol: ProtocolVersion) -> Result<Endpoint, String> {
    const FORM: &str = "it is not of the form `redis+socket://[user:password@]/path?virtual_host=db`";
    let (_, rest) = text.split_once("://").ok_or(FORM)?;
    let (authority, path) = rest.split_once('/').ok_or(FORM)?;
    let (user, password) = authority
        .rsplit_once('@')
        .map_or("", |(user, _)| user)
        .split_once(':')
        .map_or((None, None), |(user, password)| (Some(user), Some(password)));
    let given = |part: Option<&str>| part.map(decoded).filter(|part| !part.is_empty());
    let (user, password) = (given(user), given(password));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut settings = speaking(protocol);
    settings = login(settings, (user.as_deref(), password.as_deref()));
    let query = url::form_urlencoded::parse(query.as_bytes());
    if let Some((_, database)) = query.into_iter().find(|(name, _)| name == "virtual_host") {
        let database = database.trim_matches('/').parse();
        settings = settings.set_db(database.map_err(|_| "its virtual_host is no number")?);
    }
    let address = ConnectionAddr::Unix(format!("/{}", decoded(path)).into());
    Ok(Endpoint::Direct {
        info: Box::new(info(address, settings)?),
        certificates: None,
    })
}

fn info(address: ConnectionAddr, settings: RedisConnectionInfo) -> Result<ConnectionInfo, String> {
    let info = address.into_connection_info().map_err(|_| FORM.to_owned())?;
    Ok(info.set_redis_settings(settings))
}

/// The settings with those of user and password that are given.
fn login(
    mut settings: RedisConnectionInfo,
    (user, password): (Option<&str>, Option<&str>),
) -> RedisConnectionInfo {
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    settings
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
            ("redis+socket://:p@/run/redis.sock?virtual_host=/5", 5),
            ("redis+socket://:p@/run/redis.sock", 0),
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
        let url = RedisUrl::new("sentinel://:p%40s+s@a;sentinel://b:5/1")
            .with_master_name(Some("main".into()))
            .with_sentinel_login(None, Some("own".into()));
        let Endpoint::Sentinel { sentinels, node, .. } = Endpoint::parse(&url, true).unwrap() else {
            panic!("not a sentinel endpoint")
        };
        let places: Vec<_> = sentinels.iter().map(|one| one.addr().to_string()).collect();
        assert_eq!(places, ["a:26379", "b:5"]);
        assert!(
            sentinels
                .iter()
                .all(|one| one.redis_settings().password() == Some("own"))
        );
        assert_eq!((node.password(), node.db()), (Some("p@s+s"), 1));
    }

    #[test]
    fn a_socket_url_may_have_a_user_and_a_password() {
        let Endpoint::Direct { info, .. } = parse("redis+socket://u%40x:p%40s+s@/run/redis.sock").unwrap()
        else {
            panic!("not a socket")
        };
        let settings = info.redis_settings();
        assert_eq!(info.addr().to_string(), "/run/redis.sock");
        assert_eq!(
            (settings.username(), settings.password()),
            (Some("u@x"), Some("p@s+s"))
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        for (url, reason) in [
            ("redis://a;redis://b", "lists of servers"),
            ("http://h", "does not begin with"),
            ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
            ("rediss://h?ssl_certfile=/c", "go together"),
            ("sentinel://a/x", "no number"),
            ("redis+socket:///run/redis.sock?virtual_host=x", "no number"),
        ] {
            let error = parse(url).err().unwrap_or_default();
            assert!(error.contains(reason), "{url}: {error}");
        }
        let nameless = Endpoint::parse(&RedisUrl::new("sentinel://a"), true)
            .err()
            .unwrap_or_default();
        assert!(nameless.contains("CELERY_SENTINEL_MASTER_NAME"), "{nameless}");
    }

    /// The clock jumps to the next timer while the sentinels are silent.
    #[tokio::test(start_paused = true)]
    async fn sentinels_that_do_not_answer_are_given_up_within_seconds() {
        let silent: Vec<_> = (0..9)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let urls = silent
            .iter()
            .map(|one| format!("sentinel://{}", one.local_addr().unwrap()));
        let endpoint = parse(&urls.collect::<Vec<_>>().join(";")).unwrap();
        let began = tokio::time::Instant::now();
        let opened = endpoint.open(&AsyncConnectionConfig::new()).await;
        assert!(opened.err().unwrap().is_io_error());
        assert!(began.elapsed().as_secs() <= 5, "{:?}", began.elapsed());
    }
}
