//! `DATABASE_URL` as the Python services write it: SQLAlchemy's form, with the options of its asyncpg dialect.
//!
//! SQLAlchemy has its own URL grammar, in which a password may contain `/`, `?` and `#` unescaped. `tokio_postgres::Config`
//! splits such URLs elsewhere and refuses asyncpg's options, so this is SQLAlchemy's grammar. Options that only tune asyncpg
//! (statement caches, its timeouts) are accepted and ignored; any other unknown option is refused by name, since it might
//! change the server or the encryption.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio_postgres::config::TargetSessionAttrs;
use url::form_urlencoded;

use tradebot_base::secret::Secret;

const PORT: u16 = 5432;
/// Options of asyncpg that have no effect here.
const MEANINGLESS: &[&str] = &[
    "async_fallback",
    "command_timeout",
    "connect_timeout",
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "statement_cache_size",
    "timeout",
];

/// Encryption of the connection, by libpq's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    /// Unencrypted.
    Disable,
    /// Encrypted if the server offers it; also stands for `allow`.
    Prefer,
    /// Encrypted, without verifying the server; acts as `verify-ca` if `PGSSLROOTCERT` is set.
    Require,
    /// Encrypted, with a certificate from a trusted authority.
    VerifyCa,
    /// As `verify-ca`, and the certificate must be for this host.
    VerifyFull,
}

/// A PostgreSQL server, or several of one cluster. Its text form omits user and password.
#[derive(Clone)]
pub struct DatabaseUrl {
    /// Hosts and ports, tried in this order. A host that starts with `/` is a socket directory.
    pub hosts: Vec<(String, u16)>,
    /// The user to connect as.
    pub user: String,
    /// The password, if there is one.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
    /// Encryption.
    pub tls: TlsMode,
    /// File of trusted certificates, from `sslrootcert`.
    pub root_certificates: Option<PathBuf>,
    /// Which of several servers to accept.
    pub target: TargetSessionAttrs,
}

/// Why a URL cannot be used. Never quotes the URL, which holds a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Another database, or no URL.
    #[error("it does not begin with `postgresql+asyncpg://` or `postgresql://`")]
    Scheme,
    /// It has no user.
    #[error("it names no user")]
    User,
    /// An `@` is left in the host.
    #[error("its host is unclear: write `@` in a password as `%40`")]
    Host,
    /// A port that is not a number, or not one port per host.
    #[error("its port is not a number from 1 to 65535, or there is not one port per host")]
    Port,
    /// A percent escape that is not UTF-8.
    #[error("its user, password or database is not UTF-8")]
    Encoding,
    /// An unknown option.
    #[error("its option `{0}` is not supported")]
    Option(String),
    /// An option with an unknown value.
    #[error("its option `{0}` must be one of: {1}")]
    Value(&'static str, &'static str),
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{host}:{port}")?;
        }
        write!(f, "/{}", self.database)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self}, {:?})", self.tls)
    }
}

impl DatabaseUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn parse(url: &Secret) -> Result<Self, UrlError> {
        let (scheme, rest) = url.expose().trim().split_once("://").ok_or(UrlError::Scheme)?;
        if !matches!(scheme.split('+').next(), Some("postgresql" | "postgres")) {
            return Err(UrlError::Scheme);
        }
        let (userinfo, rest) = split_userinfo(rest);
        // What comes before it may be the end of a password, and hosts, database and options are shown.
        if rest.contains('@') {
            return Err(UrlError::Host);
        }
        let (authority, rest) = split_before(rest, &['/', '?']);
        let (path, query) = split_before(rest, &['?']);
        let (user, password) = match userinfo {
            Some((user, password)) => (decode(user)?, password.map(decode).transpose()?),
            None => return Err(UrlError::User),
        };
        if user.is_empty() {
            return Err(UrlError::User);
        }
        let database = decode(path.strip_prefix('/').unwrap_or(path))?;
        let database = if database.is_empty() {
            user.clone()
        } else {
            database
        };
        let mut parsed = Self {
            hosts: vec![host_and_port(authority)?],
            user,
            password: password.map(Secret::new),
            database,
            tls: TlsMode::Prefer,
            root_certificates: None,
            target: TargetSessionAttrs::Any,
        };
        parsed.read_options(query.strip_prefix('?').unwrap_or(query))?;
        Ok(parsed)
    }

    fn read_options(&mut self, query: &str) -> Result<(), UrlError> {
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "host" => hosts.extend(value.split(',').map(str::to_owned)),
                "port" => ports.extend(value.split(',').map(str::to_owned)),
                "ssl" | "sslmode" => self.tls = tls_mode(&value)?,
                "sslrootcert" => self.root_certificates = Some(PathBuf::from(&*value)),
                "target_session_attrs" => self.target = target(&value)?,
                name if MEANINGLESS.contains(&name) => {}
                name => return Err(UrlError::Option(name.chars().take(40).collect())),
            }
        }
        if !hosts.is_empty() {
            let hosts = hosts.iter().map(|host| host_and_port(host));
            self.hosts = hosts.collect::<Result<_, _>>()?;
        }
        if ports.len() == 1 {
            ports = vec![ports.remove(0); self.hosts.len()];
        }
        if !ports.is_empty() && ports.len() != self.hosts.len() {
            return Err(UrlError::Port);
        }
        for ((_, port), text) in self.hosts.iter_mut().zip(ports) {
            *port = parse_port(&text)?;
        }
        Ok(())
    }
}

/// Splits off the part before the `@`. A user may contain an `@`, a password may not.
fn split_userinfo(rest: &str) -> (Option<(&str, Option<&str>)>, &str) {
    let user_end = rest.find([':', '/']).unwrap_or(rest.len());
    let (user, behind) = rest.split_at(user_end);
    if let Some(behind) = behind.strip_prefix(':')
        && let Some((password, rest)) = behind.split_once('@')
    {
        return (Some((user, Some(password))), rest);
    }
    match user.rsplit_once('@') {
        Some((user, _)) => (Some((user, None)), &rest[user.len() + 1..]),
        None => (None, rest),
    }
}

fn split_before<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// Reads `host`, `host:port`, `[v6]`, `[v6]:port`, a socket directory, or nothing.
fn host_and_port(text: &str) -> Result<(String, u16), UrlError> {
    if text.starts_with('/') {
        return Ok((text.to_owned(), PORT));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or(UrlError::Host)?;
            (
                host,
                behind
                    .strip_prefix(':')
                    .or(Some(behind).filter(|it| !it.is_empty())),
            )
        }
        None => text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };
    // Such characters are in no host. A host option may have them escaped.
    if host.contains(['@', '%', ' ']) {
        return Err(UrlError::Host);
    }
    let host = if host.is_empty() { "localhost" } else { host };
    let port = port.filter(|it| !it.is_empty()).map_or(Ok(PORT), parse_port)?;
    Ok((host.to_owned(), port))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    text.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)
}

fn decode(text: &str) -> Result<String, UrlError> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| UrlError::Encoding)?.into_owned())
}

fn tls_mode(value: &str) -> Result<TlsMode, UrlError> {
    Ok(match value.replace('_', "-").as_str() {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => {
            return Err(UrlError::Value(
                "ssl",
                "disable, allow, prefer, require, verify-ca, verify-full",
            ));
        }
    })
}

fn target(value: &str) -> Result<TargetSessionAttrs, UrlError> {
    Ok(match value {
        "any" | "prefer-standby" => TargetSessionAttrs::Any,
        "primary" | "read-write" => TargetSessionAttrs::ReadWrite,
        "standby" | "read-only" => TargetSessionAttrs::ReadOnly,
        _ => {
            return Err(UrlError::Value(
                "target_session_attrs",
                "any, primary, standby, read-write, read-only, prefer-standby",
            ));
        }
    })
}

#[cfg(test)]
#[path = "database_url/tests.rs"]
mod tests;
