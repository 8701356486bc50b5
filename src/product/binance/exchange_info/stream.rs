//! Cutting a document into the elements of `symbols` while it arrives.
//!
//! An element is handed over as soon as its end is there, and forgotten. Of an element only the outermost members are
//! handed over: `null` stands where an object or an array was inside of it, which is most of it and of no use here. Such a
//! part is only looked at for its brackets and texts, 64 bytes at a time. What stands around the list is kept, and is read as a document with
//! an empty list at the end; it is small.

use memchr::memchr2;

use super::ListingError;
use super::words::{BLOCK, STRUCTURE, TEXT, exactly, quotes};

/// The longest element: real ones have some kilobytes.
const LONGEST_ELEMENT: usize = 1 << 20;
/// The most that may stand around the list: in real answers some ten kilobytes.
const LONGEST_REST: usize = 1 << 20;
/// Of brackets deeper than this, and than in any real answer, the kind is not looked at.
const KINDS_KNOWN: usize = 64;
/// Texts up to this length are looked through by words.
const SHORT_TEXT: usize = 16;
const BYTE_ORDER_MARK: [u8; 3] = *b"\xef\xbb\xbf";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// Bytes seen before the first that is no white space.
    begun: bool,
    marks: usize,
    place: Place,
    /// The document without its elements.
    pub(super) rest: Vec<u8>,
    /// What is kept of the element that has begun.
    part: Vec<u8>,
    scan: Scan,
    /// Depth outside of elements.
    depth: usize,
    /// Where in `rest` the last text of the outermost object begins, behind its quotation mark.
    text: usize,
    /// The last text of the outermost object, with nothing but white space behind it, is `symbols`.
    key: Key,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Outside of the list.
    #[default]
    Around,
    /// Inside of it, before an element or, if there was none yet, its end.
    Before { first: bool },
    /// Inside an element.
    Inside(Kind),
    /// Behind an element.
    Behind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An object or an array.
    Nested,
    Text,
    /// A number or a word: it ends where something else begins.
    Bare,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Symbols,
    /// And a colon behind it.
    SymbolsColon,
}

/// Where a scan for the end of an element is.
#[derive(Debug, Default, Clone, Copy)]
struct Scan {
    depth: usize,
    /// Which of the outermost open brackets are square, the innermost of these in the lowest bit.
    square: u64,
    in_text: bool,
    escaped: bool,
}

impl Splitter {
    /// Takes the next bytes, and calls `element` with each element that ends in them.
    pub(super) fn feed(
        &mut self,
        chunk: &[u8],
        mut element: impl FnMut(&[u8]) -> Result<(), ListingError>,
    ) -> Result<(), ListingError> {
        let mut at = 0;
        while at < chunk.len() {
            at = match self.place {
                Place::Around => self.around(chunk, at)?,
                Place::Before { first } => self.before(chunk, at, first)?,
                Place::Behind => self.behind(chunk, at)?,
                Place::Inside(kind) => self.inside(kind, chunk, at, &mut element)?,
            };
        }
        Ok(())
    }

    /// Whether the document begins as an object, as far as it has begun.
    pub(super) fn is_object(&self) -> bool {
        self.rest.first() == Some(&b'{')
    }

    /// Whether the list, if one was begun, has come to its end.
    pub(super) fn is_outside(&self) -> bool {
        self.place == Place::Around
    }

    fn around(&mut self, chunk: &[u8], mut at: usize) -> Result<usize, ListingError> {
        while at < chunk.len() {
            let byte = chunk[at];
            if !self.begun {
                at += 1;
                if self.marks < 3 && byte == BYTE_ORDER_MARK[self.marks] && self.rest.is_empty() {
                    self.marks += 1;
                    continue;
                }
                if byte.is_ascii_whitespace() {
                    self.marks = 3;
                    continue;
                }
                self.begun = true;
                at -= 1;
            }
            if !self.is_object() && !self.rest.is_empty() {
                // No object: only its beginning is of interest.
                self.rest
                    .extend(chunk[at..].iter().take(80_usize.saturating_sub(self.rest.len())));
                return Ok(chunk.len());
            }
            if self.rest.len() >= LONGEST_REST {
                return Err(ListingError::TooLong("what stands around the list"));
            }
            at += 1;
            self.rest.push(byte);
            if self.scan.in_text {
                self.text_byte(byte);
                continue;
            }
            match byte {
                b'"' => {
                    self.scan.in_text = true;
                    self.text = self.rest.len();
                }
                b'{' | b'[' => {
                    if byte == b'[' && self.depth == 1 && self.key == Key::SymbolsColon {
                        self.key = Key::Other;
                        self.place = Place::Before { first: true };
                        return Ok(at);
                    }
                    self.depth += 1;
                    self.key = Key::Other;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.key = Key::Other;
                }
                b':' if self.key == Key::Symbols => self.key = Key::SymbolsColon,
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ => self.key = Key::Other,
            }
        }
        Ok(at)
    }

    /// A byte of a text around the list.
    fn text_byte(&mut self, byte: u8) {
        if self.scan.escaped {
            self.scan.escaped = false;
        } else if byte == b'\\' {
            self.scan.escaped = true;
        } else if byte == b'"' {
            self.scan.in_text = false;
            let text = &self.rest[self.text..self.rest.len() - 1];
            self.key = if self.depth == 1 && text == b"symbols" {
                Key::Symbols
            } else {
                Key::Other
            };
        }
    }

    fn before(&mut self, chunk: &[u8], at: usize, first: bool) -> Result<usize, ListingError> {
        let byte = chunk[at];
        self.scan = Scan::default();
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(at + 1),
            b']' if first => return Ok(self.end_of_list(at)),
            b']' | b',' => return Err(ListingError::Damaged("an element of the list is missing")),
            b'{' | b'[' => self.place = Place::Inside(Kind::Nested),
            b'"' => self.place = Place::Inside(Kind::Text),
            _ => self.place = Place::Inside(Kind::Bare),
        }
        Ok(at)
    }

    fn behind(&mut self, chunk: &[u8], at: usize) -> Result<usize, ListingError> {
        match chunk[at] {
            b' ' | b'\t' | b'\r' | b'\n' => Ok(at + 1),
            b',' => {
                self.place = Place::Before { first: false };
                Ok(at + 1)
            }
            b']' => Ok(self.end_of_list(at)),
            _ => Err(ListingError::Damaged("elements of the list without a comma")),
        }
    }

    fn end_of_list(&mut self, at: usize) -> usize {
        self.rest.push(b']');
        self.place = Place::Around;
        self.scan = Scan::default();
        at + 1
    }

    fn inside(
        &mut self,
        kind: Kind,
        chunk: &[u8],
        at: usize,
        element: &mut impl FnMut(&[u8]) -> Result<(), ListingError>,
    ) -> Result<usize, ListingError> {
        let bytes = &chunk[at..];
        let end = match kind {
            Kind::Bare => {
                let end = bytes
                    .iter()
                    .position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n'));
                self.part.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                end
            }
            Kind::Nested | Kind::Text => self.scan.end(bytes, &mut self.part)?,
        };
        if self.part.len() > LONGEST_ELEMENT {
            return Err(ListingError::TooLong("an element of the list"));
        }
        let Some(end) = end else {
            return Ok(chunk.len());
        };
        self.place = Place::Behind;
        element(&self.part)?;
        self.part.clear();
        Ok(at + end)
    }
}

impl Scan {
    /// How many of the bytes belong to the element, if it ends in them. What is wanted of it goes to `kept`.
    fn end(&mut self, bytes: &[u8], kept: &mut Vec<u8>) -> Result<Option<usize>, ListingError> {
        // Where the part begins that is to be kept; nothing is while the depth is above one.
        let mut from = 0;
        let mut at = 0;
        // Where blocks were given up the next one is looked at byte by byte, so that none is looked at again and again.
        let mut careful = 0;
        loop {
            if self.depth > 1 && !self.escaped && at >= careful {
                at += self.skim(&bytes[at..]);
                careful = at + BLOCK;
            }
            let Some(found) = self.next(bytes, at) else { break };
            at = found + 1;
            match bytes[found] {
                b'"' if self.depth == 0 && !self.in_text => {}
                b'"' => continue,
                open @ (b'{' | b'[') => {
                    self.depth += 1;
                    if self.depth <= KINDS_KNOWN {
                        self.square = self.square << 1 | u64::from(open == b'[');
                    }
                    if self.depth == 2 {
                        kept.extend_from_slice(&bytes[from..found]);
                        kept.extend_from_slice(b"null");
                    }
                    continue;
                }
                close => {
                    if self.depth <= KINDS_KNOWN {
                        if (self.square & 1 == 1) != (close == b']') {
                            return Err(ListingError::Damaged("brackets do not match"));
                        }
                        self.square >>= 1;
                    }
                    self.depth -= 1;
                    if self.depth == 1 {
                        from = at;
                    }
                    if self.depth > 0 {
                        continue;
                    }
                }
            }
            kept.extend_from_slice(&bytes[from..at]);
            return Ok(Some(at));
        }
        if self.depth <= 1 {
            kept.extend_from_slice(&bytes[from..]);
        }
        Ok(None)
    }

    /// How many of the bytes, inside of a part that is not kept, are looked at by blocks: up to the end of that part, a
    /// bracket that does not match, or a block with an escape in it.
    fn skim(&mut self, bytes: &[u8]) -> usize {
        let (blocks, _) = bytes.as_chunks::<BLOCK>();
        for (number, block) in blocks.iter().enumerate() {
            let Some((quotes, has_brackets)) = quotes(block) else {
                return number * BLOCK;
            };
            // A bit for each byte behind an odd number of quotation marks.
            let mut within = quotes;
            for shift in [1, 2, 4, 8, 16, 32] {
                within ^= within << shift;
            }
            if self.in_text {
                within = !within;
            }
            if has_brackets {
                let mut brackets = exactly(block, STRUCTURE.is) & !quotes & !within;
                while brackets != 0 {
                    let at = brackets.trailing_zeros() as usize;
                    if !self.goes_on(block[at]) {
                        self.in_text = false;
                        return number * BLOCK + at;
                    }
                    brackets &= brackets - 1;
                }
            }
            self.in_text = within >> 63 == 1;
        }
        blocks.len() * BLOCK
    }

    /// Takes a bracket if it neither ends the part that is not kept nor is of the wrong kind.
    fn goes_on(&mut self, bracket: u8) -> bool {
        // Deeper than kinds are known is left to the careful way.
        if self.depth >= KINDS_KNOWN {
            return false;
        }
        match bracket {
            b'{' | b'[' => {
                self.depth += 1;
                self.square = self.square << 1 | u64::from(bracket == b'[');
                true
            }
            _ if self.depth > 2 && (self.square & 1 == 1) == (bracket == b']') => {
                self.depth -= 1;
                self.square >>= 1;
                true
            }
            _ => false,
        }
    }

    /// The next bracket, or quotation mark at either end of a text.
    fn next(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        if !self.in_text {
            let found = at + STRUCTURE.first(bytes.get(at..)?)?;
            self.in_text = bytes[found] == b'"';
            return Some(found);
        }
        loop {
            if self.escaped {
                bytes.get(at)?;
                self.escaped = false;
                at += 1;
            }
            let rest = bytes.get(at..)?;
            // Most texts are too short for a search that has to get ready.
            let (near, far) = rest.split_at(rest.len().min(SHORT_TEXT));
            let found = match TEXT.first(near) {
                Some(found) => at + found,
                None => at + near.len() + memchr2(b'"', b'\\', far)?,
            };
            if bytes[found] == b'"' {
                self.in_text = false;
                return Some(found);
            }
            self.escaped = true;
            at = found + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_found_where_they_are_first(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{}[]\x01#Z\x5c\xdb\xfb"[..])], 0..40)
        ) {
            for sought in [STRUCTURE, TEXT] {
                let first = bytes.iter().position(|byte| (sought.is)(*byte));
                prop_assert_eq!(sought.first(&bytes), first);
            }
        }

        #[test]
        fn blocks_say_what_single_bytes_say(
            // Few escapes and brackets, so that there are blocks without.
            inside in prop::collection::vec(
                prop_oneof![
                    300 => prop::sample::select(&b"\"\"abcdefgh,"[..]),
                    20 => prop::sample::select(&b"[]{}"[..]),
                    1 => Just(b'\\'),
                ],
                0..700
            ),
            nested in 1..70_usize,
        ) {
            let bytes = [&b"{\"k\":"[..], &b"[".repeat(nested), &inside, &b"]".repeat(nested), b",\"l\":1}"].concat();
            let (mut kept, mut scan) = (Vec::new(), Scan::default());
            let whole = scan.end(&bytes, &mut kept).map_err(|error| error.to_string());
            let (mut kept_singly, mut scan) = (Vec::new(), Scan::default());
            let mut singly = Ok(None);
            for (at, byte) in bytes.iter().enumerate() {
                singly = scan.end(&[*byte], &mut kept_singly).map_err(|error| error.to_string());
                match &mut singly {
                    Ok(None) => {}
                    Ok(Some(end)) => {
                        *end += at;
                        break;
                    }
                    Err(_) => break,
                }
            }
            prop_assert_eq!(&whole, &singly);
            if whole.is_ok() {
                prop_assert_eq!(kept, kept_singly);
            }
        }
    }
}
