//! Text from elsewhere, made fit to be shown.

use std::borrow::Cow;

/// The text with its control characters escaped, so that a name from a message cannot move a terminal's cursor or begin a
/// line of the log.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(printable("çok \"güzel\" \\ 币"), "çok \"güzel\" \\ 币");
        assert_eq!(
            printable("a\nb\u{1b}[2J\u{7f}\u{85}\u{6}"),
            r"a\nb\u{1b}[2J\u{7f}\u{85}\u{6}"
        );
    }
}
