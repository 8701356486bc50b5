//! Content negotiation: which encoding (`Accept-Encoding`, RFC 9110, 12.5.3), and whether the client has the body already
//! (conditions, 13.1).

use std::time::SystemTime;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tradebot_base::exposition;

/// A content coding that bodies are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentCoding {
    Identity,
    Gzip,
    Zstd,
    Brotli,
}

impl ContentCoding {
    /// All codings, the smallest bodies last.
    pub(super) const ALL: [Self; 4] = [Self::Identity, Self::Gzip, Self::Zstd, Self::Brotli];

    /// The value of `Content-Encoding`.
    pub(super) fn token(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
            Self::Brotli => Some("br"),
        }
    }

    fn named(name: &str) -> Option<Self> {
        let is = |token| name.eq_ignore_ascii_case(token);
        match name {
            _ if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            _ if is("br") => Some(Self::Brotli),
            _ if is("zstd") => Some(Self::Zstd),
            _ if is("identity") => Some(Self::Identity),
            _ => None,
        }
    }
}

/// The weight a client gives each coding, in thousandths. 0 means not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AcceptEncoding([u16; 4]);

impl AcceptEncoding {
    /// Reads `Accept-Encoding` and skips malformed items. Without the header, or if it is empty, only identity is
    /// acceptable.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let (mut named, mut others) = ([None; 4], None);
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
                let Some(quality) = quality(parameters) else {
                    continue;
                };
                let name = name.trim();
                if name == "*" {
                    others = Some(quality);
                } else if let Some(coding) = ContentCoding::named(name) {
                    named[coding as usize] = Some(quality);
                }
            }
        }
        let mut weights = named.map(|quality| quality.or(others).unwrap_or(0));
        // Identity is acceptable unless excluded. If it is not named, every named coding ranks above it.
        if named[0].is_none() && others != Some(0) {
            weights[0] = 1;
        }
        Self(weights)
    }

    /// The coding of the response, among those that are `ready`: the highest weight, then the smallest body. `None` if
    /// the client accepts none of them.
    pub(super) fn choose(self, ready: impl Fn(ContentCoding) -> bool) -> Option<ContentCoding> {
        let wanted = |coding: &ContentCoding| self.0[*coding as usize];
        let mut acceptable = ContentCoding::ALL.into_iter().filter(|coding| wanted(coding) > 0);
        // `max_by_key` returns the last of equals, the smallest.
        if self.is_identity() {
            return acceptable.find(|coding| *coding == ContentCoding::Identity);
        }
        acceptable.filter(|coding| ready(*coding)).max_by_key(wanted)
    }

    /// Whether only identity is acceptable.
    pub(super) fn is_identity(self) -> bool {
        self.0[1..] == [0; 3] && self.0[0] > 0
    }
}

/// A weight in thousandths: 1000 if none is given, `None` if it is malformed.
fn quality(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let text = parameters
        .strip_prefix(['q', 'Q'])?
        .trim_start()
        .strip_prefix('=')?;
    exposition::quality(text)
}

/// What the conditions of a request mean for the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conditions {
    /// They hold, or there are none: the response has the body.
    Hold,
    /// The client has the body already: 304.
    NotModified,
    /// The client asked for another body: 412.
    Failed,
}

impl Conditions {
    /// Evaluates the conditions in the order of RFC 9110, 13.2.2. Any of `tags` (quoted, strong) may be the body's.
    pub(super) fn of(headers: &HeaderMap, tags: &[&HeaderValue], modified: Option<SystemTime>) -> Self {
        let named = |header: &HeaderName, weakly| {
            headers.contains_key(header).then(|| {
                let mut values = headers.get_all(header).iter();
                values.any(|value| {
                    tags.iter()
                        .any(|tag| names(value.as_bytes(), tag.as_bytes(), weakly))
                })
            })
        };
        let unmodified_since = |header| Some(modified? <= date(headers, header)?);
        let matches = named(&header::IF_MATCH, false);
        if matches.or_else(|| unmodified_since(header::IF_UNMODIFIED_SINCE)) == Some(false) {
            return Self::Failed;
        }
        let has = named(&header::IF_NONE_MATCH, true);
        if has.or_else(|| unmodified_since(header::IF_MODIFIED_SINCE)) == Some(true) {
            return Self::NotModified;
        }
        Self::Hold
    }
}

/// The date in a header that comes once.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// Whether a list of tags is `*` or contains `tag`; `weakly` if a weak tag counts as well.
fn names(list: &[u8], tag: &[u8], weakly: bool) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    // A tag may contain a comma, so the list cannot be split at commas.
    loop {
        while let [b',' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        let weak = rest.strip_prefix(b"W/");
        let opaque = weak.unwrap_or(rest);
        let Some(inner) = opaque.strip_prefix(b"\"") else {
            return false;
        };
        let Some(end) = inner.iter().position(|byte| *byte == b'"') else {
            return false;
        };
        if &opaque[..end + 2] == tag && (weakly || weak.is_none()) {
            return true;
        }
        rest = &inner[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(value: &'static str) -> Option<ContentCoding> {
        let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        AcceptEncoding::of(&headers).choose(|_| true)
    }

    #[test]
    fn the_coding_most_wished_for_answers_and_of_equals_the_smallest() {
        use ContentCoding::{Brotli, Gzip, Identity, Zstd};
        for (value, coding) in [
            ("", Some(Identity)),
            ("gzip", Some(Gzip)),
            ("X-GZIP", Some(Gzip)),
            ("gzip, deflate, br, zstd", Some(Brotli)),
            ("gzip, deflate, zstd", Some(Zstd)),
            ("br;q=0.1, gzip;q=0.9", Some(Gzip)),
            ("br; q=0.5 , zstd ;Q = 0.500", Some(Brotli)),
            ("deflate, compress", Some(Identity)),
            ("*", Some(Brotli)),
            ("*;q=0.5, br;q=0", Some(Zstd)),
            ("gzip;q=0", Some(Identity)),
            ("identity, gzip;q=0.5", Some(Identity)),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("*;q=0, identity", Some(Identity)),
            ("identity;q=0, gzip;q=0.001", Some(Gzip)),
            ("gzip;q=1.001, br;q=2", Some(Identity)),
            ("gzip;q=0.1234", Some(Identity)),
            ("gzip;q=", Some(Identity)),
            (",, gzip ,", Some(Gzip)),
        ] {
            assert_eq!(chosen(value), coding, "{value}");
        }
        assert_eq!(
            AcceptEncoding::of(&HeaderMap::new()).choose(|_| true),
            Some(Identity)
        );
    }

    #[test]
    fn what_is_not_ready_is_not_chosen() {
        let value = HeaderValue::from_static("br, gzip;q=0.5");
        let accepted = AcceptEncoding::of(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]));
        assert_eq!(
            accepted.choose(|coding| coding != ContentCoding::Brotli),
            Some(ContentCoding::Gzip)
        );
        assert_eq!(
            accepted.choose(|coding| coding == ContentCoding::Identity),
            Some(ContentCoding::Identity)
        );
    }

    #[test]
    fn a_tag_is_found_in_lists_weak_or_strong() {
        let tag = HeaderValue::from_static("\"a,b-gz\"");
        let named = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]);
            Conditions::of(&headers, &[&tag], None) == Conditions::NotModified
        };
        for value in [
            "\"a,b-gz\"",
            "W/\"a,b-gz\"",
            "\"x\", W/\"y\" ,\t\"a,b-gz\"",
            "\"\",\"a,b-gz\"",
            "*",
            " * ",
        ] {
            assert!(named(value), "{value}");
        }
        for value in [
            "",
            "a,b-gz",
            "\"a,b\"",
            "w/\"a,b-gz\"",
            "\"a,b-gz",
            "x, \"a,b-gz\"",
            "**",
        ] {
            assert!(!named(value), "{value}");
        }
        assert_eq!(Conditions::of(&HeaderMap::new(), &[&tag], None), Conditions::Hold);
    }
}
