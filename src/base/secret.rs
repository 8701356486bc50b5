//! Values that must not be printed: keys, passwords, and Redis URLs, which may contain one.

use std::fmt;

use zeroize::Zeroizing;

/// A key or password. It has no `Display`, `Debug` hides it, and its memory is wiped on drop.
///
/// Copies that a library makes for a request or a connection are not wiped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The plain text. Keep it out of logs and errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A Redis URL. `Debug` and `Display` hide its password, [`expose`](Self::expose) does not.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    url: String,
    master_name: Option<String>,
    sentinel_login: (Option<String>, Option<String>),
}

impl RedisUrl {
    /// Wraps a URL. Opening a connection validates it.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            master_name: None,
            sentinel_login: (None, None),
        }
    }

    /// Adds the name under which sentinels know the master; only `sentinel://` URLs need it.
    #[must_use]
    pub fn with_master_name(self, master_name: Option<String>) -> Self {
        Self { master_name, ..self }
    }

    /// The name under which sentinels know the master.
    #[must_use]
    pub fn master_name(&self) -> Option<&str> {
        self.master_name.as_deref()
    }

    /// Adds user and password of the sentinels themselves; those in the URL are the master's.
    #[must_use]
    pub fn with_sentinel_login(self, user: Option<String>, password: Option<String>) -> Self {
        Self {
            sentinel_login: (user, password),
            ..self
        }
    }

    /// User and password of the sentinels. Keep them out of logs and errors.
    #[must_use]
    pub fn sentinel_login(&self) -> (Option<&str>, Option<&str>) {
        (self.sentinel_login.0.as_deref(), self.sentinel_login.1.as_deref())
    }

    /// The plain URL. Keep it out of logs and errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.url
    }
}

impl fmt::Display for RedisUrl {
    /// The URL without user information and query: kombu accepts credentials in both.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A semicolon separates servers, unless it is part of an unescaped password.
        let is_list = self.url.split(';').all(|one| one.contains("://"));
        let separator = if is_list { ';' } else { '\0' };
        for (number, one) in self.url.split(separator).enumerate() {
            if number > 0 {
                f.write_str(";")?;
            }
            let Some((scheme, rest)) = one.split_once("://") else {
                f.write_str("<not a URL>")?;
                continue;
            };
            let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
            // An unescaped password may contain a question mark.
            if query.contains('@') {
                write!(f, "{scheme}://***")?;
                continue;
            }
            // An unescaped password may contain a slash or an `@`: cut at the last `@`.
            match rest.rsplit_once('@') {
                Some((_, place)) => write!(f, "{scheme}://***@{place}")?,
                None => write!(f, "{scheme}://{rest}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let shown = format!("{:?} {:#?}", Secret::new("canary"), Some(Secret::new("canary")));
        assert!(!shown.contains("canary"), "{shown}");
        assert_eq!(Secret::new("canary").expose(), "canary");
    }

    #[test]
    fn a_password_never_shows() {
        for url in [
            "redis://:canary@h:6379/0",
            "rediss://user:canary@h:6379/0",
            "redis://:can@ary/canary@h:6379/0",
            "redis://h:6379/0?password=canary",
            "redis://:canary?x@h:6379/0",
            "redis://:x@canary#x@h:6379/0",
            "canary",
            "redis://:can;canary@h:6379/0",
            "redis://:canary;ary@h:6379/0",
            "sentinel://:canary@a:1;sentinel://:canary@b:1/0",
        ] {
            let shown = format!("{} {:?}", RedisUrl::new(url), RedisUrl::new(url));
            assert!(!shown.contains("canary"), "{shown}");
        }
        assert_eq!(
            RedisUrl::new("redis://:x@h:6379/0").to_string(),
            "redis://***@h:6379/0"
        );
        assert_eq!(
            RedisUrl::new("sentinel://:x@a:1;sentinel://b:2/0").to_string(),
            "sentinel://***@a:1;sentinel://b:2/0"
        );
        assert_eq!(RedisUrl::new("redis://h:6379/1").to_string(), "redis://h:6379/1");
    }
}
