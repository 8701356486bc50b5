//! Content negotiation: which encoding (`Accept-Encoding`, RFC 9110, 12.5.3), and whether a 304 (`If-None-Match`,
//! 13.1.2).

use hyper::header::{self, HeaderMap, HeaderValue};

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
        .strip_prefix('=')?
        .trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Whether `If-None-Match` is `*` or contains `tag` (quoted, strong), by weak comparison.
pub(super) fn none_match(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let mut values = headers.get_all(header::IF_NONE_MATCH).iter();
    values.any(|value| names(value.as_bytes(), tag.as_bytes()))
}

fn names(list: &[u8], tag: &[u8]) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    // A tag may contain a comma, so the list cannot be split at commas.
    loop {
        while let [b',' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        let opaque = rest.strip_prefix(b"W/").unwrap_or(rest);
        let Some(inner) = opaque.strip_prefix(b"\"") else {
            return false;
        };
        let Some(end) = inner.iter().position(|byte| *byte == b'"') else {
            return false;
        };
        if &opaque[..end + 2] == tag {
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
            none_match(&headers, &tag)
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
        assert!(!none_match(&HeaderMap::new(), &tag));
    }
}
