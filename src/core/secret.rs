//! Values that must not be printed: a Redis URL with its password.

use std::fmt;

/// A Redis URL. `Debug` and `Display` replace user secrets, [`expose`](Self::expose) does not.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Wraps a URL; it is checked when a connection is opened.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL as it is, for opening a connection. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RedisUrl {
    /// The URL with everything before the `@` of its authority replaced, and its query left out:
    /// kombu accepts credentials in both places.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return f.write_str("<not a URL>");
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        // The password may itself hold a slash or an `@` that was not escaped: cut at the last `@`.
        match rest.rsplit_once('@') {
            Some((_, place)) => write!(f, "{scheme}://***@{place}"),
            None => write!(f, "{scheme}://{rest}"),
        }
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
    fn a_password_never_shows() {
        for url in [
            "redis://:canary@h:6379/0",
            "rediss://user:canary@h:6379/0",
            "redis://:can@ary/canary@h:6379/0",
            "redis://h:6379/0?password=canary",
            "canary",
        ] {
            let shown = format!("{} {:?}", RedisUrl::new(url), RedisUrl::new(url));
            assert!(!shown.contains("canary"), "{shown}");
        }
        assert_eq!(
            RedisUrl::new("redis://:x@h:6379/0").to_string(),
            "redis://***@h:6379/0"
        );
        assert_eq!(RedisUrl::new("redis://h:6379/1").to_string(), "redis://h:6379/1");
    }
}
