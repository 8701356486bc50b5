//! Finding bytes by words of eight, and by blocks of eight words, without a branch for each byte.

/// One in each byte of a word.
const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// The highest bit of each byte of `word` that is `byte`; above the first of these others may be marked as well.
fn marked(word: u64, byte: u8) -> u64 {
    let differing = word ^ (ONES * u64::from(byte));
    differing.wrapping_sub(ONES) & !differing & (ONES << 7)
}

/// Bytes that are looked for.
pub(super) struct Sought {
    /// Marks the first of them in a word, the lowest byte being the first.
    in_word: fn(u64) -> u64,
    pub(super) is: fn(u8) -> bool,
}

/// What matters outside of texts.
pub(super) const STRUCTURE: Sought = Sought {
    in_word: |word| {
        // Square brackets differ from the others by one bit.
        let curly = word | (ONES * 0x20);
        marked(word, b'"') | marked(curly, b'{') | marked(curly, b'}')
    },
    is: |byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'),
};

/// What matters inside of them.
pub(super) const TEXT: Sought = Sought {
    in_word: |word| marked(word, b'"') | marked(word, b'\\'),
    is: |byte| matches!(byte, b'"' | b'\\'),
};

/// Bytes that are looked at together.
pub(super) const BLOCK: usize = 64;

/// The quotation marks of a block, a bit for each byte, and whether there may be brackets; nothing if there is an escape.
pub(super) fn quotes(block: &[u8; BLOCK]) -> Option<(u64, bool)> {
    const LOW: u64 = ONES * 0x7f;
    let (mut quotes, mut escapes, mut brackets) = (0, 0, 0);
    for (number, word) in block.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let differing = word ^ (ONES * u64::from(b'"'));
        // The highest bit of exactly those bytes that are none but quotation marks.
        let marks = !(((differing & LOW) + LOW) | differing | LOW);
        // Gathers these bits in the highest byte, in their order.
        let gathered = (marks >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        quotes |= gathered << (number * 8);
        escapes |= marked(word, b'\\');
        let curly = word | (ONES * 0x20);
        brackets |= marked(curly, b'{') | marked(curly, b'}');
    }
    (escapes == 0).then_some((quotes, brackets != 0))
}

/// A bit for each byte of a block that `is`.
pub(super) fn exactly(block: &[u8; BLOCK], is: fn(u8) -> bool) -> u64 {
    let bytes = block.iter().enumerate();
    bytes.fold(0, |bits, (number, byte)| bits | u64::from(is(*byte)) << number)
}

impl Sought {
    /// Where the first is, by words: it mostly lies in the first or second, and no branch is taken for each byte.
    pub(super) fn first(&self, bytes: &[u8]) -> Option<usize> {
        let (words, rest) = bytes.as_chunks::<8>();
        for (number, word) in words.iter().enumerate() {
            let found = (self.in_word)(u64::from_le_bytes(*word));
            if found != 0 {
                return Some(number * 8 + found.trailing_zeros() as usize / 8);
            }
        }
        let found = rest.iter().position(|byte| (self.is)(*byte))?;
        Some(words.len() * 8 + found)
    }
}
