//! What of a request decides which bytes answer it: `Accept-Encoding` (RFC 9110, 12.5.3) and `If-None-Match`
//! (13.1.2).

use hyper::header::{self, HeaderMap, HeaderValue};

/// A content coding that answers are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Zstd,
    Brotli,
}

impl Coding {
    /// All, the ones that make the fewest bytes last.
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

/// How much a client wants each coding, in thousandths; 0 is a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wishes([u16; 4]);

impl Wishes {
    /// Reads `Accept-Encoding`. Without it, or when it is empty, only identity is wished for. What cannot be read is
    /// skipped.
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
                } else if let Some(coding) = Coding::named(name) {
                    named[coding as usize] = Some(quality);
                }
            }
        }
        let mut wishes = named.map(|quality| quality.or(others).unwrap_or(0));
        // Identity is acceptable unless it is excluded; where it is not named, everything named goes before it.
        if named[0].is_none() && others != Some(0) {
            wishes[0] = 1;
        }
        Self(wishes)
    }

    /// The coding to answer in, of those that `ready` has: the most wished for, then the smallest. `None` when every
    /// one of them was refused.
    pub(super) fn choose(self, ready: impl Fn(Coding) -> bool) -> Option<Coding> {
        let wanted = |coding: &Coding| self.0[*coding as usize];
        let mut acceptable = Coding::ALL.into_iter().filter(|coding| wanted(coding) > 0);
        // The last of equal ones.
        if self.is_identity() {
            return acceptable.find(|coding| *coding == Coding::Identity);
        }
        acceptable.filter(|coding| ready(*coding)).max_by_key(wanted)
    }

    /// Whether nothing but identity is wished for.
    pub(super) fn is_identity(self) -> bool {
        self.0[1..] == [0; 3] && self.0[0] > 0
    }
}

/// A weight in thousandths: 1000 if none is given, `None` if it cannot be read.
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

/// Whether `If-None-Match` names `tag` (quoted, strong), by weak comparison, or is `*`.
pub(super) fn none_match(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let mut values = headers.get_all(header::IF_NONE_MATCH).iter();
    values.any(|value| names(value.as_bytes(), tag.as_bytes()))
}

fn names(list: &[u8], tag: &[u8]) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    // A comma may stand inside a tag, so the list is read tag by tag.
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

    fn chosen(value: &'static str) -> Option<Coding> {
        let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        Wishes::of(&headers).choose(|_| true)
    }

    #[test]
    fn the_coding_most_wished_for_answers_and_of_equals_the_smallest() {
        use Coding::{Brotli, Gzip, Identity, Zstd};
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
        assert_eq!(Wishes::of(&HeaderMap::new()).choose(|_| true), Some(Identity));
    }

    #[test]
    fn what_is_not_ready_is_not_chosen() {
        let value = HeaderValue::from_static("br, gzip;q=0.5");
        let wishes = Wishes::of(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]));
        assert_eq!(
            wishes.choose(|coding| coding != Coding::Brotli),
            Some(Coding::Gzip)
        );
        assert_eq!(
            wishes.choose(|coding| coding == Coding::Identity),
            Some(Coding::Identity)
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
